import threading
from functools import partial

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from jaxkit import data
from jaxkit.data import streams


def examples_of(size, **more):
    return data.arrays({"x": np.arange(size), **more}).open()


def big(examples):
    """The same, as a source that is too large for memory."""
    return examples._replace(arrays=None)


def test_the_permutation_is_this_one_forever():
    # Recorded: a change would break every resumed run.
    assert streams.permutation(10, 0, 0).tolist() == [1, 0, 5, 6, 3, 4, 9, 8, 7, 2]
    assert streams.permutation(10, 7, 3).tolist() == [3, 5, 9, 0, 8, 1, 2, 6, 4, 7]


@hypothesis.given(
    size=strategies.integers(1, 50),
    batch_size=strategies.integers(1, 70),
    seed=strategies.integers(0, 2**64 - 1),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_the_stream_is_one_permutation_after_the_other(size, batch_size, seed):
    stream = data.shuffled(examples_of(size), batch_size=batch_size, seed=seed)
    num_batches = -(-3 * size // batch_size)
    batches = [stream[n]["x"] for n in range(num_batches)]
    assert all(batch.shape == (batch_size,) for batch in batches)
    laid_out = np.concatenate(batches)[: 3 * size].reshape(3, size)
    for epoch in laid_out:
        assert sorted(epoch) == list(range(size))


@pytest.mark.parametrize("use", [iter, list, lambda stream: list(zip(range(2), stream))])
def test_an_endless_stream_is_not_iterated_over(use):
    with pytest.raises(TypeError, match=r"no end .*stream\[n\].*data\.prefetch\(stream, 0, 100\)"):
        use(data.shuffled(examples_of(5), batch_size=2, seed=0))


def test_epochs_and_seeds_differ():
    first, second = (data.shuffled(examples_of(100), batch_size=100, seed=seed) for seed in (0, 1))
    orders = [stream[n]["x"].tolist() for stream in (first, second) for n in range(3)]
    assert len({tuple(order) for order in orders}) == 6


def test_the_first_place_is_uniform():
    # 4,000 epochs of 4 examples: each comes first 1,000 +- 27 times (binomial); 5 sigma are 137.
    first = [streams.permutation(4, 0, epoch)[0] for epoch in range(4000)]
    assert np.all(np.abs(np.bincount(first, minlength=4) - 1000) < 137)


def test_many_batches_at_once_are_those_one_by_one():
    stream = data.shuffled(examples_of(37), batch_size=8, seed=3)
    for start, stop in ((0, 3), (2**40, 2**40 + 5), (2040, 2060), (7, 8)):
        stacked = stream.indices(start, stop)
        assert stacked.shape == (stop - start, 8)
        np.testing.assert_array_equal(stacked, [stream.indices(n) for n in range(start, stop)])


def test_a_batch_does_not_depend_on_what_was_read_before():
    steps = [0, 5, 2, 40, 2**40, 1, 5]
    stream = data.shuffled(examples_of(37), batch_size=8, seed=3)
    wanted = {n: stream[n]["x"].tolist() for n in sorted(set(steps))}
    for n in steps:
        streams._orders.cache_clear()
        again = data.shuffled(examples_of(37), batch_size=8, seed=3)
        assert again[n]["x"].tolist() == wanted[n]


def test_indices_name_the_examples():
    examples = examples_of(37, y=np.arange(37) * 2)
    stream = data.shuffled(examples, batch_size=16, seed=0)
    for n in (0, 2, 2**40):
        indices = stream.indices(n)
        assert indices.dtype == np.int32
        assert indices.shape == (16,)
        np.testing.assert_array_equal(stream[n]["y"], 2 * indices)


def test_what_cannot_be_streamed_is_refused():
    examples = examples_of(5)
    with pytest.raises(ValueError, match="step: came -1"):
        data.shuffled(examples, batch_size=2, seed=0)[-1]
    with pytest.raises(ValueError, match="step: came -1"):
        data.shuffled(examples, batch_size=2, seed=0).indices(-1)
    with pytest.raises(ValueError, match="batch_size: came 0"):
        data.shuffled(examples, batch_size=0, seed=0)
    with pytest.raises(ValueError, match="seed: came -1"):
        data.shuffled(examples, batch_size=2, seed=-1)
    with pytest.raises(TypeError, match=r"batch_size: came 2\.5 \(float\), wanted a whole number"):
        data.shuffled(examples, batch_size=2.5, seed=0)
    with pytest.raises(TypeError, match=r"seed: came 1\.5 \(float\), wanted a whole number >= 0"):
        data.shuffled(examples, batch_size=2, seed=1.5)
    with pytest.raises(TypeError, match=r"stop: came 2\.5 \(float\), wanted a whole number"):
        data.prefetch(data.padded(examples, batch_size=2), 0, 2.5)
    with pytest.raises(ValueError, match="batch_size: came 0"):
        data.padded(examples, batch_size=0)


@pytest.mark.parametrize("stream", [partial(data.shuffled, seed=0), data.padded])
def test_a_source_that_is_not_opened_is_named(stream):
    with pytest.raises(TypeError, match=r"examples: came Source, .*; source\.open\(\) opens one"):
        stream(data.arrays({"x": np.arange(3)}), batch_size=2)


@pytest.mark.parametrize(("size", "batch_size"), [(10, 5), (11, 5), (4, 5), (1, 1), (9, 5)])
def test_padding_covers_each_example_once(size, batch_size):
    batches = data.padded(examples_of(size), batch_size=batch_size)
    seen = [batch["x"][batch["mask"]] for batch in batches]
    assert len(batches) == len(seen) == -(-size // batch_size)
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(size))
    for batch in batches:
        assert batch["x"].shape == batch["mask"].shape == (batch_size,)
        assert batch["mask"].dtype == bool
        # The padding is a real example: the first of its batch.
        assert set(batch["x"][~batch["mask"]].tolist()) <= {batch["x"][0]}


def test_padding_keeps_the_mask_of_the_data():
    batches = data.padded(examples_of(3, mask=[True, False, True]), batch_size=2)
    assert [batch["mask"].tolist() for batch in batches] == [[True, False], [True, False]]


@pytest.mark.parametrize("mask", [np.ones((4, 2), bool), np.ones(4, int)], ids=["of tokens", "of integers"])
def test_a_mask_that_is_not_one_bool_for_each_example_is_refused(mask):
    # Two tokens, and batches of two: the padding would be taken for that of tokens.
    batches = data.padded(examples_of(4, mask=mask), batch_size=2)
    with pytest.raises(ValueError, match=r"mask: came (bool\[2,2\]|int32\[2\]), wanted bool\[2\]"):
        batches[0]


def test_padded_is_a_sequence():
    batches = data.padded(examples_of(5), batch_size=2)
    assert batches[-1]["x"].tolist() == batches[2]["x"].tolist() == [4, 4]
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize("held", [lambda examples: examples, big], ids=["in memory", "read ahead"])
@pytest.mark.parametrize("start", [0, 7, 2**40])
def test_prefetching_changes_nothing(held, start):
    stream = data.shuffled(held(examples_of(37, y=np.zeros((37, 2)))), batch_size=8, seed=0)
    batches = list(data.prefetch(stream, start, start + 9))
    assert len(batches) == 9
    for n, batch in enumerate(batches, start):
        assert batch.keys() == stream[n].keys()
        for name, values in stream[n].items():
            np.testing.assert_array_equal(batch[name], values)
    assert list(data.prefetch(stream, start, start)) == []


def test_prefetching_takes_padded_batches_and_plain_streams_too():
    batches = data.padded(big(examples_of(5)), batch_size=2)
    masks = [batch["mask"].tolist() for batch in data.prefetch(batches, 0, len(batches))]
    assert masks == [[True, True], [True, True], [True, False]]

    class Mine:
        def __getitem__(self, step):
            return {"x": np.full(2, step)}

    assert [batch["x"][0] for batch in data.prefetch(Mine(), 3, 6)] == [3, 4, 5]


def test_an_error_while_reading_ahead_reaches_the_caller():
    def read(indices):
        raise ValueError("mine/all: label: came 12")

    stream = data.shuffled(big(examples_of(5))._replace(read=read), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="label: came 12"):
        next(data.prefetch(stream, 0, 5))


def test_reading_ahead_is_bounded_and_stops_with_its_caller():
    seen = []
    examples = examples_of(5)

    def read(indices):
        seen.append(len(indices))
        return examples.read(indices)

    stream = data.shuffled(big(examples)._replace(read=read), batch_size=2, seed=0)
    # Those of other tests may end meanwhile.
    before = set(threading.enumerate())
    batches = data.prefetch(stream, 0, 10_000)
    for _ in range(10):
        next(batches)
    own = set(threading.enumerate()) - before
    assert own
    batches.close()
    for thread in own:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in own)
    # 10 taken, 4 ready, 4 in the threads' hands, and as many again where one had just been taken.
    assert len(seen) <= 30
