"""TensorBoard: the rows of a run as one event file in its directory."""

import os
from pathlib import Path
from typing import IO, Any

from jaxkit.writers import libraries
from jaxkit.writing import Tracked, Writer


def tensorboard(*, directory: str = "tensorboard") -> Writer:
    """Writes an event file under the run's directory; `tensorboard --logdir runs` shows them all.

    `directory` is below the run's, so that no two runs have one file. One file for the whole run, however often
    it was resumed: what a killed process wrote behind the last row that was counted is cut off, and written
    again. TensorFlow is not needed.

    Raises:
        UsageError: tensorboard is not installed.
        ValueError: a directory that is absolute or leads out by "..".

    Example:
        >>> writer = tensorboard()
    """
    libraries.need("writers.tensorboard", "tensorboard")
    if os.path.isabs(directory) or ".." in Path(directory).parts:
        raise ValueError(
            f"directory: came {directory!r}, wanted a place below the run's directory, such as 'tensorboard'"
        )
    file: IO[bytes]
    append: Any

    def open_(run: Tracked) -> int | None:
        nonlocal file, append
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run.directory / directory
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "events.out.tfevents.jaxkit"
        size = path.stat().st_size if path.exists() else 0
        known = run.kept.get("bytes", 0)
        anew = known == 0 or size < known
        file = path.open("wb" if anew else "r+b")
        if not anew:
            file.truncate(known)
            file.seek(known)
        records = RecordWriter(file)
        append = lambda **fields: records.write(Event(**fields).SerializeToString())
        if anew:
            append(file_version="brain.Event:2")
        return 0 if anew else None

    def write(step: int, values: Any, wall: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        append(wall_time=wall, step=step, summary=Summary(value=found))

    def flush() -> dict[str, Any]:
        file.flush()
        os.fsync(file.fileno())
        return {"bytes": file.tell()}

    return Writer(write, lambda: file.close(), open_, flush)
