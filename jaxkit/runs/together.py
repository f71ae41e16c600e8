"""What all processes of a run do together: agree, gather, and put together batches that each has read a part of.

Alone in a run, each of these does nothing.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxkit.errors import UsageError
from jaxkit.types import Indexed, Layout

# Calls that are begun before the answer of one is looked at: the devices need not wait for it.
_CALLS_BEHIND = 2


def check(layout: Layout) -> None:
    """Checks that a layout uses the devices of all processes.

    Raises:
        UsageError: it knows those of one process only, or leaves some idle.

    Example:
        >>> from jaxkit import parallel
        >>> check(parallel.jit())
    """
    count, devices = jax.process_count(), jax.device_count()
    if count == 1:
        return
    if layout.split is None:
        raise UsageError(
            f"config.layout: knows the devices of one process only, and there are {count};"
            f' use jaxkit.parallel.mesh: --config.layout=\'{{"call": "jaxkit.parallel.mesh", "data": {devices}}}\''
        )
    if layout.num_devices != devices:
        raise UsageError(
            f"config.layout: uses {layout.num_devices} devices, the {count} processes have {devices};"
            " a mesh of many processes uses all: make data x fsdp x tensor as many"
        )


def agreed(stopped: Callable[[], bool]) -> Callable[[], bool]:
    """`stopped` of any process, known to all at the same call: a call or two after it was asked.

    Every process must ask equally often. It costs one more small program a call.

    Example:
        >>> agreed(lambda: True)()
        True
    """
    if jax.process_count() == 1:
        return stopped
    mesh = Mesh(np.array(jax.devices()), ("all",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
    shape = (jax.device_count(),)
    flags = {
        flag: jax.make_array_from_callback(shape, split, np.full(shape, flag).__getitem__)
        for flag in (False, True)
    }
    anyone = jax.jit(jnp.any, out_shardings=everywhere)
    asked = collections.deque[jax.Array]()

    def ask() -> bool:
        asked.append(anyone(flags[stopped()]))
        return len(asked) > _CALLS_BEHIND and bool(asked.popleft())

    return ask


def from_first(value: int) -> int:
    """Process 0's value, in every process; waits for all.

    Example:
        >>> from_first(3)
        3
    """
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait(name: str) -> None:
    """Waits until every process is here.

    Example:
        >>> wait("saved")
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def whole(tree: Any) -> Any:
    """The tree with every array whole, on the host of process 0; None for an array that another has a part of.

    Example:
        >>> whole({"w": np.ones(2)})
        {'w': array([1., 1.])}
    """

    def gathered(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            mesh = leaf.sharding.mesh  # type: ignore[attr-defined]
            leaf = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(leaf)
        return np.asarray(leaf.addressable_data(0)) if jax.process_index() == 0 else None

    # One after the other: of what is sharded, no device ever holds more than one array whole.
    return jax.tree.map(gathered, tree)


def _same(x: jax.Array) -> jax.Array:
    return x


def rows(layout: Layout, batch_size: int) -> np.ndarray | None:
    """The rows of a global batch that this process's devices need, in order; None: all of them.

    Example:
        >>> from jaxkit import parallel
        >>> rows(parallel.mesh(data=1), 4)
    """
    if jax.process_count() == 1 or layout.split is None:
        return None
    parts = _parts(layout, batch_size)
    return np.concatenate([np.arange(start, stop) for start, stop in parts])


def _parts(layout: Layout, batch_size: int) -> list[tuple[int, int]]:
    assert layout.split is not None
    found = layout.split(0).addressable_devices_indices_map((batch_size,)).values()
    return sorted({index[0].indices(batch_size)[:2] for index in found if index is not None})


def put(layout: Layout, batch: Any, batch_size: int, axis: int = 0) -> Any:
    """`layout.put_batch`, where of a batch in memory each process has read only its `rows`."""
    if jax.process_count() == 1 or layout.split is None or isinstance(batch, Indexed):
        return layout.put_batch(batch, axis=axis)
    sharding, offsets, offset = layout.split(axis), dict[int, int](), 0
    for start, stop in _parts(layout, batch_size):
        offsets[start] = offset
        offset += stop - start

    def place(x: np.ndarray) -> jax.Array:
        def part(index):
            start, stop, _ = index[axis].indices(batch_size)
            first = offsets[start]
            return x[(*index[:axis], slice(first, first + stop - start))]

        return jax.make_array_from_callback((*x.shape[:axis], batch_size, *x.shape[axis + 1 :]), sharding, part)

    return jax.tree.map(place, batch)
