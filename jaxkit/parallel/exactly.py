"""The layout whose numbers do not depend on the number of devices, to the bit."""

from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxkit import backends, checks, random
from jaxkit.errors import UsageError
from jaxkit.means import add, portion, share
from jaxkit.parallel.replicated import AXIS, local_devices, over_devices
from jaxkit.types import Evaluate, Gradients, Layout


def exact(*, shards: int = 8, num_devices: int | None = None) -> Layout:
    """The same bits on 1, 2, 4, ... `shards` devices.

    A batch is cut into `shards` equal parts, whatever the devices. Each part has its own gradient, computed by
    itself with a key of its own, and they are added along one fixed binary tree: a device adds the parts that
    it holds, then devices add what they have in pairs. So each sum is made of the same additions everywhere.
    Microbatches (`updates.accumulate`) cut each part further, and belong to the numbers as `shards` does.

    It costs a program as long as the parts that one device holds, and memory for two more sets of
    gradients, and one for each doubling of those parts.

    Args:
        shards: a power of two, the most devices that can be used. Another number gives other bits.
        num_devices: a power of two; None: as many as there are and `shards` allows.

    Raises:
        ValueError: not a power of two; when called: a batch that does not divide into `shards`.
        UsageError: more devices than there are, or than shards.

    Example:
        >>> exact(shards=8, num_devices=1).divisor
        8
    """
    _check_power(shards=shards)
    if num_devices is None:
        most = min(shards, len(local_devices(None)))
        num_devices = 1 << (most.bit_length() - 1)
    _check_power(num_devices=num_devices)
    if num_devices > shards:
        raise UsageError(f"num_devices: came {num_devices}, wanted at most the {shards} of shards")
    local = shards // num_devices

    def split(batch: Any) -> list[Any]:
        size = lambda x: x.shape[0] // local
        return [jax.tree.map(lambda x, n=n: x[n * size(x) : (n + 1) * size(x)], batch) for n in range(local)]

    def across(gradients: Gradients) -> Gradients:
        gradients = jax.jit(gradients)  # each part is the same program, traced once

        def summed(params, extra, batch, key):
            first = jax.lax.axis_index(AXIS) * local
            parts = split(batch)

            def part(n):
                grads, metrics, after = gradients(params, extra, parts[n], random.at(key, first + n))
                return grads, metrics, portion(after, shards)

            grads, metrics, total = _between_devices(_tree(part, 0, local), num_devices)
            return grads, metrics, share(total, shards)

        return summed

    def across_metrics(evaluate: Evaluate) -> Evaluate:
        evaluate = jax.jit(evaluate)

        def summed(params, extra, batch):
            parts = split(batch)
            return _between_devices(_tree(lambda n: evaluate(params, extra, parts[n]), 0, local), num_devices)

        return summed

    return over_devices(
        local_devices(num_devices),
        divisor=shards,
        across=across,
        across_metrics=across_metrics,
        sums_by=("ppermute",) if num_devices > 1 else (),
    )


def _tree(part, start: int, stop: int) -> Any:
    """The sum of parts start..stop-1 along a binary tree, one part after the other."""
    if stop - start == 1:
        # Kept apart from what is around it, so that XLA compiles each part as it does everywhere.
        return jax.lax.optimization_barrier(part(start))
    middle = (start + stop) // 2
    first = _tree(part, start, middle)
    return _add(first, _tree(part, middle, stop))


def _between_devices(total: Any, num_devices: int) -> Any:
    """The rest of the tree: pairs of devices swap what they have, and both add the two; a + b is b + a."""
    distance = 1
    while distance < num_devices:
        pairs = [(device, device ^ distance) for device in range(num_devices)]
        other = jax.tree.map(lambda x, pairs=pairs: jax.lax.ppermute(x, AXIS, pairs), total)
        total = _add(total, other)
        distance *= 2
    return total


def _add(one: Any, other: Any) -> Any:
    """The sum of two trees, as a function that XLA on a CPU compiles by itself.

    A barrier is gone when it fuses: what parts do last would be computed together with their sum, and a product
    and a sum rounded once or twice by how many parts there are.
    """
    if backends.platform() != "cpu":
        return jax.lax.optimization_barrier(add(one, other))
    with set_xla_metadata(inlineable="false"):
        return jax.jit(add)(one, other)


def _check_power(**values: int) -> None:
    for name, value in values.items():
        checks.sizes(**{name: value})
        if value & (value - 1):
            raise ValueError(f"{name}: came {value}, wanted a power of two")
