"""What all processes of a run do together: agree, gather, and put together batches that each has read a part of.

Alone in a run, each of these does nothing.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs.compare import differing
from jaxkit.types import Indexed, Layout

# Whether somebody has been asked to stop is agreed on this often, and after so many calls at the latest.
_SECONDS_UNASKED = 0.5
_MOST_CALLS_UNASKED = 1000


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
    """`stopped` of any process, known to all at the same call, about a second after it was asked.

    Every process must ask once a call. Twice a second, or at every call where one takes longer, two integers go
    around the devices; what came of them is looked at the next time, so nothing waits for it.

    Example:
        >>> agreed(lambda: True)()
        True
    """
    if jax.process_count() == 1:
        return stopped
    mesh = Mesh(np.array(jax.devices()), ("all",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
    largest = jax.jit(lambda x: jnp.max(x, axis=0), out_shardings=everywhere)
    calls, due, asked, asked_at = 0, 1, 0, time.monotonic()
    answer: jax.Array | None = None

    def ask() -> bool:
        nonlocal calls, due, asked, asked_at, answer
        calls += 1
        if calls < due:
            return False
        # The same numbers in every process, so all ask, and stop, at the same calls.
        stops, fewest = (False, -1) if answer is None else np.asarray(answer).tolist()
        due = calls + max(1, -fewest)
        seconds = max(time.monotonic() - asked_at, 1e-6) / (calls - asked)
        asked, asked_at = calls, time.monotonic()
        wanted = min(_MOST_CALLS_UNASKED, int(_SECONDS_UNASKED / seconds))
        mine = np.tile(np.array([stopped(), -wanted], np.int32), (jax.device_count(), 1))
        answer = largest(jax.make_array_from_callback(mine.shape, split, mine.__getitem__))
        return bool(stops)

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


def texts(text: str) -> list[str]:
    """What each process says, in every process; waits for all.

    Example:
        >>> texts("seed 0")
        ['seed 0']
    """
    if jax.process_count() == 1:
        return [text]
    said = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(said.size))
    padded = np.pad(said, (0, int(sizes.max()) - said.size))
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes)]


def check_same_config(config: configs.Frozen) -> None:
    """Checks that every process has the config of process 0: each may have read a file of its own.

    Raises:
        UsageError: in all of them, one has another.

    Example:
        >>> check_same_config(configs.freeze({"seed": 0}))
    """
    first, *others = map(configs.from_json, texts(configs.to_json(config)))
    for number, other in enumerate(others, 1):
        for path, a, b in configs.differences(first, other):
            raise UsageError(
                f"config.{path}: is {a!r} in process 0, and {b!r} in process {number}; give all the same config"
            )


def check_same_data(manifests: Mapping[str, Any]) -> None:
    """Checks that every process reads the data of process 0: each may have prepared its own.

    Raises:
        UsageError: in all of them, one reads other data.

    Example:
        >>> check_same_data({"train": {"sha256": "0a"}})
    """
    first, *others = map(json.loads, texts(json.dumps(manifests, default=str)))
    for number, other in enumerate(others, 1):
        for split, manifest in first.items():
            for entry in differing(manifest, other.get(split, {})):
                said = f"{entry} {manifest.get(entry)} in process 0, {other.get(split, {}).get(entry)} in process"
                raise UsageError(f"config.data.{split}: {said} {number}; give all the same data")


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
        if jax.process_index() != 0:
            return None
        found = leaf.addressable_data(0)
        # numpy has no keys.
        return found if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(found)

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
