"""One way to complain about arguments: what came, what was wanted, and what to do.

Shapes and dtypes are known while tracing, so these checks cost nothing under `jit`.
"""

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


def shapes(**arrays: tuple[Any, str]) -> dict[str, int]:
    """Checks that each array has the named axes, and that axes of one name have one size.

    Each argument is `name=(array, "axis axis ...")`: an axis is a name or a number; a leading "..."
    stands for any number of axes.

    Returns:
        {axis name: size}.

    Raises:
        ValueError: names the array, its shape, and the shape that was wanted.

    Example:
        >>> shapes(logits=(np.zeros((8, 10)), "batch classes"), labels=(np.zeros(8), "batch"))
        {'batch': 8, 'classes': 10}
    """
    sizes: dict[str, int] = {}
    for name, (array, spec) in arrays.items():
        axes, shape = spec.split(), tuple(jnp.shape(array))
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
    shapes(labels=(labels, " ".join(map(str, jnp.shape(logits)[:-1]))))
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
                bad = int(np.sum(~np.isfinite(np.asarray(leaf, np.float32))))
                if bad:
                    where = name + jax.tree_util.keystr(path)
                    raise ValueError(f"{where}: {bad} of {np.size(leaf)} values are not finite")
