"""Two run directories, compared: the records row by row, and the newest checkpoint that both have, bit for bit."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit.runs import checkpoints, directory, record

# What a row says of the machine and its clock, not of the run.
BESIDE = ("wall", "speed")


class Difference(NamedTuple):
    """One thing that two runs do not agree on.

    where:    "step 40", "checkpoint 400", "the end"
    what:     the name of the value, or the path of the array
    text:     both values, or by how much they differ
    relative: the relative difference; inf where there is no such number
    """

    where: str
    what: str
    text: str
    relative: float

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.text}"


class Comparison(NamedTuple):
    """How far two runs agree.

    rows:       how many rows of the record were compared
    agreed:     the last recorded step up to which they are the same
    last:       the last recorded step that was compared
    checkpoint: the step of the checkpoints that were compared, None where the two have none of the same step
    arrays:     how many arrays those hold
    differences: of the first row that differs, then of the checkpoints and of the end
    largest:    the largest relative difference anywhere, 0.0 where everything is the same
    """

    rows: int
    agreed: int
    last: int
    checkpoint: int | None
    arrays: int
    differences: tuple[Difference, ...]
    largest: float

    @property
    def identical(self) -> bool:
        """Whether nothing differs, and something was compared."""
        return not self.differences and self.rows > 0


def compare(one: Path, other: Path, *, upto: int | None = None) -> Comparison:
    """Compares what two runs recorded and saved; `upto` names the last step that counts, None: to the end of both.

    Wall clock and speed are left out. Arrays are compared at a step of which both have a checkpoint: the next one
    behind the first row that differs, or else the newest.

    Raises:
        UsageError: not a run directory, or a record with a torn or broken line.
    """
    differences: list[Difference] = []
    agreed, last, number, largest = 0, 0, 0, 0.0
    for a, b in itertools.zip_longest(_rows(one, upto), _rows(other, upto)):
        number, last = number + 1, (a or b)["step"]
        found = list(_of_rows(a, b))
        largest = max([largest, *(difference.relative for difference in found)])
        if not differences:
            agreed = agreed if found else last
            differences += found
    step, arrays, apart = _checkpoints(one, other, agreed, math.inf if upto is None else upto)
    differences += apart
    if upto is None:
        differences += _ends(one, other)
    largest = max([largest, *(difference.relative for difference in differences)])
    return Comparison(number, agreed, last, step, arrays, tuple(differences), largest)


def _rows(run: Path, upto: int | None) -> list[dict[str, Any]]:
    rows = record.read(run / directory.METRICS)
    return [row for row in rows if upto is None or row["step"] <= upto]


def _of_rows(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> Iterator[Difference]:
    """What two rows in the same place say differently."""
    if a is None or b is None:
        yield Difference(f"step {(a or b)['step']}", "the row", "is only in one record", math.inf)  # type: ignore[index]
        return
    if a["step"] != b["step"]:
        yield Difference(f"step {a['step']}", "the row", f"the other record has step {b['step']} here", math.inf)
        return
    names = [name for name in {**a, **b} if name not in BESIDE and a.get(name) != b.get(name)]
    where = f"step {a['step']}"
    for name in names:
        if name != "digest":
            relative = _relative(a.get(name), b.get(name))
            yield Difference(where, name, f"{a.get(name)!r} and {b.get(name)!r}", relative)
    if names == ["digest"]:
        # By how much is for the checkpoints to say.
        yield Difference(where, "digest", "the bits of the parameters differ, every value is the same", 0.0)


def _relative(a: Any, b: Any) -> float:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return abs(a - b) / max(abs(a), abs(b)) if numbers else math.inf


def _checkpoints(one: Path, other: Path, after: int, upto: float) -> tuple[int | None, int, list[Difference]]:
    """Of a checkpoint that both have: its step, how many arrays it holds, and which of them differ."""
    of_one, of_other = ({*checkpoints.steps(run / directory.CHECKPOINTS)} for run in (one, other))
    common = sorted(step for step in of_one & of_other if step <= upto)
    if not common:
        return None, 0, []
    step = next((step for step in common if step > after), common[-1])
    paths = [run / directory.CHECKPOINTS / str(step) for run in (one, other)]
    damaged = [damage for path in paths if (damage := checkpoints.verify(path))]
    if damaged:
        return step, 0, [Difference(f"checkpoint {step}", "its files", f"are damaged ({damaged[0]})", math.inf)]
    a, b = map(leaves, paths)
    found = [Difference(f"checkpoint {step}", *row) for row in array_differences(a, b)]
    return step, len({*a, *b}), found


def array_differences(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, str, float]]:
    """(path, by how much, relative difference) of each array whose bits differ.

    The relative difference of two arrays is that of their norms: |a - b| / max(|a|, |b|).

    Example:
        >>> list(array_differences({"w": np.float32([3.0, 4.0])}, {"w": np.float32([3.0, 4.5])}))
        [('w', '1 of 2 values, by up to 0.5 (relative 0.092)', 0.0924...)]
    """
    for path in {**a, **b}:
        if path not in a or path not in b:
            yield path, "is only in one checkpoint", math.inf
            continue
        x, y = np.asarray(a[path]), np.asarray(b[path])
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            yield path, f"{x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}", math.inf
            continue
        bits = lambda z: np.ascontiguousarray(z).reshape(-1).view(np.uint8).reshape(z.size, -1)
        apart = np.any(bits(x) != bits(y), axis=1) if x.size else np.zeros(0, bool)
        if apart.any():
            wide = [np.asarray(z, np.float64).reshape(-1) for z in (x, y)]
            with np.errstate(all="ignore"):
                most = np.max(np.abs(wide[0] - wide[1]))
                norm = max(map(np.linalg.norm, wide))
                relative = float(np.linalg.norm(wide[0] - wide[1]) / norm) if norm else 0.0
            # Bytes are also what a checkpoint has of complex numbers: those say nothing of how far they are apart.
            relative = relative if math.isfinite(relative) and x.dtype != np.uint8 else math.inf
            said = f"{apart.sum()} of {x.size} values, by up to {most:.3g} (relative {relative:.2g})"
            yield path, said, relative


def leaves(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by its path: "state.params.dense_0.kernel"; no config is needed for it."""
    from jaxkit.runs import arrays

    found = _shared(checkpoint) if (checkpoint / "state").is_dir() else arrays.read_all(checkpoint)
    # What is asked for first.
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith("state.params")))


def _shared(checkpoint: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint that many processes have written."""
    import jax
    import orbax.checkpoint as ocp

    from jaxkit import checks

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(checkpoint.absolute() / "state").item_metadata.tree
        arguments = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = checkpointer.restore(
            checkpoint.absolute() / "state", args=ocp.args.PyTreeRestore(restore_args=arguments)
        )
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {checks.path_of(path): leaf for path, leaf in paths}


def _ends(one: Path, other: Path) -> Iterator[Difference]:
    """What the two came to: status, last step, SHA-256 of the parameters, evaluations."""
    a, b = directory.summary(one), directory.summary(other)
    for name in ("status", "step", "params_sha256"):
        if a[name] != b[name]:
            # By how much parameters differ, their arrays have said.
            relative = 0.0 if name == "params_sha256" else math.inf
            yield Difference("the end", name, f"{a[name]!r} and {b[name]!r}", relative)
    found, wanted = (dict(_flat(x["evaluation"], "evaluation")) for x in (a, b))
    for name in {**found, **wanted}:
        x, y = found.get(name), wanted.get(name)
        if x != y:
            yield Difference("the end", name, f"{x!r} and {y!r}", _relative(x, y))


def _flat(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping | list):
        yield path, tree
        return
    for name, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        yield from _flat(value, f"{path}.{name}")
