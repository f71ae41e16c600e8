"""How long it takes to start: imports, the first step, and a short run as a whole process.

    python benchmarks/start.py

Every number is a process of its own, rounds are interleaved. Beside each stands `import jax` on the same
machine, which is most of it: an absolute number says little without it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

TOP = Path(__file__).parent.parent
EXPERIMENT = [sys.executable, "experiments/image_classification.py"]


def seconds(command, environment) -> float:
    """Wall time of a process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=TOP, env=environment, capture_output=True)
    return time.perf_counter() - began


def first_step(environment, *flags: str) -> float:
    """From the start of the process to the end of the first step, as the run itself notes it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*EXPERIMENT, "--config=configs/digits.py", f"--workdir={folder}/run", *flags]
        command += ["--config.num_steps=1", "--config.picture=False"]
        subprocess.run(command, check=True, cwd=TOP, env=environment, capture_output=True)
        return json.loads((Path(folder) / "run/status.json").read_text())["timing"]["to_first_step"]


def short_run(environment) -> float:
    """Five epochs of the digits MLP, checkpoint and evaluation included, as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config.num_steps=57", "--config.picture=False", "--config.log_every=57"]
        command = [*EXPERIMENT, "--config=configs/digits.py:model=mlp", f"--workdir={folder}/run", *flags]
        return seconds(command, environment)


def main(rounds: int = 5) -> None:
    """Interleaves the rounds and prints medians."""
    print(measure.machine())
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        warm = {**os.environ, "XDG_CACHE_HOME": cache}
        first_step(warm)
        short_run(warm)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as empty:
                # The data is prepared; only the compiled programs are missing.
                cold = {**os.environ, "XDG_CACHE_HOME": empty}
                found = {
                    "import jax": seconds([sys.executable, "-c", "import jax"], warm),
                    "python, nothing": seconds([sys.executable, "-c", "pass"], warm),
                    "import jaxkit": seconds([sys.executable, "-c", "import jaxkit"], warm),
                    "digits CNN to its first step, warm": first_step(warm),
                    "digits CNN to its first step, cold": first_step(cold),
                    "five epochs of the digits MLP, warm": short_run(warm),
                }
            for name, value in found.items():
                times.setdefault(name, []).append(value)
    measure.table("starting", times, "s", "import jax")
    beyond = statistics.median(a - b for a, b in zip(times["import jaxkit"], times["python, nothing"]))
    print(f"  import jaxkit takes {beyond * 1e3:.0f} ms beyond Python's own start")


if __name__ == "__main__":
    main()
