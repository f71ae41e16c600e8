"""How fast a run is, in the numbers that it records and in the words that it shows."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxkit.recipe import Plan
from jaxkit.runs import progress, timing

PLAN = Plan(**{name: None for name in Plan._fields} | {"flops": 300e12, "model_flops": 98.9e12})  # type: ignore[arg-type]


@pytest.fixture
def two_h200(monkeypatch):
    devices = [SimpleNamespace(device_kind="NVIDIA H200")] * 2
    monkeypatch.setattr(timing.jax, "devices", lambda: devices)


def test_throughput_is_of_all_devices_and_utilisation_of_their_peak(two_h200):
    found = timing.rates(PLAN, batch_size=8, length=16, num_devices=2)(2.0)
    assert found == {
        "examples_per_second": 16.0,
        "tokens_per_second": 256.0,
        # 2 steps of 98.9 TFLOPs in a second; two devices can do 2 x 989 TFLOPs.
        "model_flops_utilisation": pytest.approx(0.1),
    }


def test_utilisation_counts_the_update_where_no_model_is_evaluated(two_h200):
    found = timing.rates(PLAN._replace(model_flops=None), batch_size=8, length=None, num_devices=2)(0.989)
    assert found == {
        "examples_per_second": pytest.approx(7.912),
        "model_flops_utilisation": pytest.approx(0.15),  # 0.989 x 300 / (2 x 989)
    }


def test_a_device_of_unknown_peak_has_no_utilisation():
    assert timing.rates(PLAN, batch_size=8, length=None, num_devices=4)(1.0) == {"examples_per_second": 8.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to: [seconds]."""
    now = [100.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(
    ("stats", "memory"),
    [
        ({"peak_bytes_in_use": 3 * 2**30, "bytes_in_use": 1}, {"device_memory_bytes": 3 * 2**30}),
        ({"bytes_in_use": 1}, {}),
        (None, {}),
    ],
)
def test_speed_leaves_pauses_out_and_says_the_peak_of_memory_where_it_is_known(clock, monkeypatch, stats, memory):
    monkeypatch.setattr(timing.jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])

    def passes(seconds):
        clock[0] += seconds

    timer = timing.timer(5, lambda rate: {"examples_per_second": 8 * rate})
    assert timer.speed(5) == {}
    passes(30)  # the first call, which compiles
    timer.first(6)
    timer.waiting(lambda: passes(1))
    passes(3)
    with timer.pause():
        passes(50)
    wanted = {"steps_per_second": 2.5, "examples_per_second": 20.0, "waiting_for_data": 0.25, **memory}
    assert timer.speed(16) == wanted  # 10 steps in 4 s, 1 s of it waiting
    passes(5)
    assert timer.speed(26) == {
        **wanted,
        "steps_per_second": 2.0,
        "examples_per_second": 16.0,
        "waiting_for_data": 0,
    }
    found = timer.read(26)
    assert found == {
        "steps_per_second": pytest.approx(20 / 9),
        "examples_per_second": pytest.approx(160 / 9),
        "waiting_for_data": 1.0,
        "first_call": 30.0,
        "evaluating_and_saving": 50.0,
    }


WORDS = {
    "nothing yet": ({}, ""),
    "steps alone say nothing": ({"steps_per_second": 9.0}, ""),
    "examples": ({"examples_per_second": 1234.5}, "1,234 examples/s"),
    "tokens before examples": ({"examples_per_second": 8.0, "tokens_per_second": 8192.0}, "8,192 tokens/s"),
    "utilisation": ({"model_flops_utilisation": 0.456}, "MFU 46%"),
    "memory": ({"device_memory_bytes": 3 * 2**29}, "1.5 GiB"),
    "little waiting": ({"waiting_for_data": 0.1}, ""),
    "waiting": ({"waiting_for_data": 0.25}, "25% waiting for data"),
    "all": (
        {
            "tokens_per_second": 520000.0,
            "model_flops_utilisation": 0.45,
            "device_memory_bytes": 2**36,
            "waiting_for_data": 0.5,
        },
        "520,000 tokens/s, MFU 45%, 64.0 GiB, 50% waiting for data",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_speed_in_words(name):
    speed, wanted = WORDS[name]
    assert progress._rate(speed) == wanted


@pytest.mark.parametrize("terminal", [True, False], ids=["bar", "lines"])
def test_speed_is_shown_beside_the_values(monkeypatch, terminal):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160)
    shown = progress.progress(console, start=0, num_steps=1000)
    shown.update(1000, {"loss": 0.5, "guard.skipped": 3.0}, {"examples_per_second": 1234.0})
    shown.close()
    for words in ("loss 0.5", "1,234 examples/s", "1,000/1,000" if terminal else "step 1000/1000"):
        assert words in text.getvalue()
    assert "skipped" not in text.getvalue()
