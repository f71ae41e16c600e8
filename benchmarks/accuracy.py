"""The accuracy of configs/digits.py on the held-out fifth, over five seeds.

    python benchmarks/accuracy.py

Each seed is the real command, as a process of its own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

TOP = Path(__file__).parent.parent


def main(seeds: int = 5) -> None:
    """Trains each seed and prints its accuracy, time, and the mean."""
    print(measure.machine())
    accuracies = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "experiments/image_classification.py", "--config=configs/digits.py"]
            command += [f"--config.seed={seed}", f"--workdir={folder}/run"]
            subprocess.run(command, check=True, cwd=TOP, capture_output=True)
            command = [sys.executable, "-m", "jaxkit.cli", "show", f"{folder}/run", "--json"]
            found = json.loads(subprocess.run(command, check=True, cwd=TOP, capture_output=True).stdout)
        accuracies.append(found["evaluation"]["test"]["accuracy"])
        print(f"  seed {seed}: {accuracies[-1]:.4f} in {found['timing']['total']:.1f} s", flush=True)
    print(f"  mean {statistics.mean(accuracies):.4f} over {seeds} seeds")


if __name__ == "__main__":
    main()
