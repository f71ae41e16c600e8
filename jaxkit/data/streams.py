"""Streams: batch n is a function of the seed and n. No history, so resuming is a lookup."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jaxkit import checks
from jaxkit.types import Examples, Source, Stream

# Batches that grain reads ahead, and its threads: few, since on small records more of both cost time.
_READ_AHEAD = 4


# Orders are made for about so many examples at a time: one call of Philox and one sort for many small epochs.
_BLOCK = 16384


def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in one epoch: i32[size], the same on every machine and numpy.

    Example:
        >>> sorted(permutation(5, 0, 0).tolist())
        [0, 1, 2, 3, 4]
    """
    block, within = divmod(epoch, _epochs_in_a_block(size))
    return _orders(size, seed, block)[within * size : (within + 1) * size]


def _epochs_in_a_block(size: int) -> int:
    return max(1, _BLOCK // size)


# A memo, not a state: the same three numbers give the same orders.
@lru_cache(maxsize=4)
def _orders(size: int, seed: int, block: int) -> np.ndarray:
    """The orders of the epochs of one block, end to end.

    Epoch e sorts its examples by 32 bits each of the raw stream of Philox, which numpy promises to keep (as it
    does not its shuffles); equal bits, one pair in 2**32, stay in order, so any sort gives the same.
    """
    epochs, counters = _epochs_in_a_block(size), -(-size // 8)
    philox = np.random.Philox(key=seed, counter=block * epochs * counters)
    # One of Philox's counters gives 256 bits: eight examples. An epoch begins with a counter of its own.
    draws = philox.random_raw(epochs * counters * 4).astype("<u8").view("<u4").reshape(epochs, -1)[:, :size]
    keys = draws.astype(np.uint64) << np.uint64(32) | np.arange(size, dtype=np.uint64)[None]
    keys.sort(axis=1)
    orders = keys.astype(np.uint32).astype(np.int32).reshape(-1)
    orders.flags.writeable = False
    return orders


@dataclass(frozen=True)
class Shuffled:
    """What `shuffled` returns: `stream[n]` is batch n, `stream.indices(n)` names its examples."""

    examples: Examples
    batch_size: int
    seed: int
    rows: np.ndarray | None = None

    def indices(self, start: int, stop: int | None = None) -> np.ndarray:
        """The examples of batch `start`: i32[batch]; with `stop`, of batches start..stop-1: i32[steps, batch]."""
        first, last = operator.index(start), operator.index(start + 1 if stop is None else stop)
        if not 0 <= first < last:
            raise ValueError(
                f"step: came {start}, wanted a number >= 0" + ("" if stop is None else f" below {stop}")
            )
        size = self.examples.size
        period = _epochs_in_a_block(size) * size
        block, place = divmod(first * self.batch_size, period)
        missing, parts = (last - first) * self.batch_size, []
        while missing:
            parts.append(_orders(size, self.seed, block)[place : place + missing])
            missing, block, place = missing - len(parts[-1]), block + 1, 0
        order = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return order if stop is None else order.reshape(last - first, self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        indices = self.indices(step)
        return self.examples.read(indices if self.rows is None else indices[self.rows])

    def __iter__(self) -> Iterator[Any]:
        # Python would make one of `__getitem__`, and list(stream) would then fill the memory.
        raise TypeError(
            "stream: has no end to iterate to; ask for batches by number: stream[n], or for batches 0 to 99"
            " data.prefetch(stream, 0, 100)"
        )


def shuffled(examples: Examples, *, batch_size: int, seed: int, rows: np.ndarray | None = None) -> Shuffled:
    """An endless stream of full batches: epoch after epoch, each in an order of its own.

    `stream[n]` is {name: array[batch, ...]}, for any n in any order: positions [n * batch, (n + 1) * batch)
    of the epochs laid end to end, so a batch may begin in one and end in the next. `stream.indices(n)` is
    i32[batch], the numbers of its examples, for data that lives on the device.

    Args:
        examples: an opened source.
        batch_size: may be more than there are examples.
        seed: 0 or more; the order of epoch e is a function of (seed, e).
        rows: which rows of each batch `stream[n]` reads, where other processes read the rest; None: all.

    Raises:
        ValueError: `batch_size` is below 1 or `seed` negative; by `stream[n]`: n is negative.
        TypeError: a number is not whole; by `for batch in stream`, `list(stream)`: it has no end;
            `prefetch(stream, start, stop)` has.

    Example:
        >>> from jaxkit import data
        >>> stream = shuffled(data.arrays({"x": np.arange(6)}).open(), batch_size=4, seed=0)
        >>> sorted(np.concatenate([stream[0]["x"], stream[1]["x"][:2]]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    examples = _checked(examples)
    checks.sizes(batch_size=batch_size)
    checks.whole(0, seed=seed)
    return Shuffled(examples, operator.index(batch_size), operator.index(seed), rows)


def _checked(examples: Any) -> Examples:
    if not hasattr(examples, "read"):
        how = "; source.open() opens one" if isinstance(examples, Source) else ", such as source.open() gives"
        raise TypeError(f"examples: came {checks.describe(examples)}, wanted an opened source{how}")
    if not 1 <= examples.size <= 2**31:
        raise ValueError(f"examples: came {examples.size}, wanted 1 to 2**31: their numbers are int32")
    return examples._replace(size=operator.index(examples.size))


@dataclass(frozen=True)
class Padded:
    """What `padded` returns: a sequence of batches, each with "mask": bool[batch]."""

    examples: Examples
    batch_size: int
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return -(-self.examples.size // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds: i32[batch], the first of them again for padding."""
        start = range(len(self))[step] * self.batch_size
        positions = np.arange(start, start + self.batch_size, dtype=np.int32)
        return np.where(positions < self.examples.size, positions, np.int32(start))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        indices = self.indices(step)
        mask = indices == indices[0] + np.arange(self.batch_size)
        if self.rows is not None:
            indices, mask = indices[self.rows], mask[self.rows]
        batch = self.examples.read(indices)
        came, wanted = (checks.describe(x) for x in (batch.get("mask", mask), mask))
        if came != wanted:
            raise ValueError(f"mask: came {came}, wanted {wanted}: one for each example")
        return {**batch, "mask": mask & batch.get("mask", True)}


def padded(examples: Examples, *, batch_size: int, rows: np.ndarray | None = None) -> Padded:
    """All examples once and in order, as a sequence of equal batches; the last is padded, none dropped.

    Each batch is {name: array[batch, ...]} with "mask": bool[batch], False where the first example of the
    batch stands in for none.

    Args:
        examples: an opened source.
        batch_size: may be more than there are examples.
        rows: which rows of each batch are read, as in `shuffled`.

    Raises:
        ValueError: `batch_size` is below 1; by `batches[n]`: the data has a mask, and it is not bool[batch].
        IndexError: by `batches[n]`: there is no batch n.

    Example:
        >>> from jaxkit import data
        >>> batches = padded(data.arrays({"x": np.arange(5)}).open(), batch_size=3)
        >>> len(batches), batches[1]["x"].tolist(), batches[1]["mask"].tolist()
        (2, [3, 4, 3], [True, True, False])
    """
    examples = _checked(examples)
    checks.sizes(batch_size=batch_size)
    return Padded(examples, operator.index(batch_size), rows)


def prefetch(stream: Stream, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches start, ..., stop - 1 of a stream, read ahead where reading takes time.

    What is in memory is sliced at once; anything else is read by grain, in a few threads, while the caller
    works. Batch n is `stream[n]` either way.

    Raises:
        ValueError: `start` is negative or after `stop`.
        TypeError: one of them is no whole number.

    Example:
        >>> from jaxkit import data
        >>> stream = shuffled(data.arrays({"x": np.arange(6)}).open(), batch_size=4, seed=0)
        >>> [len(batch["x"]) for batch in prefetch(stream, 10, 12)]
        [4, 4]
    """
    checks.whole(0, start=start)
    checks.whole(start, stop=stop)
    examples: Any = getattr(stream, "examples", None)
    if start == stop or (examples is not None and examples.arrays is not None):
        return (stream[step] for step in range(start, stop))
    return _read_ahead(stream, start, stop)


def _read_ahead(stream: Stream, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    import grain  # 2 s, so only where it is needed

    batches = iter(
        grain.MapDataset.range(start, stop)
        .map(stream.__getitem__)
        .to_iter_dataset(grain.ReadOptions(num_threads=_READ_AHEAD, prefetch_buffer_size=_READ_AHEAD))
    )
    try:
        yield from batches
    finally:
        batches.close()  # its threads, also where the caller stops early
