"""Rows on their way from the devices to the record: fetched and written on a thread, so that no step waits."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit.means import add
from jaxkit.recipe import Plan
from jaxkit.runs import record, stopping
from jaxkit.runs.progress import Progress
from jaxkit.types import Metrics

# Steps without a change of the parameters after which that is said.
STILL = 100


class Steps(NamedTuple):
    """The steps of one call, still on the devices: those before it, and of each its metrics and a fold."""

    start: int
    metrics: Metrics  # [steps, ...]
    parameters: jax.Array  # u32[steps], of steps that are not recorded anything


class Ledger(NamedTuple):
    """Takes rows as they come from the devices; a thread fetches and writes them when they are there.

    add:         (step, metrics, parameters, evaluations, speed, keep=) -> None; what is to be recorded at a step,
                 still on the devices: the metrics of each call since the row before, a fold of the parameters, and
                 of each split the metrics of its batches. Waits until all but the newest `keep` rows are written;
                 raises what went wrong, and `stopping.Diverged` once all are written, where one of those says that
                 the run must end
    close:       () -> None; writes what is left
    interval:    () -> the sum of the metrics since the last row that has them, on the host; after keep=0
    evaluations: the newest evaluation of each split; likewise
    """

    add: Callable[..., None]
    close: Callable[[], None]
    interval: Callable[[], Metrics]
    evaluations: Mapping[str, Metrics]


def ledger(
    config: Any,
    recorder: record.Recorder,
    progress: Progress,
    interval: Metrics,
    wrong: Callable[[Any, bool], str | None] = lambda loss, recorded: None,
) -> Ledger:
    """A ledger that goes on from the metrics of an interval that was under way: `interval`, on the host.

    `wrong` judges each loss, as `stopping.judge` makes it.
    """
    log_every, num_steps = config.log_every, config.num_steps
    evaluations: dict[str, Metrics] = {}
    warned: list[int] = []
    # The newest fold that was another than the one before, and its step; whether something was said of it.
    still, told = (-1, 0), False
    # Which row says that the run must end, and why.
    ends: list[tuple[int, stopping.Diverged]] = []
    rows: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
    added, written, errors, changed = 0, 0, list[BaseException](), threading.Condition()

    def warn_once(step: int, values: Mapping[str, Any]) -> None:
        if not warned and str in map(type, values.values()):
            warned.append(step)
            name, value = next(item for item in values.items() if isinstance(item[1], str))
            progress.message(f"warning: step {step}: {name} is {value}; is the learning rate too high?")

    def look_at(step: int, fold: int) -> None:
        """Says once that no step changes anything: a schedule that ends before the run leaves a rate of 0."""
        nonlocal still, told
        if fold != still[0]:
            still = fold, step
        elif step - still[1] >= STILL and not told:
            told = True
            progress.message(
                f"warning: the parameters are those of step {still[1]} still at step {step}; does the schedule of"
                " the learning rate end before the run?"
            )

    def judge(step: int, values: Mapping[str, Any], logs: bool = True) -> None:
        found = wrong(values.get("loss"), logs)
        if found is not None:
            ends.append((written + 1, stopping.Diverged(step, found)))

    def add_row(*row: Any, keep: int) -> None:
        nonlocal added
        added += 1
        # A plain tuple: a named one would be a third of all that a step waits for here.
        rows.put(row)
        wait(added - keep)
        # A newer row may be written by now, or not: a run ends at the same step whichever it is.
        if ends and ends[0][0] <= added - keep:
            wait(added)
            raise ends[0][1]

    def work() -> None:
        nonlocal written
        while (row := rows.get()) is not None:
            try:
                if not errors:
                    write(*row)
            except BaseException as error:
                errors.append(error)
            with changed:
                written += 1
                changed.notify_all()

    def wait(number: int) -> None:
        if written < number:
            with changed:
                changed.wait_for(lambda: written >= number)
        if errors:
            raise errors[0]

    def close() -> None:
        rows.put(None)
        thread.join()

    def write_within(steps: Steps, end: int) -> None:
        """The rows of the steps before `end`, at which the interval goes on."""
        nonlocal interval
        leaves, tree = jax.tree.flatten(on_host(steps.metrics))
        folds = np.asarray(steps.parameters).tolist()
        numbers = range(steps.start + 1, steps.start + len(folds) + 1)
        last_of = [n for n, step in enumerate(numbers) if step % log_every == 0 and step < end]
        sums = [np.add.reduceat(leaf, [0, *(n + 1 for n in last_of)], axis=0) for leaf in leaves]
        for total, before in zip(sums, jax.tree.leaves(interval)):
            total[0] += before
        found = record.values_of_each(jax.tree.unflatten(tree, [total[:-1] for total in sums]))
        recorder.extend([(numbers[n], values, folds[n]) for n, values in zip(last_of, found)])
        for n, values in zip(last_of, found):
            look_at(numbers[n], folds[n])
            warn_once(numbers[n], values)
            judge(numbers[n], values)
        interval = jax.tree.unflatten(tree, [np.asarray(total[-1]) for total in sums])

    def write(
        step: int,
        metrics: list[Metrics | Steps],
        parameters: jax.Array,
        evaluated: Mapping[str, list[Metrics]],
        speed: Mapping[str, float],
    ) -> None:
        nonlocal interval
        for part in metrics:
            if isinstance(part, Steps):
                write_within(part, step)
            else:
                interval = add(interval, on_host(part))
        values: dict[str, Any] = {}
        trained, logs = record.values(interval), step % log_every == 0 or step == num_steps
        # Also of an interval that goes on: what is wrong must not be saved.
        judge(step, trained, logs)
        if logs:
            values |= trained
            interval = jax.tree.map(np.zeros_like, interval)
        for split, parts in evaluated.items():
            evaluations[split] = summed([on_host(part) for part in parts])
            values |= record.values(evaluations[split], prefix=f"{split}/")
        if values:
            fold = int(parameters)
            look_at(step, fold)
            recorder.append(step, values, fold, speed)
            progress.update(step, values, speed)
            warn_once(step, values)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return Ledger(add_row, close, lambda: interval, evaluations)


def on_host(metrics: Metrics) -> Metrics:
    """Additive metrics as numpy arrays, wide enough to sum many."""
    return jax.tree.map(exact, jax.device_get(metrics))


def no_metrics(plan: Plan) -> Metrics:
    """The metrics of an interval without a step, on the host."""
    return jax.tree.map(lambda x: exact(np.zeros(x.shape, x.dtype)), plan.metrics["train"])


def exact(x: Any) -> np.ndarray:
    """The number in float64 or int64: sums over many steps and batches lose nothing there.

    Example:
        >>> exact(np.float32(0.5)).dtype
        dtype('float64')
    """
    return np.asarray(x, np.float64 if np.issubdtype(np.asarray(x).dtype, np.floating) else np.int64)


def summed(parts: list[Metrics]) -> Metrics:
    """The sum of the metrics of several batches.

    Example:
        >>> from jaxkit.means import Mean
        >>> summed([{"loss": Mean(1.0, 2)}, {"loss": Mean(2.0, 2)}])["loss"].compute()
        0.75
    """
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total
