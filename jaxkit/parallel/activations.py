"""Activations: how what a model computes on the way is split over a mesh, by the words for its axes."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxkit import checks
from jaxkit.backends import BATCH_AXES
from jaxkit.errors import UsageError, did_you_mean
from jaxkit.parallel.rules import check_spec
from jaxkit.types import Activations

_INSIDE = ("heads", "kv_heads", "hidden", "vocabulary")
_USUAL = (("batch", BATCH_AXES), *((axis, ("tensor",)) for axis in _INSIDE))

# Of jax's own kind, so that what another jit has traced under one rule is not taken for what another rule makes.
_in_force = jax.make_user_context(None)

Seen = dict[tuple[tuple[str | None, ...], jax.ShapeDtypeStruct], None]
"""Each activation that a rule was asked about: its axes, and the abstract array with the sharding it was given."""


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Names the axes of an activation, by which the rule of a mesh splits it; does nothing outside of a mesh.

    The models of jaxkit say "batch", "length", "features" (what one block hands to the next), "heads", "kv_heads",
    "head_size", "hidden" (within an MLP), "vocabulary", "height", "width" and "channels"; a model of your own may
    have other words. None is for an axis without a name.

    Raises:
        ValueError: not one name for each axis of x.
        UsageError: in a mesh: the rule does not fit x.

    Example:
        >>> constrain(jax.numpy.ones((4, 2)), "batch", "hidden").shape
        (4, 2)
    """
    if len(axes) != x.ndim:
        raise ValueError(f"constrain: came {len(axes)} names for {checks.describe(x)}, wanted one for each axis")
    split, found = _in_force.value, jax.sharding.get_abstract_mesh()
    # Within a shard_map each device has its own part already.
    if split is None or any(kind != AxisType.Auto for kind in found.axis_types):
        return x
    spec = split(axes, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return x if spec is None else jax.lax.with_sharding_constraint(x, spec)


def by_axis(table: Sequence[tuple[str, Any]]) -> Activations:
    """A rule from a table of (axis of activations, axes of the mesh), for `mesh(activations=)`.

    Pairs that stand earlier go first: in one activation, an axis of the mesh is used once. What is not in the
    table stays whole, and so does an axis of size 1. Sequence parallelism is the usual table with a last pair
    ("length", "tensor"): length is split where neither heads nor hidden features are.

    Raises:
        ValueError: not such pairs, or an axis is there twice.
        UsageError: in a mesh: a size that does not divide, an axis that the mesh has not; when an update has been
            traced: an axis that no activation has.

    Source:
        Korthikanti et al. 2022, arXiv 2205.05198 (sequence parallelism).

    Example:
        >>> rule = by_axis([("batch", ("data", "fsdp")), ("heads", "tensor"), ("length", "tensor")])
        >>> hidden = jax.ShapeDtypeStruct((8, 512, 64), "float32")
        >>> tuple(rule(("batch", "length", "features"), hidden))
        (('data', 'fsdp'), 'tensor', None)
    """
    try:
        pairs = tuple((axis, (names,) if isinstance(names, str) else tuple(names)) for axis, names in table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"table: {error}; wanted pairs (axis of activations, axes of the mesh)") from error
    words = [axis for axis, _ in pairs]
    wrong = next((axis for axis in words if not isinstance(axis, str) or words.count(axis) > 1), None)
    if wrong is not None:
        raise ValueError(f"table: came {wrong!r}, wanted the name of an axis, each once")
    return _Table(pairs)


@dataclasses.dataclass(frozen=True)
class _Table:
    pairs: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self, axes: tuple[str | None, ...], x: jax.ShapeDtypeStruct) -> PartitionSpec:
        split: list[Any] = [None] * len(axes)
        taken: set[str] = set()
        for word, names in self.pairs:
            for n, axis in enumerate(axes):
                if axis == word and x.shape[n] > 1 and not taken & set(names):
                    split[n] = names[0] if len(names) == 1 else names or None
                    taken |= set(names)
        return PartitionSpec(*split)


def usual(sizes: Mapping[str, int]) -> Activations:
    """The rule of a mesh that is given none: a table; images and what does not divide are left to the compiler.

    Example:
        >>> rule = usual({"data": 2, "fsdp": 1, "tensor": 2})
        >>> tuple(rule(("batch", "hidden"), jax.ShapeDtypeStruct((8, 64), "float32")))
        (('data', 'fsdp'), 'tensor')
        >>> rule(("batch", "hidden"), jax.ShapeDtypeStruct((8, 63), "float32"))
    """
    table = _Table(_USUAL)

    def rule(axes, x):
        # Late in a network of small images the kernels are larger than what they act on, and it was seen to move
        # fewer bytes when the compiler splits channels there over "fsdp", and not the batch.
        if "channels" in axes:
            return None
        spec = table(axes, x)
        parts = [math.prod(sizes[name] for name in _names(entry)) for entry in spec]
        return None if any(size % number for size, number in zip(x.shape, parts)) else spec

    return rule


def checked(rule: Activations, mesh: Mesh, seen: Seen) -> Activations:
    """The rule, with each of its answers checked against a mesh and noted in `seen`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        >>> split = checked(by_axis([("batch", "tensor")]), mesh, {})
        >>> split(("batch",), jax.ShapeDtypeStruct((8,), "float32"))
        Traceback (most recent call last):
        jaxkit.errors.UsageError: activations: (batch): the mesh has no axis 'tensor'; it has data
    """

    def split(axes, x):
        spec = rule(axes, x)
        if spec is not None:
            check_spec(f"activations: ({', '.join(map(str, axes))})", x, spec, dict(mesh.shape))
        sharding = None if spec is None else NamedSharding(mesh, spec)
        seen[axes, jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)] = None
        return spec

    return split


@contextlib.contextmanager
def within(mesh: Mesh, split: Activations) -> Iterator[None]:
    """In which a program for a mesh is traced: `constrain` goes by this rule.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        >>> with within(mesh, lambda axes, x: PartitionSpec("data")):
        ...     jaxpr = jax.make_jaxpr(lambda x: constrain(x, "batch"))(jax.numpy.ones(2))
        >>> jaxpr.eqns[0].primitive.name
        'sharding_constraint'
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), _in_force(split):
        yield


def check_used(rule: Activations, seen: Seen) -> None:
    """Checks that each axis in a table is one of an activation that was seen; of other rules nothing is known.

    Raises:
        UsageError: one is not.

    Example:
        >>> seen = {(("length",), jax.ShapeDtypeStruct((8,), "float32")): None}
        >>> check_used(by_axis([("lenght", "tensor")]), seen)
        Traceback (most recent call last):
        jaxkit.errors.UsageError: activations: 'lenght' is the axis of no activation (they have length); did ...
    """
    if not isinstance(rule, _Table):
        return
    words = list(dict.fromkeys(axis for axes, _ in seen for axis in axes if axis is not None))
    for word, _ in rule.pairs:
        if word not in words:
            known = f"they have {', '.join(words)}" if words else "the update names none by parallel.constrain"
            near = did_you_mean(word, words)
            raise UsageError(f"activations: {word!r} is the axis of no activation ({known}){near}")


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
