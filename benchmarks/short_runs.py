"""Five epochs of the digits MLP as a whole process, beside other libraries.

    python benchmarks/short_runs.py [--peers torch flax ...] [--rounds 5]

jaxkit is the real command, with its checks, record, evaluation, checkpoint and average of the parameters. The
others (`make peers`; benchmarks/peers) are spared all that: their data is one file of arrays, and they end with
the last step. What compiles finds its programs cached. Rounds are interleaved, and ratios are of processes beside
each other.
"""

import argparse
import tempfile
import time
from pathlib import Path

import measure
import peers
import processes
import start

STEPS = 57  # as in start.short_run
# One of each library, in its usual form.
PEERS = ("torch", "lightning", "hf-trainer", "keras-jax", "flax", "kauldron")


def seconds(name: str, folder: Path, caches: str) -> float:
    """A peer from its start to the end of its last step."""
    peer = peers.PEERS[name]
    environment = measure.environment(
        PYTHONPATH="",
        HF_HUB_OFFLINE="1",
        JAX_PLATFORMS="cpu",
        JAX_COMPILATION_CACHE_DIR=f"{caches}/{name}",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    script = Path(__file__).parent / "peers" / f"{peer.script}.py"
    command = [str(peers.python_of(peer)), str(script), "mlp", peer.variant, str(folder / "data.npz")]
    began = time.perf_counter()
    running = processes.start(command, environment, folder / f"{name}.log")
    try:
        processes.one_round(running, STEPS - running.ready["steps"])
        return time.perf_counter() - began
    finally:
        processes.stop(running)


def main() -> None:
    """Interleaves the rounds of what is installed, and says what is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(measure.machine())
    names = [name for name in options.peers if peers.python_of(peers.PEERS[name]).exists()]
    for name in set(options.peers) - set(names):
        print(f"  not installed: {name} (make peers makes .venv-peers/{peers.PEERS[name].environment})")
    times: dict[str, list[float]] = {name: [] for name in ("jaxkit", *names)}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as caches:
        peers.write_data(Path(folder) / "data.npz")
        ours = measure.environment(XDG_CACHE_HOME=caches)
        for number in range(options.rounds + 1):
            found = {"jaxkit": start.short_run(ours)}
            found |= {name: seconds(name, Path(folder), caches) for name in names}
            if number:  # the first fills the caches
                for name, value in found.items():
                    times[name].append(value)
    measure.table("five epochs of the digits MLP, whole processes", times, "s", "jaxkit")


if __name__ == "__main__":
    main()
