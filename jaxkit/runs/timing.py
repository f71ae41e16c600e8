"""Where the time of a loop goes, and how fast it is."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxkit import costs
from jaxkit.recipe import Plan
from jaxkit.runs import process


class Timer(NamedTuple):
    """A clock for one loop.

    first:    (step) -> None; the first call is done, everything after it counts as steps
    first_at: () -> how old the process was then, in seconds
    pause:    () -> context; what is done in it does not count
    waiting:  (read) -> what read() gives; it takes time for which the loop waits for data
    speed:    (step) -> {name: number} since the last time it was asked; {} the first time
    read:     (step) -> {name: seconds or steps/s} of the whole loop
    """

    first: Callable[[int], None]
    first_at: Callable[[], float]
    pause: Callable[[], contextlib.AbstractContextManager[None]]
    waiting: Callable[[Callable[[], Any]], Any]
    speed: Callable[[int], dict[str, float]]
    read: Callable[[int], dict[str, float | None]]


def timer(start: int, rates: Callable[[float], Mapping[str, float]] = lambda steps_per_second: {}) -> Timer:
    """A timer for a loop that begins after step `start`; `rates` says what else steps/s come to."""
    began = time.monotonic()
    first_at, first_step, first_age = began, start, process.age()
    paused = waited = 0.0
    asked: tuple[int, float, float] | None = None

    def first(step: int) -> None:
        nonlocal first_at, first_step, first_age, asked, waited
        first_at, first_step, first_age = time.monotonic(), step, process.age()
        waited, asked = 0.0, (step, first_at - paused, 0.0)

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        nonlocal paused
        before = time.monotonic()
        yield
        paused += time.monotonic() - before

    def waiting(read: Callable[[], Any]) -> Any:
        nonlocal waited
        before = time.monotonic()
        found = read()
        waited += time.monotonic() - before
        return found

    def speed(step: int) -> dict[str, float]:
        nonlocal asked
        now, before = (step, time.monotonic() - paused, waited), asked
        asked = now
        if before is None or now[0] <= before[0] or now[1] <= before[1]:
            return {}
        seconds = now[1] - before[1]
        rate = (now[0] - before[0]) / seconds
        found = {"steps_per_second": rate, **rates(rate), "waiting_for_data": (now[2] - before[2]) / seconds}
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return found if memory is None else {**found, "device_memory_bytes": memory}

    def read(step: int) -> dict[str, float | None]:
        elapsed = time.monotonic() - first_at - paused
        rate = (step - first_step) / elapsed if step > first_step and elapsed > 0 else None
        return {
            "steps_per_second": rate,
            **({} if rate is None else rates(rate)),
            "waiting_for_data": waited,
            "first_call": first_at - began,
            "evaluating_and_saving": paused,
        }

    return Timer(first, lambda: first_age, pause, waiting, speed, read)


def rates(
    plan: Plan, *, batch_size: int, length: int | None, num_devices: int
) -> Callable[[float], dict[str, float]]:
    """What steps a second come to: examples, tokens where examples are sequences, and utilisation.

    "model_flops_utilisation" is 3 x the forward FLOPs (recomputation not counted) over the data sheet's bfloat16
    peak of all devices; it is there where the device is in `costs.DEVICES`.

    Source:
        Chowdhery et al. 2022, "PaLM", appendix B.
    """
    on = costs.device_of_kind(jax.devices()[0].device_kind)
    model_flops = plan.flops if plan.model_flops is None else plan.model_flops

    def of(steps_per_second: float) -> dict[str, float]:
        found = {"examples_per_second": steps_per_second * batch_size}
        if length is not None:
            found["tokens_per_second"] = steps_per_second * batch_size * length
        if on is not None:
            found["model_flops_utilisation"] = steps_per_second * model_flops / (on.flops * num_devices)
        return found

    return of
