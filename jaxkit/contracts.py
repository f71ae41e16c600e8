"""What the parts of an experiment are, and return, held to the contracts in `types`."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import checks, errors
from jaxkit.types import Layout, Recipe, State


def model(given: Any) -> None:
    """Checks that it is a Model, or has the same two functions.

    Raises:
        TypeError: it is something else, such as a Linen module.

    Example:
        >>> from jaxkit import models; model(models.mlp(num_classes=10))
    """
    # A Linen module has `init` and `apply` too, of another signature; it is known without importing Flax.
    is_linen = hasattr(given, "init_with_output")
    if is_linen or not (callable(getattr(given, "init", None)) and callable(getattr(given, "apply", None))):
        how = "; jaxkit.models.from_linen(module) makes one" if is_linen else ", such as jaxkit.models.mlp gives"
        raise TypeError(f"model: came {checks.describe(given)}, wanted a Model{how}")


def outputs(returned: Any) -> tuple[Any, Any]:
    """What a model's `apply` returned: (outputs, extra).

    Raises:
        TypeError: it is no pair.

    Example:
        >>> outputs((jnp.zeros((8, 10)), {}))[1]
        {}
    """
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"model.apply: came {checks.describe(returned)}, wanted (outputs, extra)")
    return returned


def optimizer(given: Any) -> None:
    """Checks that it is an optimizer of optax, or has the same two functions.

    Raises:
        TypeError: it is something else, such as a function that would make one.

    Example:
        >>> import optax; optimizer(optax.sgd(0.1))
    """
    if not (callable(getattr(given, "init", None)) and callable(getattr(given, "update", None))):
        how = f"; call it: {given.__name__}(...)" if hasattr(given, "__name__") else ", such as optax.adam(1e-3)"
        raise TypeError(f"optimizer: came {checks.describe(given)}, wanted (init, update){how}")


def losses(values: Any, shape: tuple[int, ...]) -> None:
    """Checks what a loss returned: floats of that shape.

    Raises:
        ValueError: another shape, such as that of their mean.
        TypeError: not an array of floats.

    Example:
        >>> losses(jnp.zeros(8, jnp.float32), (8,))
    """
    if checks.shape_of("loss", values) != shape:
        axes = ", ".join(map(str, shape))
        raise ValueError(
            f"loss: came {checks.describe(values)}, wanted shape [{axes}]: one number for each, not their mean"
        )
    checks.dtypes(loss=(values, jnp.floating))


def metrics(given: Any, *taken: str) -> None:
    """Checks that metrics are {name: function}, none with a name that is taken.

    Raises:
        TypeError: something else, or a function that does not take (outputs, targets, mask).
        ValueError: a name that is taken.

    Example:
        >>> metrics({"error": lambda outputs, targets, mask=None: None}, "loss")
    """
    named = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    if not named or not all(map(callable, given.values())):
        raise TypeError(
            f"metrics: came {checks.describe(given)}, wanted {{name: function}}: {{'accuracy': metrics.accuracy}}"
        )
    for name, function in given.items():
        try:
            inspect.signature(function).bind(None, None, None)
        except TypeError as error:
            raise TypeError(
                f"metrics: {name!r} cannot be called with (outputs, targets, mask): {error};"
                " what more it takes, functools.partial gives"
            ) from None
        except ValueError:
            pass  # a signature that cannot be looked up
    for name in taken:
        unmeasured(name, given)


def unmeasured(name: str, metrics: Mapping[str, Any]) -> None:
    """Checks that no metric has a name under which something else is measured.

    Raises:
        ValueError: one has.

    Example:
        >>> unmeasured("loss", {"accuracy": None})
    """
    if name in metrics:
        raise ValueError(f"metrics: came one called {name!r}, which is measured anyway: give it another name")


def recipe(given: Any) -> None:
    """Checks that it is a Recipe, of functions; its sources are `data.schema.check_sources`'s.

    Raises:
        UsageError: names the field that is off.
    """
    if not isinstance(given, Recipe):
        raise checks.UsageError(
            f"recipe(config): came {checks.describe(given)}, wanted a Recipe: return jaxkit.types.Recipe(data=...)"
        )
    for name in ("init", "update", "evaluate", "predict"):
        if not callable(getattr(given, name)):
            came = checks.describe(getattr(given, name))
            raise checks.UsageError(f"recipe(config): {name}: came {came}, wanted a function")
    if not isinstance(given.layout, Layout):
        came = checks.describe(given.layout)
        raise checks.UsageError(
            f"recipe(config): layout: came {came}, wanted a Layout, such as jaxkit.parallel.jit()"
        )


def named(part: str, function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns; an error in it becomes one line that names the part, and the line of the user's.

    Raises:
        UsageError: it raised something.
    """
    try:
        return function(*args)
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        # These two say what is wrong by themselves; of a KeyError the text is the key alone.
        kind = "" if line and isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
        raise checks.UsageError(f"{part}: {kind}{line}{called_for(line)}{errors.place(error)}") from error


def called_for(line: str) -> str:
    """How the line of an error goes on that is usual where a config has "function" for "call"; "" after others.

    Example:
        >>> called_for("affine() takes 0 positional arguments but 2 were given")
        "; is a 'function' of the config meant as a 'call'?"
    """
    usual = r"takes 0 positional arg|multiple values for argument|'(functools\.partial|function)' object has no"
    return "; is a 'function' of the config meant as a 'call'?" if re.search(usual, line) else ""


def pair(function: Callable[..., Any], wanted: str) -> Callable[..., Any]:
    """The function, held to returning a pair.

    Raises:
        TypeError: when called: it returned something else.
    """

    def checked(*args):
        returned = function(*args)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"came {type(returned).__name__}, wanted {wanted}")
        return returned

    return checked


def state(made: Any) -> None:
    """Checks what `init` returned.

    Raises:
        UsageError: it is no State.
    """
    if not isinstance(made, State):
        raise checks.UsageError(f"init: came {type(made).__name__}, wanted a State: updates.init_state(...)")
    if jax.tree.leaves(made.step)[0].dtype != jnp.int32:
        raise checks.UsageError(f"init: step: came {checks.describe(made.step)}, wanted int32[]")


def same(part: str, before: Any, after: Any) -> None:
    """Checks that a tree came out with the paths, shapes and dtypes that it went in with.

    Raises:
        UsageError: names the first leaf that differs.
    """
    old, new = (dict(_paths(tree)) for tree in (before, after))
    for path in [*old, *(path for path in new if path not in old)]:
        came, wanted = (checks.describe(t[path]) if path in t else "nothing" for t in (new, old))
        if came != wanted:
            raise checks.UsageError(f"{part}{path}: went in as {wanted}, came out as {came}")


def _paths(tree: Any):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def predictions(made: Any, batch_size: int) -> None:
    """Checks what `predict` returned.

    Raises:
        UsageError: it is no {name: array[batch, ...]}.
    """
    if not isinstance(made, Mapping):
        raise checks.UsageError(f"predict: came {checks.describe(made)}, wanted {{name: array[batch, ...]}}")
    for name, value in made.items():
        if getattr(value, "shape", ())[:1] != (batch_size,):
            raise checks.UsageError(
                f"predict: {name}: came {checks.describe(value)}, wanted one for each of {batch_size} examples"
            )


def measured(part: str, found: Any) -> None:
    """Checks the metrics that `update` or `evaluate` returned.

    Raises:
        UsageError: they are no {name: additive}.
    """
    if not isinstance(found, Mapping):
        raise checks.UsageError(f"{part}: came {type(found).__name__}, wanted a dict of additive metrics")
    for name, metric in found.items():
        if not hasattr(metric, "compute"):
            raise checks.UsageError(
                f"{part}: metric {name!r}: came {checks.describe(metric)}, wanted an additive state"
                " such as means.mean(values, mask)"
            )
