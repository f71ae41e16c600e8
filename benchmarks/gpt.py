"""A training step of a small GPT in float32 on one core, beside the naive form and PyTorch.

    python benchmarks/gpt.py [--torch=PYTHON] [--starts=N] [--rounds=N]

4 layers, 256 features, 4 heads, 256 tokens, batch 8, vocabulary 256, AdamW. Each side is a process of its own on
the same core, kept alive between rounds; in a round each takes a step to warm up and one that is timed, in turn.
All are started anew some times: where its memory lies makes one process a tenth faster than another of the same
program. All start from the same parameters and must come to the same losses. The roof is one large product of
matrices, measured in the same rounds. PYTHON is an interpreter that has torch, by default that of `make peers`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import measure

measure.pin_to_one_core()

import numpy as np  # noqa: E402

FOLDER = Path(__file__).parent / "gpt_sides"
sys.path.insert(0, str(FOLDER))
import common  # noqa: E402

NAIVE, LIBRARY, OPTIONS = "naive: 3-D products", "the library", "the library, with Eigen"
BY_HAND, TORCH = "the best by hand", "PyTorch eager"
ROOF_SIZE = 1040


def start(command: list[str]) -> subprocess.Popen:
    """A side that has taken its first step."""
    top = str(Path(__file__).parent.parent)
    # What follows a word without dashes in XLA_FLAGS is silently not read, so each side sets its own.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (top, environment.get("PYTHONPATH"))))
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER, env=environment
    )


def ask(side: subprocess.Popen, steps: int) -> dict:
    """The answer of a side to a number of steps."""
    print(steps, file=side.stdin, flush=True)
    return json.loads(side.stdout.readline())


def measured(sides: dict[str, subprocess.Popen], rounds: int) -> tuple[dict, dict]:
    """Milliseconds a step of each side by round, and megabytes at the most."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks = {}
    for _ in range(rounds):
        losses = {}
        for name, side in sides.items():
            ask(side, 1)
            found = ask(side, 1)
            times[name].append(found["seconds"] * 1e3)
            peaks[name] = found["megabytes"]
            if name != "roof":
                losses[name] = found["loss"]
        np.testing.assert_allclose(list(losses.values()), losses[LIBRARY], rtol=1e-3, err_msg=str(losses))
    return times, peaks


def lived(commands: dict[str, list[str]], rounds: int) -> tuple[dict, dict]:
    """The same of sides that are started for it, and ended."""
    sides = {name: start(command) for name, command in commands.items()}
    try:
        firsts = {name: json.loads(side.stdout.readline())["loss"] for name, side in sides.items()}
        firsts.pop("roof")
        np.testing.assert_allclose(list(firsts.values()), firsts[LIBRARY], rtol=1e-5, err_msg=str(firsts))
        return measured(sides, rounds)
    finally:
        for side in sides.values():
            side.kill()


def main() -> None:
    """Measures what is there, says what is not, prints medians, paired ratios and shares of the roof."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", metavar="PYTHON", default=".venv-peers/torch/bin/python")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    flags = parser.parse_args()
    print(measure.machine())
    jax_side = lambda name: [sys.executable, "in_jax.py", name]
    names = {NAIVE: "naive", LIBRARY: "library", OPTIONS: "options", BY_HAND: "by_hand"}
    commands = {title: jax_side(name) for title, name in names.items()}
    torch = os.path.abspath(flags.torch)  # a link of an environment: it must not be followed
    if os.path.exists(torch) and not subprocess.run([torch, "-c", "import torch"], capture_output=True).returncode:
        commands[TORCH] = [torch, "in_torch.py"]
    else:
        print(f"there is no PyTorch for {flags.torch} (`make peers`, or --torch=PYTHON): it is left out")
    lives = [lived({**commands, "roof": jax_side("roof")}, flags.rounds) for _ in range(flags.starts)]
    times = {name: [value for life, _ in lives for value in life[name]] for name in [*commands, "roof"]}
    peaks = {name: max(megabytes[name] for _, megabytes in lives) for name in commands}
    roofs = [2 * ROOF_SIZE**3 / value / 1e6 for value in times.pop("roof")]
    reference = TORCH if TORCH in times else LIBRARY
    measure.table(f"a step, {common.flops() / 1e9:.1f} GFLOP of products", times, "ms", reference)
    print(f"\n  the roof is a product at {statistics.median(roofs):.1f} GFLOP/s")
    for name, row in times.items():
        rates = [common.flops() / value / 1e6 for value in row]
        share = statistics.median(rate / roof for rate, roof in zip(rates, roofs))
        speed = {base: statistics.median(b / a for a, b in zip(row, times[base])) for base in (NAIVE, reference)}
        line = (
            f"  {name:24} {statistics.median(rates):6.1f} GFLOP/s, {share:.2f} of the roof, {peaks[name]:5.0f} MB"
        )
        print(line + "".join(f"; {value:.2f} x the speed of {base}" for base, value in speed.items()))


if __name__ == "__main__":
    main()
