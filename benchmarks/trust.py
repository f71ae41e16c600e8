"""What it costs that a run can be trusted, part by part; each part is a function, and has a table.

    python benchmarks/trust.py [rows] [digests] [recording] [writers]

Rows: what a recorded row takes of the thread that trains, with no writer and with all of them at once. Digests:
the fold of all parameters of a small GPT against its step. Recording: the steps/s of the digits MLP with every
step recorded, and so with less in the place of the fold, against none. Writers: those of the digits CNN with all
writers against none, over before their process starts: what that takes comes after the end, and is printed. Rounds
are interleaved, nothing is pinned: the process that serves the writers is where the system puts it. What
checkpoints cost is checkpoints.py.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from rich.console import Console

from jaxkit import configs, losses, means, models, parallel, updates
from jaxkit.means import Mean
from jaxkit.recipe import plan
from jaxkit.runs import digest, directory, ledger, loop, memory, process, programs, progress, record, tracking

TOP = Path(__file__).parent.parent
ROUNDS = 5
ROWS, ROWS_A_CALL = 2_000, 100


def all_writers(folder: Path) -> tuple[dict[str, Any], ...]:
    """All writers at once, none of which needs a server."""
    return (
        {"call": "jaxkit.writers.tensorboard"},
        {"call": "jaxkit.writers.mlflow", "uri": f"sqlite:///{folder / 'mlflow.db'}"},
        {"call": "jaxkit.writers.wandb", "mode": "offline"},
    )


def digits(variant: str, **changes: Any) -> Any:
    """The config of the digits, as it is but for the changes."""
    found = configs.thaw(configs.read(f"{TOP / 'configs/digits.py'}:model={variant}", []))
    return found | {"picture": False} | changes


def recipe_of(config: Any) -> Any:
    path = TOP / "experiments/image_classification.py"
    spec = importlib.util.spec_from_file_location("image_classification", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipe(config)


def microseconds_a_step(config: dict[str, Any], *, tracked: bool = False) -> float:
    """From the end of the first call to that of the run, its evaluations and saves included; all writers or none.

    The loop's own steps/s leave out what an evaluation waits for, and with it calls that were still under way.
    """
    with tempfile.TemporaryDirectory() as temporary, open("/dev/null", "w") as sink:
        folder = Path(temporary) / "run"
        frozen = configs.freeze(config | {"writers": all_writers(Path(temporary)) if tracked else ()})
        recipe = recipe_of(frozen)
        planned = plan(recipe, batch_size=frozen.batch_size)
        examples = {split: source.open() for split, source in recipe.data.items()}
        console = Console(file=sink, force_terminal=True, width=120)
        show = lambda step: progress.progress(console, start=step, num_steps=frozen.num_steps)
        with directory.claim(folder, frozen, "trust"), tracking.beside(folder, frozen.writers, console):
            outcome = loop.train(recipe, frozen, planned, examples, folder, show=show)
            ended = process.age()
        if tracked:
            print(f"  the writers have all {process.age() - ended:.1f} s after the end", flush=True)
        return (ended - outcome.first_step_at) / frozen.num_steps * 1e6


def microseconds_a_row(*, tracked: bool, within: bool) -> float:
    """Rows of three scalars that are on the devices: each of a call of its own, or a hundred of one.

    Of the thread that trains, its time of the processor: another thread fetches and writes them, while this one
    waits for a step of a millisecond to end.
    """
    metrics = {name: Mean(jnp.float32(0.5), jnp.float32(1.0)) for name in ("loss", "accuracy", "skipped")}
    many = {
        name: Mean(jnp.linspace(0.1, 0.9, ROWS_A_CALL), jnp.ones(ROWS_A_CALL))
        for name in ("loss", "accuracy", "skipped")
    }
    zeros = {name: Mean(np.float64(0), np.float64(0)) for name in metrics}
    count = ROWS_A_CALL if within else 1
    folds, fold = jnp.arange(ROWS_A_CALL, dtype=jnp.uint32), jnp.uint32(7)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        writers = all_writers(Path(temporary)) if tracked else ()
        config = configs.freeze({"num_steps": ROWS, "log_every": 1, "writers": writers})
        silent = Console(quiet=True)
        with directory.claim(folder, config, "trust"), tracking.beside(folder, config.writers, silent):
            recorder = record.recorder(folder / directory.METRICS, after=0)
            rows = ledger.ledger(config, recorder, progress.progress(silent, start=0, num_steps=ROWS), zeros)
            elapsed = -ROWS // count * clock()
            for step in range(count, ROWS + 1, count):
                time.sleep(1e-3 * count)
                parts = [ledger.Steps(step - count, many, folds)] if within else [metrics]
                began = time.thread_time()
                rows.add(step, parts, fold, {}, {}, keep=1)
                elapsed += time.thread_time() - began
            rows.close()
            recorder.close()
    return elapsed / ROWS * 1e6


def clock() -> float:
    """Seconds that it takes to ask for the time of a thread, after a wait, as a row does: caches are cold."""
    elapsed = 0.0
    for _ in range(1_000):
        time.sleep(1e-3)
        began = time.thread_time()
        elapsed += time.thread_time() - began
    return elapsed / 1_000


def interleaved(
    title: str, unit: str, cases: dict[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Rounds of all cases, in turn from the first and from the last; prints medians and ratios to the first."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in list(cases.items())[:: -1 if number % 2 else 1]:
            times[name].append(case())
    measure.table(title, times, unit, next(iter(cases)))
    sys.stdout.flush()
    return times


def row_costs() -> None:
    """What a row takes of the thread that trains."""
    for within, words in ((False, "one of a call"), (True, f"{ROWS_A_CALL} of a call")):
        interleaved(
            f"a row of three scalars on the thread that trains, {words}, {ROWS:,} rows a round",
            "us/row",
            {
                "no writer": lambda within=within: microseconds_a_row(tracked=False, within=within),
                "all writers at once": lambda within=within: microseconds_a_row(tracked=True, within=within),
            },
        )


def digest_costs() -> None:
    """What the fold of all parameters takes beside the step of a GPT of 4 layers and 256 features."""
    length, vocabulary = 256, 256
    model = models.transformer(
        vocabulary_size=vocabulary, max_length=length, num_layers=4, num_heads=4, features=256
    )
    optimizer = optax.adamw(1e-3)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (8, length + 1)).astype(np.int32)

    def objective(params, extra, batch, key):
        logits, extra = model.apply(params, extra, batch["tokens"][:, :-1], key=key, train=True)
        return means.mean(losses.cross_entropy(logits, batch["tokens"][:, 1:]).mean(axis=1)), ({}, extra)

    layout = parallel.jit()
    update = layout.compile(updates.step(updates.gradients(objective), optimizer))
    params, extra = jax.jit(model.init)(jax.random.key(0), tokens[:, :-1])
    state = layout.put_state(updates.init_state(params, extra, optimizer))
    fold, key = jax.jit(digest.fold), jax.random.key(0)

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = update(state, {"tokens": tokens}, key)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) * 1e3

    def folded() -> float:
        began = time.perf_counter()
        jax.block_until_ready(fold(state.params))
        return (time.perf_counter() - began) * 1e3

    step(), folded()
    times = interleaved("small GPT", "ms", {"a step": step, "the fold of its parameters": folded})
    share = statistics.median(b / a for a, b in zip(*times.values()))
    print(f"  {share:.2%} of a step", flush=True)


def recording_costs() -> None:
    """What it takes of the steps of a run that each is recorded."""
    steps = {"num_steps": 2_000, "eval_every": 2_000, "checkpoint_every": 2_000}
    every = lambda: microseconds_a_step(digits("mlp", **steps, log_every=1))
    times = interleaved(
        "digits MLP, 2,000 steps a round",
        "us/step",
        {
            "no step recorded": lambda: microseconds_a_step(digits("mlp", **steps, log_every=2_000)),
            "every step recorded": every,
            "the same without folds": lambda: with_fold(lambda tree: jnp.uint32(0), every),
            "the same with a float sum for the fold": lambda: with_fold(plain_sum, every),
        },
        rounds=20,
    )
    lost(times)


def writer_costs() -> None:
    """What writers take of the steps of a run."""
    times = interleaved(
        "digits CNN, 1,000 steps a round, as its config is",
        "us/step",
        {
            "no writer": lambda: microseconds_a_step(digits("cnn")),
            "all writers at once": lambda: microseconds_a_step(digits("cnn"), tracked=True),
        },
    )
    lost(times)


def plain_sum(tree: Any) -> jax.Array:
    """The least that looks at every parameter: what XLA takes to add them up."""
    return jax.lax.bitcast_convert_type(sum(map(jnp.sum, jax.tree.leaves(tree))), jnp.uint32)


def with_fold(fold: Callable[[Any], jax.Array], case: Callable[[], float]) -> float:
    """The same with something else in the place of the fold of all parameters."""
    kept, digest.fold = digest.fold, fold
    try:
        return case()
    finally:
        digest.fold = kept


def lost(times: dict[str, list[float]]) -> None:
    """Prints what part of the first case's steps/s the others lose."""
    (_, without), *others = times.items()
    for name, values in others:
        ratio = statistics.median(a / b for a, b in zip(without, values))
        print(f"  {name}: loses {1 - ratio:.2%} of the steps/s", flush=True)


PARTS = {"rows": row_costs, "digests": digest_costs, "recording": recording_costs, "writers": writer_costs}


def main(names: list[str]) -> None:
    """Measures the named parts, or all."""
    print(measure.machine())
    # As a run does, and one of large steps, as those of the GPT are.
    programs.keep()
    memory.keep_freed()
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
