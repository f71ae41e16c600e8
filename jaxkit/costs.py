"""What a program costs: floating point operations counted on its trace, and what a device can do in a second."""

import math
import re
from typing import Any, NamedTuple

import jax

from jaxkit.errors import UsageError, did_you_mean


class Device(NamedTuple):
    """One accelerator as its data sheet has it, dense, without sparsity.

    flops:     operations a second, of matmuls in bfloat16 that add in float32
    bandwidth: bytes a second, of its memory
    memory:    bytes
    """

    flops: float
    bandwidth: float
    memory: float


DEVICES = {
    "a100": Device(312e12, 2.039e12, 80e9),
    "h100": Device(989e12, 3.35e12, 80e9),
    "h100-pcie": Device(756e12, 2.0e12, 80e9),
    "h200": Device(989e12, 4.8e12, 141e9),
    "b200": Device(2250e12, 8.0e12, 180e9),
    "l4": Device(121e12, 0.3e12, 24e9),
    "l40s": Device(362e12, 0.864e12, 48e9),
    "rtx-4090": Device(165e12, 1.008e12, 24e9),
    "tpu-v4": Device(275e12, 1.228e12, 32e9),
    "tpu-v5e": Device(197e12, 0.819e12, 16e9),
    "tpu-v5p": Device(459e12, 2.765e12, 95e9),
    "tpu-v6e": Device(918e12, 1.64e12, 32e9),
}
# What jax calls them, or words of that; where several are, the longest counts.
_KINDS = {
    "A100": "a100",
    "H100": "h100",
    "H100 PCIe": "h100-pcie",
    "H200": "h200",
    "B200": "b200",
    "L4": "l4",
    "L40S": "l40s",
    "RTX 4090": "rtx-4090",
    "TPU v4": "tpu-v4",
    "TPU v5 lite": "tpu-v5e",
    "TPU v5p": "tpu-v5p",
    "TPU v5": "tpu-v5p",
    "TPU v6 lite": "tpu-v6e",
}


def device(name: str) -> Device:
    """The device of that name.

    Raises:
        UsageError: it is not in the table.

    Example:
        >>> device("h200").flops
        989000000000000.0
    """
    if name not in DEVICES:
        raise UsageError(f"device: came {name!r}{did_you_mean(name, DEVICES)} There are: {', '.join(DEVICES)}")
    return DEVICES[name]


def device_of_kind(kind: str) -> Device | None:
    """The device that jax calls `kind`; None where it is not in the table (a CPU, say).

    Example:
        >>> device_of_kind("NVIDIA H200") == DEVICES["h200"]
        True
    """
    known = [words for words in _KINDS if re.search(rf"\b{words}\b", kind)]
    return DEVICES[_KINDS[max(known, key=len)]] if known else None


def floor_seconds(on: Device, *, flops: float, moved: float) -> float:
    """The least time in which a device can do `flops` and move `moved` bytes, both at full speed at once.

    Source:
        Williams et al. 2009, "Roofline".

    Example:
        >>> floor_seconds(Device(flops=100.0, bandwidth=10.0, memory=1.0), flops=50.0, moved=10.0)
        1.0
    """
    return max(flops / on.flops, moved / on.bandwidth)


def flops(jaxpr: Any) -> float:
    """The floating point operations of the matmuls and convolutions of a (closed) jaxpr, over all its devices.

    A multiplication and an addition are two. The body of a `scan` counts once for each turn, of a `cond` the
    dearest branch, of a `while` one turn, for nobody knows how many there will be. What is rematerialised counts
    each time. Everything else (elementwise, reductions) is left out: beside these it is little.

    Example:
        >>> flops(jax.make_jaxpr(lambda x: x @ x)(jax.numpy.ones((2, 2))))
        16.0
    """
    return float(sum(_of_equation(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns))


def intermediate_bytes(jaxpr: Any) -> float:
    """The bytes of everything that a (closed) jaxpr computes, the body of a loop once.

    As if nothing was fused and no memory used twice, so of a compiled program's temporaries an upper bound, and a
    generous one.

    Example:
        >>> intermediate_bytes(jax.make_jaxpr(lambda x: (x @ x).sum())(jax.numpy.ones((2, 2))))
        20.0
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = _inner(equation.params)
        total += sum(map(intermediate_bytes, inner))
        # Of what is no loop, the results are those of the inner program.
        if not inner or equation.primitive.name in ("scan", "while"):
            results = [x.aval for x in equation.outvars if hasattr(x.aval, "dtype")]
            total += sum(math.prod(result.shape) * result.dtype.itemsize for result in results)
    return total


def _of_equation(equation: Any) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)
    if name.startswith("ragged_dot"):
        return _of_groups(equation)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        # Of a dilated input all but one in so many is a zero that was put in.
        zeros = math.prod(parameters["lhs_dilation"])
        return 2 * _size(equation.outvars[0]) * math.prod(kernel) / features / zeros
    if "dot_product_attention" in name:
        return _of_attention(equation)
    inner = [flops(jaxpr) for jaxpr in _inner(parameters)]
    if name == "scan":
        return parameters["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name in ("shard_map", "xla_pmap"):
        return sum(inner) * _devices(parameters)
    return sum(inner)


def _of_groups(equation: Any) -> float:
    """A matmul by groups: of each row, or of each term of the sums, one group counts."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    shape = equation.invars[0].aval.shape
    # Where what is summed over is grouped, each group makes a result of its own.
    summed = set(numbers.lhs_ragged_dimensions) & set(contracted)
    groups = equation.outvars[0].aval.shape[0] if summed else 1
    return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted) / max(groups, 1)


def _of_attention(equation: Any) -> float:
    """cuDNN's: two matmuls forward, five backward (one of them again), of [batch, length, heads, size]."""
    query, key = (variable.aval.shape for variable in equation.invars[:2])
    matmuls = 5 if "bwd" in equation.primitive.name or "backward" in equation.primitive.name else 2
    return matmuls * 2 * math.prod(query) * key[1]


def _devices(parameters: Any) -> int:
    if "mesh" in parameters:
        manual = parameters.get("manual_axes") or parameters["mesh"].axis_names
        return math.prod(parameters["mesh"].shape[name] for name in manual)
    return parameters["global_axis_size"]


def _inner(parameters: Any) -> list[Any]:
    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [leaf for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)
