"""Everything that a report says of one run, read from its directory alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import directory, evaluations, files, mistakes, rows

# More than a screen has pixels for.
MOST_POINTS = 2_000
_MOST_SAMPLES = 20_000
_MOST_PICTURE = 8 * 2**20


class Run(NamedTuple):
    """One run, as a report needs it.

    curves:     {name: {"step", "seconds", "value", "lost"}}, lists of one length; nan and infinities are None, and
                "lost" is the first step of one; "means" where it was thinned, what `means` says of it
    evaluation: the reports by split, reliability diagrams with them
    mistakes:   what `mistakes.json` says, {} without it
    picture:    the bytes of a PNG, empty without one
    """

    name: str
    summary: dict[str, Any]
    config: configs.Frozen
    curves: dict[str, dict[str, Any]]
    evaluation: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    patch: str
    mistakes: dict[str, Any]
    picture: bytes
    samples: str


def runs(workdirs: Sequence[Path]) -> list[Run]:
    """Reads run directories; each is called by as much of its path as tells it from the others.

    Raises:
        UsageError: not run directories, or damaged ones.
    """
    paths = [workdir.resolve() for workdir in workdirs]
    common = os.path.commonpath(paths) if len(set(paths)) > 1 else str(paths[0].parent)
    return [run(workdir, os.path.relpath(path, common)) for workdir, path in zip(workdirs, paths)]


def run(workdir: Path, name: str) -> Run:
    """Reads a run directory.

    Raises:
        UsageError: not a run directory, or a damaged one.
    """
    recorded = rows.read(workdir / directory.METRICS)
    return Run(
        name=name,
        summary=directory.summary(workdir, recorded),
        config=directory.read_config(workdir),
        curves=curves(recorded),
        evaluation=evaluations.read(workdir),
        provenance=files.read_json(workdir / directory.PROVENANCE) or {},
        patch=_text(workdir / "dirty.patch", _MOST_SAMPLES),
        mistakes=mistakes.read(workdir),
        picture=_picture(workdir / "picture.png"),
        samples=_text(workdir / "samples.txt", _MOST_SAMPLES),
    )


def curves(recorded: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The numbers of a record by name, each thinned to what can be seen.

    Example:
        >>> curves([{"step": 5, "wall": 7.0, "loss": 1.5}, {"step": 10, "wall": 9.0, "loss": "nan"}])["loss"]
        {'step': [5, 10], 'seconds': [0.0, 2.0], 'value': [1.5, None], 'lost': 10}
    """
    walls = [rows.finite(row.get("wall")) for row in recorded]
    began = next((wall for wall in walls if wall is not None), 0.0)
    points: dict[str, list[tuple[int, float | None, float | None]]] = {}
    lost: dict[str, int] = {}
    for row, wall in zip(recorded, walls):
        seconds = round(wall - began, 3) if wall is not None else None
        speed = row["speed"] if isinstance(row.get("speed"), dict) else {}
        values = {name: value for name, value in row.items() if name not in rows.BESIDE}
        for name, value in {**values, **{f"speed.{name}": value for name, value in speed.items()}}.items():
            number = rows.number(value)
            if number is None:
                continue
            finite = abs(number) < float("inf")
            if not finite:
                lost.setdefault(name, row["step"])
            points.setdefault(name, []).append((row["step"], seconds, number if finite else None))
    found: dict[str, dict[str, Any]] = {}
    for name, each in points.items():
        columns = zip(("step", "seconds", "value"), map(list, zip(*thinned(each))))
        found[name] = {**dict(columns), "lost": lost.get(name)}
        if len(each) > MOST_POINTS:
            found[name]["means"] = means(each)
    return found


def _stretches(points: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    length = -(-len(points) // most)
    return (points[start : start + length] for start in range(0, len(points), length))


def means(points: Sequence[tuple[Any, ...]], most: int = MOST_POINTS // 2) -> dict[str, list[Any]]:
    """The mean of each of so many stretches of a curve, at its end; "rows" are those that count, None is a gap.

    Example:
        >>> means([(1, 0.1, 1.0), (2, 0.2, 9.0), (3, 0.3, None), (4, 0.4, 2.0)], most=2)
        {'step': [2, 4], 'seconds': [0.2, 0.4], 'value': [5.0, 2.0], 'rows': [2, 1]}
    """
    found: dict[str, list[Any]] = {"step": [], "seconds": [], "value": [], "rows": []}
    for stretch in _stretches(points, most):
        known = [value for *_, value in stretch if value is not None]
        # Divided first: a sum of what is just finite need not be.
        mean = sum(value / len(known) for value in known) if known else None
        for name, value in zip(found, (*stretch[-1][:2], mean, len(known))):
            found[name].append(value)
    return found


def thinned(points: Sequence[tuple[Any, ...]], most: int = MOST_POINTS) -> list[tuple[Any, ...]]:
    """At most so many of some points: of each stretch the lowest and the highest, so that no peak is lost.

    The value is the last of a point; None, where a curve has a gap, is kept as a peak is.

    Example:
        >>> thinned([(0, 1.0), (1, 9.0), (2, 1.0), (3, 2.0), (4, 0.0), (5, 2.0)], most=4)
        [(0, 1.0), (1, 9.0), (3, 2.0), (4, 0.0)]
    """
    if len(points) <= most:
        return list(points)
    found: list[tuple[Any, ...]] = []
    for stretch in _stretches(points, most // 2):
        gap = [place for place, point in enumerate(stretch) if point[-1] is None][:1]
        known = [place for place, point in enumerate(stretch) if point[-1] is not None]
        low_high = [choose(known, key=lambda place: stretch[place][-1]) for choose in (min, max) if known]
        found += [stretch[place] for place in sorted({*low_high, *gap})]
    return found


def reliability(evaluation: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """The reliability diagrams of a run by "split/metric": confidence, accuracy and count of each bin.

    What is not the lists of numbers that a run writes is left out.
    """
    found = {}
    for split, report in evaluation.items():
        diagrams = report.get("reliability")
        for name, diagram in diagrams.items() if isinstance(diagrams, dict) else ():
            columns = [diagram.get(key) if isinstance(diagram, dict) else None for key in _DIAGRAM]
            if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:  # type: ignore[arg-type]
                plain = [[rows.finite(value) for value in column or ()] for column in columns]
                found[f"{split}/{name}"] = dict(zip(_DIAGRAM, plain))
    return found


_DIAGRAM = ("confidence", "accuracy", "count")


def _text(path: Path, most: int) -> str:
    try:
        with files.opened(path) as file:
            text = file.read(most + 1).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); move it away") from error
    return text if len(text) <= most else text[:most] + "\n..."


def _picture(path: Path) -> bytes:
    """The picture, where it is one: what is embedded must be what it says."""
    try:
        if path.stat().st_size > _MOST_PICTURE:
            return b""
        content = files.content(path)
    except OSError:
        return b""
    return content if content.startswith(mistakes.PNG) else b""
