"""One way to complain about arguments: what came, what was wanted, and what to do.

Shapes and dtypes are known while tracing, so these checks cost nothing under `jit`.
"""

import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit.errors import UsageError as UsageError


def describe(value: Any) -> str:
    """The dtype and shape of an array, "float32[8,10]", or the type of anything else.

    Example:
        >>> describe(np.zeros((8, 10), np.float32))
        'float32[8,10]'
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return f"{value!r} ({type(value).__name__})" if isinstance(value, int | float | str) else type(value).__name__


def path_of(path: Any) -> str:
    """What a leaf is called by its place in the tree, as jax's functions of paths give it.

    Example:
        >>> [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a": (1, {"b": 2})})]
        ['a.0', 'a.1.b']
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")


def shape_of(name: str, array: Any) -> tuple[int, ...]:
    """The shape of an array or a number.

    Raises:
        TypeError: it is something else; a list too, which jax does not take for an array.

    Example:
        >>> shape_of("labels", np.zeros((8, 10)))
        (8, 10)
    """
    if hasattr(array, "shape"):
        return tuple(array.shape)
    if isinstance(array, numbers.Number):
        return ()
    how = f"; jnp.asarray({name}) makes one" if isinstance(array, list | tuple) else ""
    raise TypeError(f"{name}: came {describe(array)}, wanted an array{how}")


def shapes(**arrays: tuple[Any, str]) -> dict[str, int]:
    """Checks that each array has the named axes, and that axes of one name have one size.

    Each argument is `name=(array, "axis axis ...")`: an axis is a name or a number; a leading "..."
    stands for any number of axes.

    Returns:
        {axis name: size}.

    Raises:
        ValueError: names the array, its shape, and the shape that was wanted.
        TypeError: it is no array.

    Example:
        >>> shapes(logits=(np.zeros((8, 10)), "batch classes"), labels=(np.zeros(8), "batch"))
        {'batch': 8, 'classes': 10}
    """
    sizes: dict[str, int] = {}
    for name, (array, spec) in arrays.items():
        axes, shape = spec.split(), shape_of(name, array)
        if axes[:1] == ["..."]:
            axes = axes[1:]
            shape_tail = shape[len(shape) - len(axes) :] if len(shape) >= len(axes) else None
        else:
            shape_tail = shape if len(shape) == len(axes) else None
        known = dict(sizes)
        if shape_tail is not None:
            for axis, size in zip(axes, shape_tail):
                wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
                if wanted != size:
                    shape_tail = None
                    break
        if shape_tail is None:
            where = "".join(f", {axis}={size}" for axis, size in known.items() if axis in axes)
            raise ValueError(f"{name}: came {describe(array)}, wanted shape [{', '.join(spec.split())}]{where}")
    return sizes


def dtypes(**arrays: tuple[Any, Any]) -> None:
    """Checks that each array's dtype is of the wanted kind, `name=(array, jnp.integer)`.

    Raises:
        TypeError: names the array, its dtype, and the kind that was wanted.

    Example:
        >>> dtypes(labels=(np.zeros(8, np.int32), jnp.integer))
    """
    for name, (array, kind) in arrays.items():
        shape_of(name, array)
        if not jnp.issubdtype(jnp.result_type(array), kind):
            wanted = getattr(kind, "__name__", str(kind))
            raise TypeError(f"{name}: came {describe(array)}, wanted dtype {wanted}")


def labels(logits: Any, labels: Any) -> None:
    """Checks logits [..., classes] against labels int[...]: one integer for each row of logits.

    Raises:
        ValueError: the shapes do not fit each other.
        TypeError: the labels are not integers.

    Example:
        >>> labels(np.zeros((8, 10)), np.zeros(8, np.int32))
    """
    shapes(logits=(logits, "... classes"))
    wanted = shape_of("logits", logits)[:-1]
    if shape_of("labels", labels) != wanted:
        raise ValueError(
            f"labels: came {describe(labels)}, wanted shape [{', '.join(map(str, wanted))}]: one integer for each"
            f" row of the logits, which are {describe(logits)}"
        )
    dtypes(labels=(labels, jnp.integer))


def key(key: Any) -> None:
    """Checks that `key` is one typed PRNG key.

    Raises:
        TypeError: it is something else.

    Example:
        >>> import jax; key(jax.random.key(0))
    """
    is_key = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or key.shape != ():
        raise TypeError(f"key: came {describe(key)}, wanted one typed key: jax.random.key(seed)")


def at_least(minimum: float, **values: float) -> None:
    """Checks hyperparameters: each is a number not below `minimum`.

    Raises:
        TypeError: not a number.
        ValueError: below the minimum.

    Example:
        >>> at_least(1, num_classes=10)
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{name}: came {describe(value)}, wanted a number >= {minimum}")
        if not value >= minimum:
            raise ValueError(f"{name}: came {value}, wanted a number >= {minimum}")


def whole(minimum: int, **values: int) -> None:
    """Checks hyperparameters that count: each is a whole number not below `minimum`.

    Raises:
        TypeError: not a whole number.
        ValueError: below the minimum.

    Example:
        >>> whole(0, padding=4)
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{name}: came {describe(value)}, wanted a whole number >= {minimum}")
        at_least(minimum, **{name: int(value)})


def sizes(**values: int) -> None:
    """Checks sizes: each is a whole number from 1 on.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1.

    Example:
        >>> sizes(num_classes=10)
    """
    whole(1, **values)


def fields(batch: Mapping[str, Any], *names: str) -> None:
    """Checks that a batch has the named fields.

    Raises:
        ValueError: names the one that it lacks, and those that it has.

    Example:
        >>> fields({"image": np.zeros((8, 28, 28, 1))}, "image")
    """
    for name in names:
        if name not in batch:
            raise ValueError(f"batch: came fields {sorted(batch)}, wanted {name!r} among them")


def finite(**trees: Any) -> None:
    """Checks on the host that every array of each tree is finite; waits for the devices.

    Raises:
        ValueError: names the tree, the leaf's path and how many of its values are not finite.

    Example:
        >>> finite(params={"kernel": np.ones(3)})
    """
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                bad = int(np.sum(~np.isfinite(np.asarray(leaf))))
                if bad:
                    where = name + jax.tree_util.keystr(path)
                    raise ValueError(f"{where}: {bad} of {np.size(leaf)} values are not finite")
