"""Training on one accelerator, beside PyTorch: GPT-2 124M in tokens/s, a ViT-B/16 and a ResNet-50 in images/s.

    python benchmarks/gpu.py [--cases gpt2 vit resnet] [--rounds 5] [--seconds 2] [--batch N]
    python benchmarks/gpu.py --tiny        sees that every line runs, on a CPU too; its figures are none

Needs jax, flax, optax and numpy, and this source tree; PyTorch where it is installed. Mixed precision (float32
parameters, bfloat16 arithmetic), random data that lies on the device. Each side is a process of its own and all of
a case live at once, so that rounds can alternate; the device is waited for at the end of a round only.

bare    one donated jit call a step, by hand
loop    jaxkit's run loop, which records every ten steps (no checkpoints, no evaluations in the rounds)
torch   torch.compile, autocast, channels last, SDPA, fused optimizer

"cold" is the first step of `bare` with an empty compilation cache; in the table stands that of a second process.
The other sides are started once, and find nothing of theirs in it.
"idle" is the share of ten steps in a profiler's trace in which no stream of the device had a kernel or a copy.
Utilisation counts the model's FLOPs (gpu/cases.py) and names its two denominators.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import processes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "gpu"))

import cases  # noqa: E402

# On one H200, in units a second.
TARGETS = {"gpt2": 520_000.0, "resnet": 4_500.0}


def start(script: str, name: str, variant: str, size: str, folder: Path) -> processes.Running:
    """Starts a side; all share one folder of compiled programs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE / "gpu", HERE / "peers"))),
        # Several processes live on the device at once: each takes what it needs.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, str(HERE / "gpu" / f"{script}.py"), name, variant, size]
    return processes.start(command, environment, folder / f"{name}-{variant}.log")


def compare(name: str, options: argparse.Namespace, matmul: dict[str, Any], folder: Path) -> list[str]:
    """Runs one case, prints what came of it, and returns what went wrong."""
    size = "tiny" if options.tiny else str(options.batch)
    sides = {"bare": ("jax_side", "bare"), "loop": ("jax_side", "loop"), "torch": ("torch_side", "torch")}
    if importlib.util.find_spec("torch") is None:
        del sides["torch"]
    running: dict[str, processes.Running] = {}
    problems, cold = [], None
    try:
        for side, (script, variant) in sides.items():
            try:
                if side == "bare":
                    first = start(script, name, variant, size, folder)
                    cold = first.ready
                    processes.stop(first)
                running[side] = start(script, name, variant, size, folder)
            except RuntimeError as error:
                problems.append(f"{name}: {side} does not run: {error}")
        speeds = rounds(running, options, name, problems)
        counted = {peer.ready["parameters"] for peer in running.values()}
        if len(counted) > 1:
            problems.append(f"{name}: the sides differ in their parameters: {sorted(counted)}")
        show(name, size, running, speeds, cold, matmul)
    finally:
        for peer in running.values():
            processes.stop(peer)
    return problems


def rounds(
    running: dict[str, processes.Running], options: argparse.Namespace, name: str, problems: list[str]
) -> dict[str, list[float]]:
    """Steps/s of each side, in rounds that take turns and each last about as long; without sides that end."""
    speeds: dict[str, list[float]] = {side: [] for side in running}
    steps = {side: 3 for side in running}
    for number in range(options.rounds + 1):
        for side in list(speeds):
            try:
                speed, _ = processes.one_round(running[side], steps[side])
            except RuntimeError as error:
                # Where the memory of the device runs out, say; the others have their figures.
                problems.append(f"{name}: {side} ended in round {number}: {error}")
                del speeds[side]
                continue
            steps[side] = max(3, int(speed * options.seconds))
            if number:  # the first round warms up, and says how long a round is
                speeds[side].append(speed)
    return speeds


def show(name: str, size: str, running, speeds, cold, matmul) -> None:
    """Prints the table of a case."""
    case = cases.of(name, size)
    count, unit = cases.units(case)
    sheet = matmul["sheet"]
    described = f"{sheet:.0f} (data sheet)" if sheet else "unknown (data sheet)"
    print(f"\n{name}  batch {case.batch}, {cases.flops(case) / 1e12:.3g} TFLOPs a step")
    products = f"bf16 products of {matmul['size']:,} x {matmul['size']:,}, the best of ten"
    print(f"  peaks in TFLOP/s: {described}, {matmul['loss']:.4g} ({products})")
    columns = (f"{unit}/s", "ms/step", "of sheet", "of matmul", "idle", "1st step s", "start s", "peak GiB")
    print(f"  {'':6}" + "".join(f"{column:>12}" for column in columns))
    for side, values in speeds.items():
        speed, ready = statistics.median(values), running[side].ready
        achieved = speed * cases.flops(case) / 1e12
        share = f"{achieved / sheet:12.1%}" if sheet else f"{'-':>12}"
        print(
            f"  {side:6}{speed * count:12,.0f}{1e3 / speed:12.2f}{share}{achieved / matmul['loss']:12.1%}"
            f"{ready['idle']:12.2%}{ready['first_step']:12.2f}{ready['to_first_step']:12.2f}"
            f"{ready['peak'] / 2**30:12.2f}"
        )
    if cold is not None:
        print(f"  bare, cold: first step {cold['first_step']:.2f} s, {cold['to_first_step']:.2f} s from the start")
    paired = lambda a, b: statistics.median(x / y for x, y in zip(speeds[a], speeds[b]))
    if {"loop", "bare"} <= speeds.keys():
        print(f"  the public loop reaches {paired('loop', 'bare'):.3f} of the bare step (target 0.98)")
    if {"loop", "torch"} <= speeds.keys():
        print(f"  the public loop is {paired('loop', 'torch'):.3f} x PyTorch compiled (target 1.0)")
    if name in TARGETS:
        print(f"  target on one H200: {TARGETS[name]:,.0f} {unit}/s")
    print("  " + "; ".join(f"{side}: {peer.ready['versions']}" for side, peer in running.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(cases.CASES), default=tuple(cases.CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--batch", type=int, default=0, help="examples a step; 0 for each case's own")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measures the named cases."""
    options = parse()
    # Into a file too, line by line: whoever ends it for its time has the cases that were done.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        peak = start("jax_side", "-", "matmul", "tiny" if options.tiny else "0", Path(folder))
        matmul = peak.ready
        processes.stop(peak)
        print(f"{matmul['device']}, {matmul['versions']}")
        if matmul["platform"] == "cpu" and not options.tiny:
            print("no accelerator: nothing is measured; --tiny shows that the benchmark runs")
            return
        if options.tiny:
            print(
                "TINY SIZES: NOTHING BELOW IS A FIGURE, least of all on a CPU. It shows that the benchmark runs."
            )
        problems = []
        for name in options.cases:
            problems += compare(name, options, matmul, Path(folder))
    print("\n" + "\n".join(problems or ["every side ran"]))
    if options.tiny:
        print("NOTHING ABOVE IS A FIGURE.")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
