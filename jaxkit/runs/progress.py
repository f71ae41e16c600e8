"""What a person sees while a run goes: a live bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.console import Console

# A redraw costs about a millisecond of the thread that trains; the eye does not need more of them.
SECONDS_BETWEEN_REDRAWS = 0.5
SECONDS_BETWEEN_LINES = 5.0


class Progress(NamedTuple):
    """Shows how a run goes.

    update:  (step, {name: value}) -> None; cheap, draws only now and then
    message: (text) -> None; a line that stays
    close:   () -> None
    """

    update: Callable[[int, Mapping[str, Any]], None]
    message: Callable[[str], None]
    close: Callable[[], None]


def progress(console: Console, *, start: int, num_steps: int) -> Progress:
    """A live bar where the console is a terminal, else one line every few seconds."""
    return _bar(console, start, num_steps) if console.is_terminal else _lines(console, start, num_steps)


def _text(values: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if "." not in name)


def _bar(console: Console, start: int, num_steps: int) -> Progress:
    from rich import progress as bars

    bar = bars.Progress(
        bars.TextColumn("step {task.completed:,}/{task.total:,}"),
        bars.BarColumn(bar_width=None),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TextColumn("{task.fields[values]}"),
        console=console,
        # Its refresh thread would compete with the training thread for the interpreter.
        auto_refresh=False,
        transient=True,
    )
    task = bar.add_task("", total=num_steps, completed=start, values="", rate="")
    bar.start()
    drawn = began = time.monotonic()

    def update(step: int, values: Mapping[str, Any]) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= SECONDS_BETWEEN_REDRAWS or step >= num_steps:
            rate = f"{(step - start) / max(now - began, 1e-9):,.0f} steps/s"
            bar.update(task, completed=step, values=_text(values), rate=rate, refresh=True)
            drawn = now

    return Progress(update, lambda text: bar.console.print(text, soft_wrap=True), bar.stop)


def _lines(console: Console, start: int, num_steps: int) -> Progress:
    printed = time.monotonic()

    def update(step: int, values: Mapping[str, Any]) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES:
            console.print(f"step {step}/{num_steps}  {_text(values)}", highlight=False)
            printed = now

    return Progress(update, lambda text: console.print(text, highlight=False, soft_wrap=True), lambda: None)
