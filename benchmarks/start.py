"""How long it takes to start: imports, the first step, and a short run as a whole process.

    python benchmarks/start.py

Every number is a process of its own, rounds are interleaved. Beside each stands `import jax` on the same
machine, and the same training step written by hand without the shell: an absolute number says little without them.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

TOP = Path(__file__).parent.parent
STOPPED = 75  # the exit code of a run that was asked to
RESUME = "resume of the digits run to its next step, warm"
EXPERIMENT = [sys.executable, "experiments/image_classification.py"]

# What is written without the shell: no check, no record, no checkpoint, no command line; init under one jit.
BY_HAND = """
import os, jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_compilation_cache_dir", os.environ["XDG_CACHE_HOME"] + "/by_hand")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from jaxkit import data, losses, models, updates
model = models.standardized(models.cnn(num_classes=10), mean=4.9, std=6.0)
augment = data.affine(max_degrees=10.0, max_scale=0.1, max_shift=1.0)
schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 50, 1000)
adamw = optax.adamw(schedule, weight_decay=0.05)
optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw, updates.ema(decay=0.98))
source = data.digits(split="train").open()
images, labels = source.arrays["image"], source.arrays["label"]
@jax.jit
def init(key):
    params, _ = model.init(key, jnp.zeros((1, 8, 8, 1), jnp.uint8))
    return params, optimizer.init(params)
@jax.jit
def step(params, opt_state, batch, key):
    def loss(params):
        shown = augment(batch, key)
        logits, _ = model.apply(params, {}, shown["image"])
        return losses.cross_entropy(logits, shown["label"], label_smoothing=0.05).mean()
    value, grads = jax.value_and_grad(loss)(params)
    changes, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, changes), opt_state, value
params, opt_state = init(jax.random.key(0))
batch = {"image": images[:128], "label": labels[:128]}
print(float(step(params, opt_state, batch, jax.random.key(1))[2]))
"""


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


def stopped(workdir: Path, environment) -> float:
    """Starts the digits run, or goes on with it, until it records; its own time to the first step."""
    record = workdir / "metrics.jsonl"
    before = record.stat().st_size if record.exists() else 0
    command = [*EXPERIMENT, "--config=configs/digits.py", f"--workdir={workdir}", "--config.picture=False"]
    with subprocess.Popen(command, cwd=TOP, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (record.exists() and record.stat().st_size > before):
            time.sleep(0.02)
        process.terminate()
    if process.returncode != STOPPED:
        sys.exit(f"a run that was asked to stop ended with exit code {process.returncode}, not {STOPPED}")
    return json.loads((workdir / "status.json").read_text())["timing"]["to_first_step"]


def resumed(workdir: Path, environment) -> float:
    """The same, of a copy of a run that was stopped, and has a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        return stopped(Path(shutil.copytree(workdir, f"{folder}/run")), environment)


def main(rounds: int = 5) -> None:
    """Interleaves the rounds and prints medians."""
    print(measure.machine())
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as begun:
        warm = measure.environment(XDG_CACHE_HOME=cache)
        first_step(warm)
        short_run(warm)
        stopped(Path(begun), warm)
        resumed(Path(begun), warm)
        seconds([sys.executable, "-c", BY_HAND], warm)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as empty:
                # The data is prepared; only the compiled programs are missing.
                cold = measure.environment(XDG_CACHE_HOME=empty)
                found = {
                    "import jax": seconds([sys.executable, "-c", "import jax"], warm),
                    "python, nothing": seconds([sys.executable, "-c", "pass"], warm),
                    "import jaxkit": seconds([sys.executable, "-c", "import jaxkit"], warm),
                    "digits CNN by hand, a whole process, warm": seconds([sys.executable, "-c", BY_HAND], warm),
                    "digits CNN by hand, a whole process, cold": seconds([sys.executable, "-c", BY_HAND], cold),
                    "digits CNN to its first step, warm": first_step(warm),
                    "digits CNN to its first step, cold": first_step(cold),
                    RESUME: resumed(Path(begun), warm),
                    "five epochs of the digits MLP, warm": short_run(warm),
                }
            for name, value in found.items():
                times.setdefault(name, []).append(value)
    measure.table("starting", times, "s", "import jax")
    beyond = statistics.median(a - b for a, b in zip(times["import jaxkit"], times["python, nothing"]))
    resume = statistics.median(times[RESUME])
    print(f"  {RESUME}: {resume:.2f} s (target: 1.5 s)")
    print(f"  import jaxkit takes {beyond * 1e3:.0f} ms beyond Python's own start")


if __name__ == "__main__":
    main()
