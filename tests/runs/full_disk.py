"""A run on a small file system that something else fills, or closes: python -m tests.runs.full_disk DIRECTORY."""

import contextlib
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

from jaxkit.runs import checkpoints, command, directory, record
from tests.runs import blobs

CONFIG = [
    "--config=tests/runs/blobs_config.py",
    "--config.in_memory=False",
    "--config.num_steps=16",
    "--config.eval_every=16",
    "--config.layout={'call': 'jaxkit.parallel.jit'}",
]


def fill(path: Path) -> None:
    """Takes all the room that there is."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def start(disk: Path, filler: Path | None) -> tuple[int, str]:
    """The run's command: its exit code and its errors; a filler takes all the room after a first checkpoint."""
    run, reads = disk / "run", itertools.count(1)

    def recipe(config):
        built = blobs.recipe(config)
        source = built.data["train"]

        def opened():
            examples = source.open()

            def read(indices):
                # Threads read, and each number is drawn once.
                if next(reads) == 12 and filler is not None:
                    while not checkpoints.steps(run / directory.CHECKPOINTS):
                        time.sleep(0.01)
                    fill(filler)
                return examples.read(indices)

            return examples._replace(read=read)

        return built._replace(data={**built.data, "train": source._replace(open=opened)}, picture=None)

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            command.main(recipe, ["blobs.py", *CONFIG, f"--workdir={run}"])
        except SystemExit as error:
            return error.code, said.getvalue()


@contextlib.contextmanager
def read_only(disk: Path):
    """Nobody may write on the file system, whoever it is."""
    remount = lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
    remount("ro")
    try:
        yield
    finally:
        remount("rw")


@contextlib.contextmanager
def no_permission(disk: Path, *, folders_only: bool):
    """Nobody may write in the run's directory, or in any file there; to this process that is said of root too."""
    closed = [path for path in [disk / "run", *disk.rglob("*")] if path.is_dir() or not folders_only]
    modes = {path: path.stat().st_mode for path in closed}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def content(disk: Path) -> dict[str, bytes]:
    """All that is there."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in disk.rglob("*")}


def refused(disk: Path, closed) -> tuple[int, str, bool]:
    """What a start comes to while the run's directory is closed, and whether all is there as it was."""
    before = content(disk)
    with closed:
        code, error = start(disk, None)
    return code, error, content(disk) == before


def main(disk: Path) -> dict:
    """All starts, and how the directory stood after the first."""
    filler, folder = disk / "filler", disk / "run" / directory.CHECKPOINTS
    full = start(disk, filler)
    left = {step: checkpoints.verify(folder / str(step)) for step in checkpoints.steps(folder)}
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    filler.unlink()
    closed = {
        "read-only": refused(disk, read_only(disk)),
        "folders": refused(disk, no_permission(disk, folders_only=True)),
        "files": refused(disk, no_permission(disk, folders_only=False)),
    }
    again = start(disk, None)
    steps = [row["step"] for row in record.read(disk / "run" / directory.METRICS)]
    return {"full": full, "left": left, "names": names, "closed": closed, "again": again, "steps": steps}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
