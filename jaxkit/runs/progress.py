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

    update:  (step, {name: value}, speed) -> None; cheap, draws only now and then
    message: (text) -> None; a line that stays
    close:   () -> None
    """

    update: Callable[[int, Mapping[str, Any], Mapping[str, float]], None]
    message: Callable[[str], None]
    close: Callable[[], None]


def progress(console: Console, *, start: int, num_steps: int) -> Progress:
    """A live bar where the console is a terminal that can redraw a line, else one line every few seconds."""
    return _bar(console, start, num_steps) if console.is_interactive else _lines(console, start, num_steps)


def _text(values: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if "." not in name)


def _rate(speed: Mapping[str, float]) -> str:
    """Tokens/s, or examples/s, or nothing yet; then what is known of utilisation, memory and waiting."""
    said = []
    for name, unit in (("tokens_per_second", "tokens/s"), ("examples_per_second", "examples/s")):
        if name in speed:
            said.append(f"{speed[name]:,.0f} {unit}")
            break
    if "model_flops_utilisation" in speed:
        said.append(f"MFU {speed['model_flops_utilisation']:.0%}")
    if "device_memory_bytes" in speed:
        said.append(f"{speed['device_memory_bytes'] / 2**30:.1f} GiB")
    if speed.get("waiting_for_data", 0) > 0.1:
        said.append(f"{speed['waiting_for_data']:.0%} waiting for data")
    return ", ".join(said)


def _bar(console: Console, start: int, num_steps: int) -> Progress:
    from rich import progress as bars
    from rich.table import Column

    # What has a ratio shares the width that the rest leaves: the step is there however narrow the terminal.
    bar = bars.Progress(
        bars.TextColumn("step {task.completed:,}/{task.total:,}"),
        bars.BarColumn(bar_width=None, table_column=Column(ratio=1)),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[said]}", table_column=Column(ratio=3, no_wrap=True)),
        expand=True,
        console=console,
        # Its refresh thread would compete with the training thread for the interpreter.
        auto_refresh=False,
        transient=True,
    )
    task = bar.add_task("", total=num_steps, completed=start, said="")
    bar.start()
    drawn = time.monotonic()

    def update(step: int, values: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= SECONDS_BETWEEN_REDRAWS or step >= num_steps:
            said = f"{_text(values)}  {_rate(speed)}"
            bar.update(task, completed=step, said=said, refresh=True)
            drawn = now

    return Progress(update, lambda text: bar.console.print(text, soft_wrap=True), bar.stop)


def _lines(console: Console, start: int, num_steps: int) -> Progress:
    printed = time.monotonic()

    def update(step: int, values: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES:
            text = f"step {step}/{num_steps}  {_text(values)}  {_rate(speed)}"
            console.print(text, highlight=False, soft_wrap=True)
            printed = now

    return Progress(update, lambda text: console.print(text, highlight=False, soft_wrap=True), lambda: None)
