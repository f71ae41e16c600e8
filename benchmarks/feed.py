"""The feed: batch n of 128 examples of 64 floats, shuffled, from memory.

    python benchmarks/feed.py

Against a numpy gather with the order at hand, grain with a batch of indices as its element, and grain by record.
"""

import time

import measure

measure.pin_to_one_core()

import numpy as np  # noqa: E402

from jaxkit import data  # noqa: E402

SIZE, BATCH = 1437, 128


def microseconds(read, numbers) -> float:
    """The mean time of a batch."""
    began = time.perf_counter()
    for number in numbers:
        read(number)
    return (time.perf_counter() - began) / len(numbers) * 1e6


def main(rounds: int = 7) -> None:
    """Interleaves the four feeds and prints medians."""
    import grain

    print(measure.machine())
    values = np.random.default_rng(0).random((SIZE, 64), np.float32)
    stream = data.shuffled(data.arrays({"x": values}).open(), batch_size=BATCH, seed=0)
    order = np.random.default_rng(1).permutation(SIZE)
    starts = np.arange(0, SIZE - BATCH, 7)
    by_index = grain.MapDataset.range(2**30 // BATCH).map(
        lambda n: values[order[starts[n % len(starts)] : starts[n % len(starts)] + BATCH]]
    )
    by_record = grain.MapDataset.source(values).shuffle(seed=0).repeat(10_000).batch(BATCH)
    far = np.random.default_rng(2).integers(0, 2**40, 300)
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        found = {
            "numpy gather, order at hand": microseconds(
                lambda n: np.take(values, order[starts[n % 180] : starts[n % 180] + BATCH], axis=0), range(2000)
            ),
            "jaxkit stream[n]": microseconds(stream.__getitem__, range(2000)),
            "jaxkit stream.indices(n)": microseconds(stream.indices, range(2000)),
            "jaxkit stream[n], n anywhere up to 2**40": microseconds(stream.__getitem__, far.tolist()),
            "grain, a batch of indices as its element": microseconds(by_index.__getitem__, range(500)),
            "grain by record": microseconds(by_record.__getitem__, range(20)),
        }
        for name, value in found.items():
            times.setdefault(name, []).append(value)
    measure.table("feed, 128 x 64 float32", times, "us/batch", "numpy gather, order at hand")


if __name__ == "__main__":
    main()
