"""The same training in other libraries: an MLP and a CNN on the digits, and a small GPT, in float32 on one core.

    python benchmarks/peers.py [--cases mlp cnn gpt] [--peers jaxkit torch ...] [--rounds 5] [--core 1] [--quick]

Each peer is a process of its own, where it needs other packages in an environment of its own (`make peers`). All
of a case live at once and take rounds in turn, so that what else the machine does falls on all of them; ratios are
of rounds beside each other. Every process is pinned to one core. jaxkit's rounds hold a record, a progress bar,
evaluations and a checkpoint; the peers are spared theirs. The roof is no library: it takes the products of a step
alone, at the speed of one large product, and says how far ahead of a peer anything can be.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import measure
import numpy as np
import processes

TOP = Path(__file__).parent.parent
CASES = ("mlp", "cnn", "gpt")
# A CNN of 2 x 2 x 64 features, a GPT with tied embeddings: the same in every library.
PARAMETERS = {"mlp": 85_002, "cnn": 53_002, "gpt": 3_290_624}
CHANCE = {"mlp": math.log(10), "cnn": math.log(10), "gpt": math.log(256)}


class Peer(NamedTuple):
    """A script of benchmarks/peers, the environment it runs in (None: this one), and its steps a round."""

    script: str
    variant: str
    environment: str | None
    steps: tuple[int, int, int]  # of mlp, cnn, gpt: a second or two each
    target: float | None = None  # of the MLP: at least so many times its steps/s


PEERS = {
    "jaxkit": Peer("jaxkit_loop", "-", None, (5_000, 400, 16)),
    "jaxkit-eigen": Peer("jaxkit_loop", "eigen", None, (5_000, 400, 16)),
    "bare": Peer("bare", "-", None, (1_500, 150, 3)),
    "roof": Peer("roof", "-", None, (2_000, 200, 3)),
    "torch": Peer("torch_loop", "eager", "torch", (500, 150, 3), 3.0),
    "torch-fused": Peer("torch_loop", "fused", "torch", (500, 150, 3)),
    "torch-compile": Peer("torch_loop", "compile", "torch", (500, 150, 3)),
    "lightning": Peer("lightning_trainer", "-", "lightning", (300, 100, 3), 4.5),
    "hf-trainer": Peer("hf_trainer", "-", "transformers", (300, 100, 3), 3.2),
    "keras-jax": Peer("keras_jax", "1", "keras", (900, 150, 2), 1.3),
    "flax": Peer("flax_loop", "-", "flax", (900, 150, 2)),
    "kauldron": Peer("kauldron_trainer", "memory", "kauldron", (500, 100, 2), 3.2),
    "kauldron-grain": Peer("kauldron_trainer", "grain", "kauldron", (300, 100, 2), 3.2),
}


def python_of(peer: Peer) -> Path:
    """The interpreter of the peer's environment."""
    if peer.environment is None:
        return Path(sys.executable)
    return TOP / ".venv-peers" / peer.environment / "bin" / "python"


def write_data(path: Path) -> None:
    """1,408 digits, so that a batch of 128 divides them, and 2,048 windows of 257 bytes of Python source."""
    from sklearn.datasets import load_digits

    digits, library = load_digits(), Path(os.__file__).parent
    images = ((digits.images[:1408, :, :, None] - 4.9) / 6.0).astype(np.float32)
    sources = sorted(library.glob("*.py"))
    text = np.frombuffer(b"".join(source.read_bytes() for source in sources), np.uint8)
    windows = np.resize(text, (2048, 257))
    np.savez(path, images=images, labels=digits.target[:1408].astype(np.int32), tokens=windows)


def start(name: str, case: str, folder: Path) -> processes.Running:
    """Starts a peer, with one thread in each library that it may use, and waits for its first step."""
    peer = PEERS[name]
    environment = {
        **measure.environment(),
        "PYTHONPATH": str(TOP) if peer.environment is None else "",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / f"{case}-{name}-inductor"),
    }
    script = Path(__file__).parent / "peers" / f"{peer.script}.py"
    command = [str(python_of(peer)), str(script), case, peer.variant, str(folder / "data.npz")]
    return processes.start(command, environment, folder / f"{case}-{name}.log")


def check(name: str, case: str, ready: dict[str, Any], loss: float) -> list[str]:
    """What is not the same work as that of the others."""
    found, chance = [], CHANCE[case]
    if ready["parameters"] != PARAMETERS[case]:
        found.append(f"{name}: {ready['parameters']:,} parameters, not {PARAMETERS[case]:,}")
    if ready["dtype"] != "float32":
        found.append(f"{name}: {ready['dtype']}, not float32")
    if ready["steps"] == 1 and not 0.9 * chance < ready["loss"] < 2.5 * chance:
        found.append(f"{name}: the first loss is {ready['loss']:.3f}, chance is {chance:.3f}")
    if not loss < 0.8 * chance:
        found.append(f"{name}: the last loss is {loss:.3f}, chance is {chance:.3f}")
    return found


def compare(case: str, names: list[str], rounds: int, share: float, folder: Path) -> list[str]:
    """Runs one case, prints its table, and returns what went wrong."""
    running: dict[str, processes.Running] = {}
    problems = []
    try:
        for name in names:
            try:
                running[name] = start(name, case, folder)
            except RuntimeError as error:
                problems.append(f"{case}: {name} does not run: {error}")
        speeds: dict[str, list[float]] = {name: [] for name in running}
        losses = {}
        for number in range(rounds + 1):
            for name in list(speeds):
                steps = max(1, round(PEERS[name].steps[CASES.index(case)] * share))
                try:
                    speed, losses[name] = processes.one_round(running[name], steps)
                except RuntimeError as error:
                    problems.append(f"{case}: {name} ended in round {number}: {error}")
                    del speeds[name]
                    continue
                if number:  # in the first, some still compile: an evaluation, a step that writes nothing
                    speeds[name].append(speed)
        for name in speeds:
            if name != "roof":  # which does no such work
                problems += [f"{case}: {line}" for line in check(name, case, running[name].ready, losses[name])]
        show(case, running, speeds)
    finally:
        for peer in running.values():
            processes.stop(peer)
    return problems


def show(case: str, running: dict[str, processes.Running], speeds: dict[str, list[float]]) -> None:
    """Prints the table of a case."""
    columns = ("steps/s", "jaxkit is", "spread", "import", "to 1st step", "peak MiB")
    print(f"\n{case}  {'':14}" + "".join(f"{column:>13}" for column in columns) + "  target")
    for name, values in speeds.items():
        ready, (mlp, target) = running[name].ready, (case == "mlp", PEERS[name].target)
        ratios = [own / other for own, other in zip(speeds.get("jaxkit", values), values)]
        ratio = statistics.median(ratios)
        verdict = f"  >= {target}: {'met' if ratio >= target else 'MISSED'}" if mlp and target else ""
        if verdict and "roof" in speeds:
            most = statistics.median(roof / other for roof, other in zip(speeds["roof"], values))
            verdict += f", the roof is {most:.2f} x"
        print(
            f"  {name:17}{statistics.median(values):13.2f}{ratio:11.2f} x"
            f"{min(ratios):7.2f}-{max(ratios):<5.2f}{ready['imports']:11.2f} s{ready['to_first_step']:11.2f} s"
            f"{processes.peak_mebibytes(running[name]):13.0f}{verdict}",
            flush=True,
        )
    for name, peer in running.items():
        print(f"  {name}: {', '.join(' '.join(each) for each in peer.ready['versions'].items())}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="rounds of a tenth, to see that all of it runs")
    return parser.parse_args()


def main() -> None:
    """Measures what is installed, and says what is not."""
    options = parse()
    os.sched_setaffinity(0, {options.core})
    print(f"{measure.machine()}, rounds: {options.rounds}{', QUICK: no figures' if options.quick else ''}")
    names = [name for name in options.peers if python_of(PEERS[name]).exists()]
    for name in set(options.peers) - set(names):
        print(f"  not installed: {name} (make peers makes .venv-peers/{PEERS[name].environment})")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data.npz")
        for case in options.cases:
            share = 0.1 if options.quick else 1.0
            problems += compare(case, names, options.rounds, share, Path(folder))
    print("\n" + "\n".join(problems or ["equal work: parameters, dtype, first and last losses agree"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
