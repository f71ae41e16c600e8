"""How long `jaxkit runs` takes over thousands of runs: the whole command, with and without its index.

    python benchmarks/listing.py [--runs 3000] [--rounds 5]

Each run has a record of 100 rows, an evaluation and a config of 30 values, as those of the digits have.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine

OLD = time.time() - 3_600


def write_run(run: Path, number: int) -> None:
    """A finished run of an hour ago, without waiting for the disk."""
    (run / "evaluation").mkdir(parents=True)
    config = {"num_steps": 1_000, "seed": number, "model": {f"value_{n}": n / 7 for n in range(28)}}
    rows = (
        {
            "step": 10 * n,
            "wall": OLD + n,
            "loss": 1 / n,
            "accuracy": 0.5,
            "test/accuracy": 0.9,
            "digest": f"{n:032x}",
        }
        for n in range(1, 101)
    )
    texts = {
        "config.json": json.dumps(config),
        "status.json": json.dumps({"status": "finished", "step": 1_000, "timing": {"total": 12.5}}),
        "provenance.json": json.dumps(
            {"git": {"commit": "0" * 40}, "packages": {f"p{n}": "1" for n in range(120)}}
        ),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "evaluation/test.json": json.dumps({"metrics": {"accuracy": number % 997 / 997}}),
    }
    for name, text in texts.items():
        (run / name).write_text(text)


def seconds(top: Path, *flags: str) -> tuple[float, float]:
    """Wall time of the command, and what it took of the processor."""
    command = [sys.executable, "-m", "jaxkit.cli", "runs", str(top), *flags]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for number in range(given.runs):
            write_run(top / f"group-{number % 10}" / f"run-{number}", number)
        time.sleep(3)  # until they are old enough to be remembered
        wanted = ["--where", "test/accuracy>=0.99", "--sort=-test/accuracy", "--limit=20"]
        found: dict[str, list[tuple[float, float]]] = {
            "no index": [],
            "index": [],
            "index, a filter": [],
            "ten runs changed": [],
        }
        for number in range(given.rounds):
            (top / ".index.sqlite").unlink(missing_ok=True)
            found["no index"].append(seconds(top))
            found["index"].append(seconds(top))
            found["index, a filter"].append(seconds(top, *wanted))
            for changed in range(10):
                write = top / f"group-{changed}" / f"run-{changed}" / "status.json"
                write.write_text(json.dumps({"status": "failed", "step": number, "timing": {}}))
            found["ten runs changed"].append(seconds(top, *wanted))
        size = os.path.getsize(top / ".index.sqlite") / 2**20
    print(f"\njaxkit runs over {given.runs:,} runs, whole command; the index has {size:.1f} MiB")
    for name, values in found.items():
        wall, used = zip(*values)
        print(
            f"  {name:20} median {statistics.median(wall):6.2f} s, most {max(wall):6.2f} s;"
            f" of the processor {statistics.median(used):6.2f} s"
        )


if __name__ == "__main__":
    main()
