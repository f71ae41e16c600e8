"""The accuracy of configs/digits.py on the held-out fifth, over five seeds.

    python benchmarks/accuracy.py

Each seed is the real command, as a process of its own. Where the mean is below what is wanted, the exit code is 1.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

TOP = Path(__file__).parent.parent
WANTED = 0.993


def train(seed: int) -> tuple[float, float]:
    """The accuracy of a seed, and how many seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "experiments/image_classification.py", "--config=configs/digits.py"]
        command += [f"--config.seed={seed}", f"--workdir={folder}/run"]
        subprocess.run(command, check=True, cwd=TOP, capture_output=True)
        command = [sys.executable, "-m", "jaxkit.cli", "show", f"{folder}/run", "--json"]
        found = json.loads(subprocess.run(command, check=True, cwd=TOP, capture_output=True).stdout)
    return found["evaluation"]["test"]["accuracy"], found["timing"]["total"]


def main(seeds: int = 5) -> None:
    """Trains each seed and prints its accuracy, time, and the mean; ends with an error where that is too low."""
    print(measure.machine())
    accuracies = []
    for seed in range(seeds):
        accuracy, seconds = train(seed)
        accuracies.append(accuracy)
        print(f"  seed {seed}: {accuracy:.4f} in {seconds:.1f} s", flush=True)
    mean = statistics.mean(accuracies)
    print(f"  mean {mean:.4f} over {seeds} seeds", flush=True)
    if mean < WANTED:
        sys.exit(f"error: the mean accuracy is {mean:.4f}, wanted at least {WANTED}")


if __name__ == "__main__":
    main()
