"""What a checkpoint of some 400 MB costs: training lost, until it is durable, restored, verified.

    python benchmarks/checkpoints.py [MEGABYTES]

Judged by the seconds of training that a save takes, not by how long the call blocks. Beside it stand a raw write
with fsync and a raw read of as many bytes, and the same through Orbax, all in the same rounds. What was read
before comes from memory; "from the disk" is after the system was asked to forget it, as on another day.
"""

import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import measure
import numpy as np

from jaxkit.runs import checkpoints, memory, saving

LEAVES = 96
SAVES, SECONDS_BETWEEN_SAVES = 2, 8


def seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def raw_write(path: Path, content: np.ndarray) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def forget(folder: Path) -> None:
    """Asks the system to drop what it holds of these files in memory."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def costs(state, folder: Path) -> dict[str, float]:
    """Seconds of each, one after the other."""
    content = np.concatenate([leaf.reshape(-1).view(np.uint8) for leaf in state.values()])
    tree, zeros = {"state": state}, {"state": {name: np.zeros_like(leaf) for name, leaf in state.items()}}
    read = lambda which: checkpoints._read(folder / which / "1", zeros, {})
    verify = lambda: checkpoints.verify(folder / "ours/1")
    found = {
        "raw write, fsync": seconds(lambda: raw_write(folder / "raw", content)),
        "save, durable": seconds(lambda: checkpoints.save(folder / "ours", 1, tree)),
        "save by Orbax, durable": seconds(lambda: checkpoints.save(folder / "orbax", 1, tree, sharded=True)),
        "restore by Orbax": seconds(lambda: read("orbax")),
    }
    raw = lambda: (folder / "raw").read_bytes()
    cases = {"raw read": raw, "verify": verify, "restore": lambda: read("ours")}
    # As in a run, where the verifying has brought the files into memory.
    raw(), verify()
    found |= {name: seconds(case) for name, case in cases.items()}
    for name, case in cases.items():
        forget(folder)
        found[f"{name}, from the disk"] = seconds(case)
    return found


def lost(state, save_one, order: tuple[bool, bool]) -> float:
    """Seconds of training that a save takes: the same steps with saves and without, in this order."""
    x = jnp.ones((768, 768)) / 768
    step = jax.jit(
        lambda state, x: ({name: leaf * 0.999 for name, leaf in state.items()}, x @ x @ x), donate_argnums=0
    )
    state = jax.tree.map(jnp.array, state)
    state, x = step(state, x)
    jax.block_until_ready(x)
    per_step = statistics.median(
        seconds(lambda: jax.block_until_ready(step(dict(jax.tree.map(jnp.array, state)), x))) for _ in range(3)
    )
    every = max(1, round(SECONDS_BETWEEN_SAVES / per_step))

    def train(saves: bool) -> float:
        nonlocal state, x
        finish = lambda: None
        began = time.perf_counter()
        for number in range(SAVES * every):
            state, x = step(state, x)
            jax.block_until_ready(x)
            if saves and number % every == every // 4:
                finish = save_one(number, {"state": state})
        finish()
        return time.perf_counter() - began

    found = {saves: train(saves) for saves in order}
    return (found[True] - found[False]) / SAVES


def main(megabytes: int = 403, rounds: int = 6) -> None:
    """Interleaves the rounds, prints medians and ratios."""
    print(measure.machine())
    memory.keep_freed()  # as a run does
    size = megabytes * 10**6 // 4 // LEAVES
    rng = np.random.default_rng(0)
    state = {f"leaf_{n}": rng.random(size, np.float32) for n in range(LEAVES)}
    times: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {"saver": [], "Orbax, waited for": []}
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), itertools.count(1)
        saver = saving.saver(folder / "beside")

        def ours(_, tree):
            saver.save(next(numbers), tree, {})
            return saver.wait

        def orbax(_, tree):
            checkpoints.save(folder / "waited", next(numbers), tree, sharded=True)
            return lambda: None

        for number in range(rounds):
            for what, value in costs(state, folder).items():
                times.setdefault(what, []).append(value)
            # What comes first finds the machine in another state: in each second round it is the other.
            order = (False, True) if number % 2 else (True, False)
            losses["saver"].append(lost(state, ours, order))
            losses["Orbax, waited for"].append(lost(state, orbax, order))
            shutil.rmtree(folder / "ours")
            shutil.rmtree(folder / "orbax")
    measure.table(f"{megabytes} MB in {LEAVES} arrays", times, "s", "raw write, fsync")
    for one, other in (
        ("save, durable", "raw write, fsync"),
        ("restore", "raw read"),
        ("verify", "raw read"),
        ("verify, from the disk", "raw read, from the disk"),
        ("restore, from the disk", "raw read, from the disk"),
    ):
        ratio = statistics.median(a / b for a, b in zip(times[one], times[other]))
        print(f"  {one} takes {ratio:.2f} times a {other}")
    for what, values in losses.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"  training lost a save, {what}: {statistics.median(values):.2f} s ({spread})")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
