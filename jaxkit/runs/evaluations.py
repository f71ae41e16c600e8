"""`evaluation/<split>.json`: what a whole split came to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.runs import files

EVALUATION = "evaluation"


def write(workdir: Path, split: str, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the report of one split, and returns its metrics as plain values.

    Beside them stands the reliability diagram of each metric that has one.

    Raises:
        OSError: it cannot be written.
    """
    from jaxkit.runs import record  # brings jax, which reading does not need

    values = {name: record.plain(record.computed(state)) for name, state in metrics.items()}
    found = {"split": split, "step": step, "metrics": values}
    diagrams = {name: state.reliability() for name, state in metrics.items() if hasattr(state, "reliability")}
    if diagrams:
        found["reliability"] = record.plain(diagrams)
    (workdir / EVALUATION).mkdir(exist_ok=True)
    files.write_json(workdir / EVALUATION / f"{split}.json", found)
    return values


def read(workdir: Path) -> dict[str, dict[str, Any]]:
    """The reports of a run, by split.

    Raises:
        UsageError: one is damaged.

    Example:
        >>> read(Path("there_is_no_such_directory"))
        {}
    """
    found = {}
    for path in sorted((workdir / EVALUATION).glob("*.json")):
        report = files.read_json(path) or {}
        if not isinstance(report.get("metrics"), dict):
            raise files.damaged(path, "has no metrics")
        found[path.stem] = report
    return found


def remove(workdir: Path) -> None:
    """Removes the reports of an end from which a run goes on.

    Raises:
        OSError: one cannot be removed.

    Example:
        >>> remove(Path("there_is_no_such_directory"))
    """
    for path in (workdir / EVALUATION).glob("*.json"):
        path.unlink()


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of some metrics by the names that the record has for them; lists are left out.

    Example:
        >>> flat({"loss": 0.5, "calibration": {"ece": 0.1}, "per_class": [1, 2]}, "test/")
        {'test/loss': 0.5, 'test/calibration.ece': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            found[prefix + name] = value
    return found
