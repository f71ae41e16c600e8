"""A run on a small file system that something else fills: python -m tests.runs.full_disk DIRECTORY."""

import contextlib
import io
import json
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
    run, reads = disk / "run", 0

    def recipe(config):
        built = blobs.recipe(config)
        source = built.data["train"]

        def opened():
            examples = source.open()

            def read(indices):
                nonlocal reads
                reads += 1
                if reads == 12 and filler is not None:
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


def main(disk: Path) -> dict:
    """Both starts, and how the directory stood between them."""
    filler, folder = disk / "filler", disk / "run" / directory.CHECKPOINTS
    full = start(disk, filler)
    left = {step: checkpoints.verify(folder / str(step)) for step in checkpoints.steps(folder)}
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    filler.unlink()
    again = start(disk, None)
    steps = [row["step"] for row in record.read(disk / "run" / directory.METRICS)]
    return {"full": full, "left": left, "names": names, "again": again, "steps": steps}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
