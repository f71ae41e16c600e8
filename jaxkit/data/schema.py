"""What an example looks like: {name: Field}, known before data is read, held to when it is."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkit import checks, errors
from jaxkit.types import Field, Source

# As on the device: JAX computes in 32 bits.
_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


def narrow(dtype: Any) -> np.dtype:
    """The dtype in 32 bits where it has 64, in this machine's order of bytes, as JAX would have it on the device.

    Example:
        >>> narrow(np.int64)
        dtype('int32')
    """
    dtype = np.dtype(dtype)
    return np.dtype(_NARROW.get(dtype.name, dtype)).newbyteorder("=")


def cast(array: np.ndarray, *, dtype: Any, where: str) -> np.ndarray:
    """The array in another width of the same kind of number, in C order; numbers must fit.

    Raises:
        UsageError: another kind of number, or one that does not fit; `where` begins the message.

    Example:
        >>> cast(np.array([1, 2]), dtype=np.int32, where="mine/all: label").dtype
        dtype('int32')
    """
    dtype = np.dtype(dtype)
    whole = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not whole and array.dtype.kind != dtype.kind:
        raise errors.UsageError(f"{where}: came {checks.describe(array)}, wanted {dtype}")
    if whole and array.size and array.dtype != dtype:
        limits = np.iinfo(dtype)
        for value in (int(array.min()), int(array.max())):
            if not limits.min <= value <= limits.max:
                raise errors.UsageError(f"{where}: came {value}, which does not fit into {dtype}")
    with np.errstate(over="ignore"):
        narrowed = np.asarray(array, dtype, order="C")
    if (
        dtype.itemsize < array.dtype.itemsize
        and dtype.kind in "fc"
        and np.isinf(narrowed).sum() > np.isinf(array).sum()
    ):
        raise errors.UsageError(f"{where}: came a number that does not fit into {dtype}, which would be inf")
    return narrowed


def nbytes(schema: Mapping[str, Field]) -> int:
    """The bytes of one decoded example.

    Example:
        >>> nbytes({"image": Field((8, 8, 1), np.uint8), "label": Field((), np.int32, 10)})
        68
    """
    return sum(math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in schema.values())


def fields(sources: Mapping[str, Source], *names: str) -> list[Field]:
    """The named fields of what is trained on, which every other split has, too.

    Raises:
        UsageError: there is no split "train", a split is no Source, lacks a field or has another one by its name.

    Example:
        >>> fields({"train": Source("mine", {"x": Field((4,), "int32")}, lambda: None)}, "x")
        [Field(shape=(4,), dtype='int32', num_classes=None)]
    """
    check_sources(sources)
    for split, source in sources.items():
        where = f"config.data.{split}"
        for name in names:
            if name not in source.schema:
                raise errors.UsageError(
                    f"{where}: came the fields {sorted(source.schema)}, but the experiment reads {name!r};"
                    " is it the right experiment for this config?"
                )
            came, wanted = source.schema[name], sources["train"].schema[name]
            if tuple(came.shape) != tuple(wanted.shape):
                raise errors.UsageError(
                    f"{where}: {name}: came the shape {tuple(came.shape)}, wanted that of config.data.train,"
                    f" {tuple(wanted.shape)}"
                )
    return [sources["train"].schema[name] for name in names]


def check_sources(sources: Mapping[str, Source]) -> None:
    """Checks that these are sources, one of them to train on, and each of them what sources are made of.

    Raises:
        UsageError: names the split; it is no Source, its schema is no {name: Field}, it cannot be opened.

    Example:
        >>> check_sources({"train": Source("mine", {"x": Field((4,), "int32")}, lambda: None)})
    """
    if not isinstance(sources, Mapping):
        raise errors.UsageError(f"config.data: came {checks.describe(sources)}, wanted {{split: Source}}")
    if "train" not in sources:
        raise errors.UsageError(f"config.data: came {sorted(sources)}, wanted a split called 'train'")
    for split, source in sources.items():
        where = f"config.data.{split}"
        if not hasattr(source, "schema"):
            came = checks.describe(source)
            raise errors.UsageError(f"{where}: came {came}, wanted a Source, such as jaxkit.data.arrays gives")
        _check_source(where, source)


def _check_source(where: str, source: Source) -> None:
    if not isinstance(source.schema, Mapping) or not callable(source.open):
        came = ", ".join(checks.describe(part) for part in source)
        raise errors.UsageError(
            f"{where}: came Source({came}), wanted Source(name, {{name: Field}}, () -> Examples)"
        )
    for name, field in source.schema.items():
        try:
            fits = all(isinstance(n, int | np.integer) for n in field.shape) and field.dtype is not None
            np.dtype(field.dtype)
        except (AttributeError, TypeError):
            fits = False
        if not fits:
            raise errors.UsageError(
                f"{where}: schema: {name}: came {field!r}, wanted such as Field((8, 8), 'uint8')"
            )


def check(arrays: Mapping[str, np.ndarray], schema: Mapping[str, Field], *, where: str) -> None:
    """Checks that {name: array[n, ...]} is n examples of the schema.

    Args:
        arrays: a batch, or all of the data.
        schema: what was promised.
        where: what to call the data in the message: "digits/train".

    Raises:
        UsageError: names the field that is missing, extra, of another shape or dtype, or the first label
            outside the classes.

    Example:
        >>> check({"label": np.array([3, 12])}, {"label": Field((), np.int64, 10)}, where="mine/all")
        Traceback (most recent call last):
        ...
        jaxkit.errors.UsageError: mine/all: label: came 12 at example 1, wanted 0..9 (10 classes); correct ...
    """
    missing, extra = sorted(schema.keys() - arrays.keys()), sorted(arrays.keys() - schema.keys())
    if missing or extra:
        what = " and ".join([f"without {name!r}" for name in missing] + [f"with {name!r}" for name in extra])
        raise errors.UsageError(f"{where}: came {what}, wanted the fields {', '.join(sorted(schema))}")
    sizes = {name: np.shape(array)[:1] for name, array in arrays.items()}
    for name, field in schema.items():
        array, wanted = arrays[name], np.dtype(field.dtype)
        if tuple(array.shape) != (*next(iter(sizes.values())), *field.shape) or array.dtype != wanted:
            shape = ",".join(map(str, ("n", *field.shape)))
            same = "" if len(set(sizes.values())) == 1 else f"; the fields have {sizes} examples"
            raise errors.UsageError(
                f"{where}: {name}: came {checks.describe(array)}, wanted {wanted}[{shape}]{same}"
            )
        if field.num_classes is not None and array.size:
            _check_classes(array, name, field.num_classes, where)


def _check_classes(array: np.ndarray, name: str, num_classes: int, where: str) -> None:
    if array.min() < 0 or array.max() >= num_classes:
        # Only now, on the way to the error, is the place looked for.
        first = np.argwhere((array < 0) | (array >= num_classes))[0]
        raise errors.UsageError(
            f"{where}: {name}: came {array[tuple(first)]} at example {first[0]}, "
            f"wanted 0..{num_classes - 1} ({num_classes} classes); correct the data, or the number of classes"
        )
