"""Rules: over which axes of a mesh each parameter is split. A rule is a function of all parameters at once."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import PartitionSpec

from jaxkit import checks
from jaxkit.errors import UsageError
from jaxkit.types import Rules

# The kernels of which tensor parallelism splits the inputs, not the outputs: the second of each pair.
_SECOND_OF_A_PAIR = r"(^|[._])(out|output|down|dense_1)\.kernel$"
_VOCABULARY = r"(^|\.)embedding$"
# Of a model with an embedding this makes the logits, from what is not split: the second of no pair.
_LOGITS = "output.kernel"


def by_size(*, fsdp: int, tensor: int) -> Rules:
    """Rules that fit any model: "tensor" on the outputs of a kernel, "fsdp" on its largest other axis.

    A kernel of which the second of a pair is made (out, output, down) is split by its inputs instead, and an
    embedding by its vocabulary (Shoeybi et al. 2019, "Megatron-LM"), and so is the kernel `output.kernel` that
    makes the logits beside one. What does not divide, and what has one axis, stays whole.

    Args:
        fsdp: the size of that axis of the mesh.
        tensor: likewise.

    Example:
        >>> rules = by_size(fsdp=4, tensor=2)
        >>> import jax
        >>> tuple(rules({"dense.kernel": jax.ShapeDtypeStruct((12, 6), "float32")})["dense.kernel"])
        ('fsdp', 'tensor')
    """

    def rules(params):
        has_vocabulary = any(re.search(_VOCABULARY, path) for path in params)
        by_outputs = {_LOGITS} if has_vocabulary else set()
        return {
            path: _by_size(path, leaf.shape, fsdp, tensor, path not in by_outputs) for path, leaf in params.items()
        }

    return rules


def _by_size(path: str, shape: tuple[int, ...], fsdp: int, tensor: int, paired: bool) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    # The leading axis of what is stacked over layers is walked along by a loop, and is never split.
    first = 1 if path.startswith("blocks.") else 0
    if len(shape) - first >= 2:
        by_inputs = (paired and re.search(_SECOND_OF_A_PAIR, path)) or re.search(_VOCABULARY, path)
        wanted = len(shape) - 2 if by_inputs else len(shape) - 1
        if tensor > 1 and shape[wanted] % tensor == 0:
            axes[wanted] = "tensor"
        free = [axis for axis in range(first, len(shape)) if not axes[axis] and shape[axis] % fsdp == 0]
        if fsdp > 1 and free:
            axes[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return PartitionSpec(*axes)


def by_path(table: Sequence[tuple[str, Sequence[Any]]]) -> Rules:
    r"""Rules from a table of (regular expression, axes): the first that is found in a path says how it is split.

    The axes are names of the mesh's, or None, one for each axis of the parameter from the first on.

    Raises:
        UsageError: when applied: a pattern that matches no parameter, a parameter that no pattern matches.
        ValueError: a pattern that is no regular expression.

    Example:
        >>> import jax
        >>> rules = by_path([(r"kernel$", (None, "tensor")), (r"", ())])
        >>> rules({"dense.kernel": jax.ShapeDtypeStruct((12, 6), "float32")})
        Traceback (most recent call last):
        jaxkit.errors.UsageError: rules: '' matches no parameter; ...
    """
    try:
        patterns = [(re.compile(pattern), PartitionSpec(*axes)) for pattern, axes in table]
    except (re.error, TypeError, ValueError) as error:
        raise ValueError(f"table: {error}; wanted pairs (regular expression, axes)") from error

    def rules(params: Mapping[str, Any]) -> dict[str, PartitionSpec]:
        used, specs = set(), {}
        for path in params:
            n = next((n for n, (pattern, _) in enumerate(patterns) if pattern.search(path)), None)
            if n is None:
                raise UsageError(
                    f'rules: no pattern matches the parameter {path}; add one, or ("", ()) as the last'
                )
            used.add(n)
            specs[path] = patterns[n][1]
        unused = [pattern.pattern for n, (pattern, _) in enumerate(patterns) if n not in used]
        if unused:
            raise UsageError(
                f"rules: {unused[0]!r} matches no parameter; take it out, or mend it: the parameters are"
                f" {', '.join(list(params)[:4])}, ..."
            )
        return specs

    return rules


def check_spec(where: str, leaf: Any, spec: Any, sizes: Mapping[str, int]) -> None:
    """Checks that an array can be split so, over a mesh of these sizes.

    Raises:
        UsageError: it cannot; the message starts with `where`.

    Example:
        >>> import jax
        >>> leaf = jax.ShapeDtypeStruct((6,), "float32")
        >>> check_spec("rules: kernel", leaf, PartitionSpec("data"), {"data": 2})
    """
    if not isinstance(spec, PartitionSpec):
        raise UsageError(f"{where}: came {spec!r}, wanted a PartitionSpec")
    if len(spec) > len(leaf.shape):
        raise UsageError(f"{where}: came {spec}, but it is {checks.describe(leaf)}")
    used: list[str] = []
    for axis, names in enumerate(spec):
        names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in names if name not in sizes]
        if unknown:
            raise UsageError(f"{where}: the mesh has no axis {unknown[0]!r}; it has {', '.join(sizes)}")
        twice = [name for name in names if name in used or names.count(name) > 1]
        if twice:
            raise UsageError(f"{where}: came {spec}, in which {twice[0]!r} is there twice; an axis splits once")
        used += names
        parts = math.prod(sizes[name] for name in names)
        if leaf.shape[axis] % parts:
            raise UsageError(
                f"{where}: axis {axis} of {checks.describe(leaf)} does not divide over the {parts} devices"
                f" of {', '.join(map(repr, names))}; split another axis, or leave it whole"
            )
