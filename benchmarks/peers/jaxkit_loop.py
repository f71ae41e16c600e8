"""jaxkit's run loop with all that a run has: record, progress bar, evaluations and checkpoints.

In every round of the driver there are one checkpoint and at least one evaluation. The variant `eigen` has Eigen
compute the products that stand alone, by the compiler option that `parallel.jit` takes.
"""

import time

began = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from rich.console import Console  # noqa: E402

from jaxkit import configs, data, means, objectives, parallel, updates  # noqa: E402
from jaxkit.recipe import plan  # noqa: E402
from jaxkit.runs import feeding, loop, memory, progress  # noqa: E402
from jaxkit.types import Recipe  # noqa: E402

imports = time.perf_counter() - began

import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import jaxkit_models  # noqa: E402
import protocol  # noqa: E402

LOSS = optax.softmax_cross_entropy_with_integer_labels
OPTIONS = {"eigen": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}}
# log_every, eval_every, checkpoint_every; the last is the driver's round. None: the loop chooses its form.
INTERVALS = {"mlp": (100, 500, 5_000, None), "cnn": (20, 100, 400, None), "gpt": (4, 16, 16, 1)}


def language_objective(model):
    """The mean over a batch of each sequence's mean loss."""

    def measure(params, extra, batch, **options):
        logits, extra = model.apply(params, extra, batch["image"], **options)
        return means.mean(LOSS(logits, batch["label"]).mean(axis=1), batch.get("mask")), extra

    def objective(params, extra, batch, key):
        loss, extra = measure(params, extra, batch, key=key, train=True)
        return loss, ({}, extra)

    return objective, lambda params, extra, batch: {"loss": measure(params, extra, batch)[0]}


def recipe_of(case, arrays, layout):
    """The recipe of a case; a batch of the data is held out."""
    model, optimizer, batch = jaxkit_models.model(case), jaxkit_models.optimizer(case), protocol.BATCH[case]
    if case == "gpt":
        objective, evaluate = language_objective(model)
    else:
        objective = objectives.classification(model, LOSS, num_classes=10)
        evaluate = objectives.evaluation(model, LOSS)
    fields = dict(zip(("image", "label"), arrays))
    part = lambda rows: data.arrays({name: value[rows] for name, value in fields.items()})
    return Recipe(
        data={"train": part(slice(batch, None)), "test": part(slice(0, batch))},
        init=lambda key: updates.init_state(*model.init(key, jnp.asarray(arrays[0][:1])), optimizer),
        update=updates.step(updates.gradients(objective), optimizer),
        evaluate=evaluate,
        predict=lambda params, extra, batch: {"logits": model.apply(params, extra, batch["image"])[0]},
        layout=layout,
        steps_per_call=INTERVALS[case][3],
    )


def main():
    case, variant, arrays = protocol.arguments()
    newest, layout = None, parallel.jit(compiler_options=OPTIONS.get(variant))

    def compile_(update):
        """Keeps what the newest call measured, so that the end of a round can wait for it."""
        compiled = layout.compile(update)

        def call(*arguments):
            nonlocal newest
            state, newest = compiled(*arguments)
            return state, newest

        return call

    recipe = recipe_of(case, arrays, layout._replace(compile=compile_))
    log_every, eval_every, checkpoint_every, _ = INTERVALS[case]
    intervals = {"log_every": log_every, "eval_every": eval_every, "checkpoint_every": checkpoint_every}
    last = checkpoint_every * 100_000
    batch = protocol.BATCH[case]
    config = configs.freeze({"seed": 0, "num_steps": last, "batch_size": batch, **intervals})
    planned = plan(recipe, batch_size=batch)
    memory.prepare(planned)
    examples = {split: source.open() for split, source in recipe.data.items()}
    steps = feeding.choose_form(recipe, planned, config).steps_per_call
    on_step = protocol.session(
        parameters=planned.num_parameters,
        dtype=jax.tree.leaves(planned.state.params)[0].dtype,
        imports=imports,
        packages=("jaxkit", "jax", "optax"),
    )
    fetch = lambda: jax.block_until_ready(newest)["loss"].compute()

    def stopped():
        # The loop asks after every call.
        on_step(fetch, steps)
        return False

    console = Console(file=open("/dev/null", "w"), force_terminal=True, width=120)  # noqa: SIM115
    show = lambda step: progress.progress(console, start=step, num_steps=last)
    loop.train(recipe, config, planned, examples, Path(tempfile.mkdtemp()), show=show, stopped=stopped)


main()
