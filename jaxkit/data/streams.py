"""Streams: batch n is a function of the seed and n. No history, so resuming is a lookup."""

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jaxkit import checks
from jaxkit.types import Examples, Stream

# Batches that grain reads ahead, and its threads: few, since on small records more of both cost time.
_READ_AHEAD = 4


# A memo, not a state: the same three numbers give the same permutation.
@lru_cache(maxsize=8)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in one epoch: i64[size], the same on every machine and numpy.

    Sorted by 64 bits each of SHAKE-128, which no version of anything will change (numpy does not promise
    to keep its shuffles). The low bits are replaced by the example's number: so no two are equal, and any
    sort gives the same order.

    Example:
        >>> sorted(permutation(5, 0, 0).tolist())
        [0, 1, 2, 3, 4]
    """
    low = np.uint64((1 << (size - 1).bit_length()) - 1)
    digest = hashlib.shake_128(f"jaxkit permutation {seed} {epoch}".encode()).digest(8 * size)
    draws = np.frombuffer(digest, "<u8")
    draws = np.sort((draws & ~low) | np.arange(size, dtype=np.uint64))
    order = (draws & low).astype(np.int64)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class Shuffled:
    """What `shuffled` returns: `stream[n]` is batch n, `stream.indices(n)` names its examples."""

    examples: Examples
    batch_size: int
    seed: int

    def _order(self, step: int) -> np.ndarray:
        step, size = operator.index(step), self.examples.size
        if step < 0:
            raise ValueError(f"step: came {step}, wanted a number >= 0")
        epoch, start = divmod(step * self.batch_size, size)
        parts, missing = [], self.batch_size
        while missing:
            part = permutation(size, self.seed, epoch)[start : start + missing]
            parts.append(part)
            missing, epoch, start = missing - len(part), epoch + 1, 0
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def indices(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds: i32[batch]."""
        return self._order(step).astype(np.int32)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.examples.read(self._order(step))


def shuffled(examples: Examples, *, batch_size: int, seed: int) -> Shuffled:
    """An endless stream of full batches: epoch after epoch, each in an order of its own.

    `stream[n]` is {name: array[batch, ...]}, for any n in any order: positions [n * batch, (n + 1) * batch)
    of the epochs laid end to end, so a batch may begin in one and end in the next. `stream.indices(n)` is
    i32[batch], the numbers of its examples, for data that lives on the device.

    Args:
        examples: an opened source.
        batch_size: may be more than there are examples.
        seed: 0 or more; the order of epoch e is a function of (seed, e).

    Raises:
        ValueError: `batch_size` is below 1 or `seed` negative; by `stream[n]`: n is negative.

    Example:
        >>> from jaxkit import data
        >>> stream = shuffled(data.arrays({"x": np.arange(6)}).open(), batch_size=4, seed=0)
        >>> sorted(np.concatenate([stream[0]["x"], stream[1]["x"][:2]]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    checks.at_least(1, batch_size=batch_size, size=examples.size)
    checks.at_least(0, seed=seed)
    if examples.size > 2**31:
        raise ValueError(f"examples: came {examples.size}, wanted at most 2**31: their numbers are int32")
    return Shuffled(examples, operator.index(batch_size), operator.index(seed))


@dataclass(frozen=True)
class Padded:
    """What `padded` returns: a sequence of batches, each with "mask": bool[batch]."""

    examples: Examples
    batch_size: int

    def __len__(self) -> int:
        return -(-self.examples.size // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds: i32[batch], the first of them again for padding."""
        start = range(len(self))[step] * self.batch_size
        positions = np.arange(start, start + self.batch_size, dtype=np.int32)
        return np.where(positions < self.examples.size, positions, np.int32(start))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        indices = self.indices(step)
        batch = self.examples.read(indices)
        mask = indices == indices[0] + np.arange(self.batch_size)
        return {**batch, "mask": mask & batch.get("mask", True)}


def padded(examples: Examples, *, batch_size: int) -> Padded:
    """All examples once and in order, as a sequence of equal batches; the last is padded, none dropped.

    Each batch is {name: array[batch, ...]} with "mask": bool[batch], False where the first example of the
    batch stands in for none.

    Args:
        examples: an opened source.
        batch_size: may be more than there are examples.

    Raises:
        ValueError: `batch_size` is below 1.
        IndexError: by `batches[n]`: there is no batch n.

    Example:
        >>> from jaxkit import data
        >>> batches = padded(data.arrays({"x": np.arange(5)}).open(), batch_size=3)
        >>> len(batches), batches[1]["x"].tolist(), batches[1]["mask"].tolist()
        (2, [3, 4, 3], [True, True, False])
    """
    checks.at_least(1, batch_size=batch_size, size=examples.size)
    if examples.size > 2**31:
        raise ValueError(f"examples: came {examples.size}, wanted at most 2**31: their numbers are int32")
    return Padded(examples, operator.index(batch_size))


def prefetch(stream: Stream, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches start, ..., stop - 1 of a stream, read ahead where reading takes time.

    What is in memory is sliced at once; anything else is read by grain, in a few threads, while the caller
    works. Batch n is `stream[n]` either way.

    Raises:
        ValueError: `start` is negative or after `stop`.

    Example:
        >>> from jaxkit import data
        >>> stream = shuffled(data.arrays({"x": np.arange(6)}).open(), batch_size=4, seed=0)
        >>> [len(batch["x"]) for batch in prefetch(stream, 10, 12)]
        [4, 4]
    """
    checks.at_least(0, start=start)
    checks.at_least(start, stop=stop)
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
