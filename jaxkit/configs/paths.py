"""Paths of a config ("optimizer.weight_decay", "writers.0.call"): comparing and changing what is there."""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxkit.configs.frozen import Frozen, freeze, no_field, place, text, thaw
from jaxkit.configs.parsing import parse
from jaxkit.errors import UsageError, did_you_mean


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "(missing)"

    def __repr__(self) -> str:
        return self.value


MISSING = Missing.MISSING
"""Stands in a `Difference` for the value that one side does not have."""


class Difference(NamedTuple):
    """One path at which two configs differ; a side that has nothing there has `MISSING`."""

    path: str
    a: Any
    b: Any


def differences(a: Any, b: Any) -> list[Difference]:
    """Where two configs differ, types included, in the order of the paths; none where the fingerprints agree.

    The values are as one writes them: plain dicts and tuples.

    Raises:
        UsageError: see `freeze`.

    Example:
        >>> differences({"seed": 1, "model": {"width": 8}}, {"seed": 1.0, "model": {"width": 8, "depth": 2}})
        [Difference(path='model.depth', a=(missing), b=2), Difference(path='seed', a=1, b=1.0)]
    """
    return [Difference(path, *map(thaw, values)) for path, values in differing([a, b]).items()]


def differing(trees: Sequence[Any]) -> dict[str, list[Any]]:
    """The paths at which any of several configs differ, with what each has there, `MISSING` where that is nothing.

    Where some have a dict and others a value, that is one path, and those at which the dicts differ are others.

    Raises:
        UsageError: see `freeze`.

    Example:
        >>> differing([{"rate": {"peak": 3.0}}, {"rate": {"peak": 1.0}}, {"rate": 1.0}])["rate.peak"]
        [3.0, 1.0, (missing)]
    """
    whole = [freeze(tree) for tree in trees]
    return {".".join(path): [_at(tree, path) for tree in whole] for path in _differing(whole, ())}


def _differing(values: Sequence[Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for value in values:
        kind, inside = _opened(value)
        alike.setdefault(kind, []).append(inside)
    if len(alike) > 1:
        yield path
    for group in alike.values():
        for key in sorted({key for inside in group for key in inside}):
            yield from _differing([inside.get(key, MISSING) for inside in group], (*path, key))


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = _opened(value)[1].get(key, MISSING)
    return value


def _opened(value: Any) -> tuple[Any, Mapping[str, Any]]:
    """What values must have in common not to differ as they stand, and what in them is compared in its turn."""
    if isinstance(value, Frozen):
        return Frozen, value
    # A tuple of numbers is compared, and shown, whole.
    if type(value) is tuple and any(isinstance(item, Frozen) for item in value):
        return len(value), {str(n): item for n, item in enumerate(value)}
    return (MISSING if value is MISSING else text(value)), {}


def replace(config: Any, values: Mapping[str, Any]) -> Frozen:
    """A config with other values at some paths, each of which it must have: {"optimizer.weight_decay": 0.0}.

    Raises:
        UsageError: there is no such path (with the nearest name), or a config cannot hold the value.

    Example:
        >>> replace({"seed": 0, "model": {"width": 8}}, {"model.width": 4})
        Frozen({'model': {'width': 4}, 'seed': 0})
    """
    config = freeze(config)
    for path, value in values.items():
        config = _change(config, path, lambda old, where: value)  # noqa: B023  called at once
    return config


def check_paths(paths: Sequence[str], *trees: Any, flag: str) -> None:
    """Checks that each path is in at least one of some configs.

    Raises:
        UsageError: one is in none; with the flag that named it, and the nearest name in the last config.

    Example:
        >>> check_paths(["model.width"], {"model": {}}, {"model": {"width": 8}}, flag="--path")
    """
    for path in paths:
        for tree in trees:
            try:
                replace(tree, {path: None})
                break
            except UsageError as error:
                problem = error
        else:
            raise UsageError(f"{flag}={path}: {problem}")


def override(config: Any, overrides: Sequence[tuple[str, str]]) -> Frozen:
    """A config changed by (path, text) from a command line; the text is read as the type that stands there.

    Raises:
        UsageError: there is no such path (with the nearest name), or the text is not of that type.

    Example:
        >>> override({"rate": 0.1, "steps": 10}, [("rate", "1")])
        Frozen({'rate': 1.0, 'steps': 10})
    """
    config = freeze(config)
    for path, words in overrides:
        config = _change(config, path, lambda old, where: parse(words, old, where))  # noqa: B023  called at once
    return config


def _change(config: Frozen, path: str, new: Callable[[Any, str], Any]) -> Frozen:
    where = place(config)
    return freeze(_changed(config, path.split("."), new, where), where=where)


def _changed(node: Any, path: Sequence[str], new: Callable[[Any, str], Any], where: str) -> Any:
    if not path:
        return new(node, where)
    name, *rest = path
    below = f"{where}.{name}"
    if isinstance(node, Frozen):
        if name not in node:
            function = node.get("call", node.get("function"))
            near = did_you_mean(name, node) != "."
            more = f"; what else {function} takes is added in the config file" if function and not near else ""
            raise UsageError(no_field(node, name) + more)
        return {**node, name: _changed(node[name], rest, new, below)}
    if type(node) is not tuple:
        raise UsageError(f"{where}: is {node!r}, so there is no {below}")
    if not (name.isdecimal() and int(name) < len(node)):
        raise UsageError(f"{where}: has no item {name!r}; it has {len(node)}, counted from 0")
    items = list(node)
    items[int(name)] = _changed(items[int(name)], rest, new, below)
    return tuple(items)
