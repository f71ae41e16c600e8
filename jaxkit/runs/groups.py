"""Two groups of runs that differ in more than their seeds: the mean difference, its interval, a test."""

import collections
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkit import configs
from jaxkit.runs import compare, directory, files, rows

CONFIDENCE = 0.95
# From fewer runs a side the test stands on its assumptions alone, and a result says so.
FEW = 5


def compared(a: Sequence[Path], b: Sequence[Path]) -> dict[str, Any]:
    """What two groups of runs differ in, as plain data; what `jaxkit compare A... --with B... --json` prints.

    Where both have the same seeds, once each, the runs are paired by them; else they count as independent.

    Raises:
        UsageError: not run directories, or damaged ones.
    """
    sides = [[directory.summary(run) for run in side] for side in (a, b)]
    read = [[directory.read_config(run) for run in side] for side in (a, b)]
    seeds = [[config.get("seed") for config in side] for side in read]
    origins = [[files.read_json(run / directory.PROVENANCE) or {} for run in side] for side in (a, b)]
    paired = pairs(*seeds)
    found = [[compare.metrics(summary) for summary in side] for side in sides]
    names = dict.fromkeys(name for side in found for values in side for name in values)
    order = [[side.index(seed) for seed in seeds[0]] if paired else list(range(len(side))) for side in seeds]
    values = {
        name: [[rows.number(found[side][n].get(name)) for n in order[side]] for side in (0, 1)] for name in names
    }
    return {
        "runs": [[summary["run"] for summary in side] for side in sides],
        "seeds": seeds,
        "paired": paired,
        "config": differing_config(*read),
        "origin": _differing(
            compare.beside([compare.origin(found) for side in origins for found in side]), len(a)
        ),
        "metrics": {
            name: difference(*columns, paired=paired)
            for name, columns in values.items()
            if any(value is not None for column in columns for value in column)
        },
        "notes": _notes(sides),
    }


def pairs(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two groups have the same seeds, each once.

    Example:
        >>> pairs([0, 1], [1, 0]), pairs([0, 0], [0, 0]), pairs([0], [1])
        (True, False, False)
    """
    return len(set(a)) == len(a) == len(b) and set(a) == set(b) and None not in a


def differing_config(a: Sequence[configs.Frozen], b: Sequence[configs.Frozen]) -> list[dict[str, Any]]:
    """The paths at which any two runs differ: [{"path", "a": values, "b": values, "between": bool}].

    None is the value of a run that has nothing there; "between" is False where both groups have the same values
    there, as they have of a seed.
    """
    return _differing(compare.differing_config([*a, *b]), len(a))


def _differing(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """What not all runs have the same of; the first `count` are those of one group."""
    found = []
    for path, values in columns.items():
        if len(set(values)) > 1:
            said = values[:count], values[count:]
            between = collections.Counter(said[0]) != collections.Counter(said[1])
            found.append({"path": path, "a": said[0], "b": said[1], "between": between})
    return found


def difference(a: Sequence[float | None], b: Sequence[float | None], *, paired: bool) -> dict[str, Any]:
    """The mean of each group, and of the difference b - a with its 95 % interval and the p value of a t test.

    Paired where seed by seed the runs belong together, else Welch's, which assumes no equal variances.

    Returns:
        {"a": {"n", "mean", "sd"}, "b": ..., "difference", "interval", "p", "test", "note"}; None for what so few
        runs cannot say.

    Example:
        >>> found = difference([0.90, 0.91, 0.92], [0.93, 0.95, 0.94], paired=True)
        >>> round(found["difference"], 3), [round(x, 3) for x in found["interval"]], found["test"]
        (0.03, [0.005, 0.055], 'paired t')
    """
    if paired:
        kept = [(x, y) for x, y in zip(a, b) if x is not None and y is not None]
        first, second = ([pair[side] for pair in kept] for side in (0, 1))
    else:
        first, second = ([value for value in side if value is not None] for side in (a, b))
    sides = [_moments(first), _moments(second)]
    empty = {"a": sides[0], "b": sides[1], "difference": None, "interval": None, "p": None, "test": None}
    if not first or not second:
        return {**empty, "note": "only one side has it"}
    if not all(map(math.isfinite, (*first, *second))):
        return {**empty, "note": "not finite in some run"}
    found = {**empty, "difference": sides[1]["mean"] - sides[0]["mean"]}
    least = min(len(first), len(second))
    if least < 2:
        return {**found, "note": "one run a side: no word about chance"}
    differences = [y - x for x, y in zip(first, second)]
    constant = len(set(differences)) == 1 if paired else len(set(first)) == len(set(second)) == 1
    if constant:
        return {**found, "note": "without any spread: no test"}
    return {**found, **_test(first, second, paired), "note": "few runs" if least < FEW else None}


def _test(a: Sequence[float], b: Sequence[float], paired: bool) -> dict[str, Any]:
    from scipy import stats  # which jax brings

    with warnings.catch_warnings():
        # Nearly no spread is said to lose precision: then the interval is nearly a point, which it shows.
        warnings.simplefilter("ignore", RuntimeWarning)
        done = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)
        interval = done.confidence_interval(CONFIDENCE)
    return {
        "interval": [float(interval.low), float(interval.high)],
        "p": float(done.pvalue),
        "test": "paired t" if paired else "Welch t",
    }


def _moments(values: Sequence[float]) -> dict[str, Any]:
    finite = bool(values) and all(map(math.isfinite, values))
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if finite else None,
        "sd": statistics.stdev(values) if finite and len(values) > 1 else None,
    }


def _notes(sides: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """What a reader should know before believing the table."""
    notes = [
        f"{run['run']} is {run['status']}: step {run['step']:,} of {run['num_steps']:,}"
        for side in sides
        for run in side
        if run["status"] != "finished"
    ]
    again = [run for run, count in collections.Counter(r["run"] for s in sides for r in s).items() if count > 1]
    notes += [f"{run} is named more than once" for run in again]
    fewest = min(map(len, sides))
    if fewest < FEW:
        runs = "one run a side is" if fewest == 1 else f"{fewest} runs a side are"
        notes.append(f"{runs} too few to rely on; from {FEW} on the intervals mean something")
    return notes
