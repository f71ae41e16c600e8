"""After its first call nothing is traced again: where it would be, the argument that changed is named."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxkit import checks
from jaxkit.errors import UsageError


class Guard(NamedTuple):
    """Watches functions for traces.

    watch:  (name, function) -> the function; its arguments are noted whenever it is traced
    arm:    (name, on=True) -> None; while on, a trace of it with other arguments than before is an error
    placed: (name, tree) -> None; notes how its arrays are split over devices, and that they stay so
    """

    watch: Callable[[str, Callable[..., Any]], Callable[..., Any]]
    arm: Callable[..., None]
    placed: Callable[[str, Any], None]


def guard() -> Guard:
    """A guard for one loop.

    Raises:
        UsageError: by a watched function, traced once armed: names the argument, what it was and what came.

    Example:
        >>> watcher = guard()
        >>> update = jax.jit(watcher.watch("update", lambda state, batch: state))
        >>> _ = update(1.0, {"image": jax.numpy.zeros(4)})
        >>> watcher.arm("update")
        >>> update(1.0, {"image": jax.numpy.zeros(3)})
        Traceback (most recent call last):
        jaxkit.errors.UsageError: update: was compiled for batch.image float32[4], now came float32[3]; ...
    """
    armed: set[str] = set()
    shardings: dict[str, dict[str, Any]] = {}

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        seen: list[dict[str, str]] = []
        names = list(inspect.signature(function).parameters)

        def noted(*arguments: Any) -> Any:
            signature = _signature(names, arguments)
            if name in armed and signature not in seen:
                raise UsageError(f"{name}: {_change(seen, signature)}")
            seen.append(signature)
            return function(*arguments)

        return noted

    def arm(name: str, on: bool = True) -> None:
        (armed.add if on else armed.discard)(name)

    def placed(name: str, tree: Any) -> None:
        found = {checks.path_of(path): leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        ranks = {checks.path_of(path): leaf.ndim for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        before = shardings.setdefault(name, found)
        for path, sharding in found.items():
            if path in before and not sharding.is_equivalent_to(before[path], ranks[path]):
                raise UsageError(
                    f"{name}: {path} was put on the devices as {before[path]}, and came out as {sharding};"
                    " each step would be compiled anew. Does config.layout fit the update?"
                )

    return Guard(watch, arm, placed)


def alike(batches: Sequence[Any]) -> None:
    """Checks that the batches of one call, which are stacked, have the same shapes and dtypes.

    Raises:
        UsageError: names the argument, what it is in the first, and what came.

    Example:
        >>> alike([{"x": jax.numpy.zeros(4)}, {"x": jax.numpy.zeros(3)}])
        Traceback (most recent call last):
        jaxkit.errors.UsageError: update: was compiled for batch.x float32[4], now came float32[3]; ...
    """
    # Names take longer to make than all of this, so they are made where there is something to say.
    kinds = [{name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} for batch in batches]
    for batch, kind in zip(batches, kinds):
        if kind != kinds[0]:
            first, came = (_signature(["batch"], (found,)) for found in (batches[0], batch))
            raise UsageError(f"update: {_change([first], came)}")


def _signature(names: Sequence[str], arguments: tuple[Any, ...]) -> dict[str, str]:
    found = {}
    for name, argument in zip(names, arguments):
        for path, leaf in jax.tree_util.tree_leaves_with_path(argument):
            inner = checks.path_of(path)
            # Not whether it is weakly typed: a state's first leaves may be, and those of the next step are not.
            found[f"{name}.{inner}" if inner else name] = checks.describe(leaf)
    return found


def _change(seen: list[dict[str, str]], came: Mapping[str, str]) -> str:
    """The first difference to what is most alike of what was seen."""
    differing = lambda old: [path for path in {**old, **came} if old.get(path) != came.get(path)]
    nearest = min(seen, key=lambda old: len(differing(old)), default={})
    changed = differing(nearest)
    path = changed[0]
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return (
        f"was compiled for {path} {nearest.get(path, 'that was not there')}, now came"
        f" {came.get(path, 'nothing')}{more}; every step must have arguments of the same shapes and dtypes"
    )
