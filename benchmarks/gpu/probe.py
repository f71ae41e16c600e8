"""What both sides do around their steps: the first is timed, ten are traced, the rest are the driver's rounds."""

import time
from collections.abc import Callable, Iterable
from typing import Any

# The run loop writes its first row at step 10, and compiles something for it.
WARM, TRACED = 25, 10


def idle_share(spans: Iterable[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end in which no span was under way.

    Example:
        >>> idle_share([(0.0, 1.0), (0.5, 2.0), (3.0, 4.0)])
        0.25
    """
    ordered = sorted(spans)
    if not ordered:
        return float("nan")
    first, reached, busy = ordered[0][0], ordered[0][0], 0.0
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1.0 - busy / (reached - first)


def probed(
    on_step: Callable[..., None],
    notes: dict[str, Any],
    *,
    begin: Callable[[], Any],
    end: Callable[[], Iterable[tuple[float, float]]],
) -> Callable[..., None]:
    """An `on_step` that first fills `notes`: when the first step was done, and the idle share of ten in a trace.

    begin, end: start a trace; stop it, and say when the device was at work.
    """
    done, began = 0, time.perf_counter()

    def step(fetch: Callable[[], Any], steps: int = 1) -> None:
        nonlocal done
        before, done = done, done + steps
        reached = lambda number: before < number <= done
        if reached(1):
            fetch()
            notes.update(first_step=time.perf_counter() - began, first_step_at=time.time())
        elif reached(WARM):
            fetch()
            begin()
        elif reached(WARM + TRACED):
            fetch()
            notes["idle"] = idle_share(end())
            on_step(fetch, steps)
        elif done > WARM + TRACED:
            on_step(fetch, steps)

    return step
