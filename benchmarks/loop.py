"""The run loop with everything on, against the same steps written by hand.

    python benchmarks/loop.py [tiny] [mlp] [cnn]

The limit of the two MLPs is a hand-written, donated `lax.scan` of as many steps with the data on the device; of
the CNN one hand-written, donated jit call a step, since a convolution in a loop is slow on a CPU. The run loop
records every 500 steps, draws its progress bar, evaluates, and saves a checkpoint within each round. Rounds
are interleaved, one core is pinned, and both sides must come to the same loss.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import measure

measure.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from rich.console import Console  # noqa: E402

from jaxkit import configs, data, metrics, models, objectives, parallel, random, updates  # noqa: E402
from jaxkit.recipe import plan  # noqa: E402
from jaxkit.runs import directory, feeding, loop, progress, record  # noqa: E402
from jaxkit.types import Recipe  # noqa: E402

BATCH = 128
LOSS = optax.softmax_cross_entropy_with_integer_labels


class Case(NamedTuple):
    """A model, and how often things happen, in steps; the limit's call takes `steps` of them."""

    model: Callable[[], Any]
    num_steps: int
    steps: int
    log_every: int
    eval_every: int


CASES = {
    "tiny": Case(lambda: models.mlp(num_classes=10, features=(32,)), 200_000, 100, 500, 10_000),
    "mlp": Case(lambda: models.mlp(num_classes=10, features=(256, 256)), 10_000, 100, 100, 500),
    "cnn": Case(lambda: models.cnn(num_classes=10, features=(32, 64)), 2_000, 1, 100, 200),
}


def sources():
    """Digits-sized random data: 1,437 images to train on, 360 held out."""
    rng = np.random.default_rng(0)
    fields = {
        "image": rng.random((1797, 8, 8, 1), np.float32),
        "label": rng.integers(0, 10, 1797).astype(np.int32),
    }
    split = {"train": slice(0, 1437), "test": slice(1437, None)}
    return {
        name: data.arrays(
            {key: value[rows] for key, value in fields.items()},
            name="random",
            split=name,
            num_classes={"label": 10},
        )
        for name, rows in split.items()
    }


def make_recipe(model, *, extras: bool) -> tuple[Recipe, optax.GradientTransformation]:
    """The plain recipe, or one with accuracy, an average of the parameters and the guard besides."""
    measured = {"accuracy": metrics.accuracy} if extras else {}
    # So slow that the last loss is still one to compare.
    optimizer = optax.adam(1e-6)
    if extras:
        optimizer = optax.chain(optimizer, updates.ema(decay=0.99))
    layout = parallel.jit()
    objective = objectives.classification(model, LOSS, num_classes=10, metrics=measured)
    step = updates.guarded_step if extras else updates.step
    recipe = Recipe(
        data=sources(),
        init=lambda key: updates.init_state(*model.init(key, jnp.zeros((1, 8, 8, 1))), optimizer),
        update=step(updates.gradients(objective), optimizer),
        evaluate=objectives.evaluation(model, LOSS, metrics=measured),
        predict=lambda params, extra, batch: {"logits": model.apply(params, extra, batch["image"])[0]},
        layout=layout,
    )
    return recipe, optimizer


def by_hand(model, optimizer, arrays, steps: int):
    """One call of `steps` steps: (params, opt_state, indices) -> (params, opt_state, mean loss)."""

    def one(carry, index):
        params, opt_state = carry

        def loss(params):
            images, labels = arrays["image"][index], arrays["label"][index]
            return LOSS(model.apply(params, {}, images)[0], labels).mean()

        value, grads = jax.value_and_grad(loss)(params)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), value

    def scanned(params, opt_state, indices):
        (params, opt_state), losses = jax.lax.scan(one, (params, opt_state), indices)
        return params, opt_state, losses.mean()

    def single(params, opt_state, index):
        (params, opt_state), value = one((params, opt_state), index)
        return params, opt_state, value

    return jax.jit(scanned if steps > 1 else single, donate_argnums=(0, 1))


def time_by_hand(case: Case, recipe, optimizer) -> tuple[float, list[float]]:
    """Microseconds a step, and the mean losses of the first and the last interval."""
    examples = recipe.data["train"].open()
    arrays = {name: jnp.asarray(value) for name, value in examples.arrays.items()}
    stream = data.shuffled(examples, batch_size=BATCH, seed=0)
    shape = (-1, case.steps, BATCH) if case.steps > 1 else (-1, BATCH)
    calls = jnp.asarray(stream.indices(0, case.num_steps).reshape(shape))
    call = by_hand(case.model(), optimizer, arrays, case.steps)
    state = jax.jit(recipe.init)(random.named(jax.random.key(0), "init"))
    params, opt_state, value = call(state.params, state.opt_state, calls[0])
    jax.block_until_ready(value)
    began, losses = time.perf_counter(), [value]
    for n in range(1, len(calls)):
        params, opt_state, value = call(params, opt_state, calls[n])
        losses.append(value)
    jax.block_until_ready(losses)
    elapsed = time.perf_counter() - began
    interval = case.log_every // case.steps
    ends = [float(np.mean(jax.device_get(part))) for part in (losses[:interval], losses[-interval:])]
    return elapsed / (case.num_steps - case.steps) * 1e6, ends


def time_run(case: Case, recipe: Recipe) -> tuple[float, list[float], str]:
    """Microseconds a step of the run loop from its second evaluation to its end, the same losses, the form."""
    config = configs.freeze(
        {
            "seed": 0,
            "num_steps": case.num_steps,
            "batch_size": BATCH,
            "log_every": case.log_every,
            "eval_every": case.eval_every,
            "checkpoint_every": case.num_steps,
        }
    )
    planned = plan(recipe, batch_size=BATCH)
    examples = {split: source.open() for split, source in recipe.data.items()}
    form = feeding.choose_form(recipe, planned, config)
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as sink:
        console = Console(file=sink, force_terminal=True, width=120)
        show = lambda step: progress.progress(console, start=step, num_steps=case.num_steps)
        loop.train(recipe, config, planned, examples, Path(folder), show=show)
        ended = time.time()
        rows = record.read(Path(folder) / directory.METRICS)
    # From the end of the second evaluation (the first compiles) to that of the run, its checkpoint included: the
    # row of an evaluation is written when its numbers are there, and no call goes beyond its step.
    first = next(row for row in rows if row["step"] == 2 * case.eval_every)
    measured = case.num_steps - first["step"]
    losses = [rows[0]["loss"], rows[-1]["loss"]]
    return (ended - first["wall"]) / measured * 1e6, losses, f"{form.steps_per_call} a call"


def main(names, rounds: int = 5) -> None:
    """Measures the named cases, prints medians and paired ratios."""
    print(measure.machine())
    for name in names:
        case = CASES[name]
        plain, optimizer = make_recipe(case.model(), extras=False)
        full, _ = make_recipe(case.model(), extras=True)
        limit = f"limit: {'scan of 100' if case.steps > 1 else 'jit call a step'}, by hand"
        times: dict[str, list[float]] = {limit: [], "run loop": [], "run loop, accuracy + ema + guard": []}
        for _ in range(rounds):
            hand, losses = time_by_hand(case, plain, optimizer)
            run, run_losses, form = time_run(case, plain)
            extras, _, _ = time_run(case, full)
            np.testing.assert_allclose(run_losses, losses, rtol=1e-3)
            for row, value in zip(times.values(), (hand, run, extras)):
                row.append(value)
        measure.table(f"{name}: {form}, {case.num_steps:,} steps a round", times, "us/step", limit)
        ratio = np.median([a / b for a, b in zip(times[limit], times["run loop"])])
        print(f"  run loop reaches {ratio:.3f} of the limit's steps/s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
