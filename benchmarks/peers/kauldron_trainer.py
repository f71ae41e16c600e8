"""Kauldron: its Trainer, losses computed where it writes them, without checkpoints.

Variants: memory, its pipeline over arrays; grain, that of its examples, by record, in this process.
"""

import time

began = time.perf_counter()

import jax  # noqa: E402
import optax  # noqa: E402
from kauldron import kd  # noqa: E402
from kauldron.inspect import profile_utils  # noqa: E402
from kauldron.train import metric_writer  # noqa: E402

imports = time.perf_counter() - began

import tempfile  # noqa: E402
from typing import Any  # noqa: E402

import flax_models  # noqa: E402
import protocol  # noqa: E402
from flax import linen as nn  # noqa: E402

LOG_EVERY = {"mlp": 100, "cnn": 20, "gpt": 2}
NEWEST: dict[str, float] = {}


class Model(nn.Module):
    """A model that names what it reads."""

    case: str
    inputs: kd.kontext.Key = "batch.inputs"

    @nn.compact
    def __call__(self, inputs):
        return {"logits": flax_models.MODELS[self.case]()(inputs)}


class Writer(metric_writer.NoopWriter):
    """Computes what Kauldron would write, and keeps it."""

    write_step_metrics = metric_writer.WriterBase.write_step_metrics

    def write_scalars(self, step, scalars):
        NEWEST.update(scalars)


class Rounds(profile_utils.NoopProfiler):
    """What Kauldron calls after every step: tells the driver."""

    on_step: Any = None

    def __call__(self, step):
        Rounds.on_step(fetch)


def fetch():
    """Waits for all that there is, and says the newest loss that was written."""
    jax.block_until_ready(jax.live_arrays())
    return next(value for name, value in NEWEST.items() if "loss" in name)


class Records:
    """Examples by number, as grain wants them."""

    def __init__(self, fields):
        self.fields = fields

    def __len__(self):
        return len(self.fields["inputs"])

    def __getitem__(self, number):
        return {name: value[number] for name, value in self.fields.items()}


def pipeline(variant, fields, batch):
    """The data, shuffled and in batches, without end."""
    if variant == "memory":
        return kd.data.InMemoryPipeline(loader=lambda: fields, batch_size=batch, shuffle=True, seed=0)
    return kd.data.py.DataSource(
        data_source=Records(fields), batch_size=batch, shuffle=True, seed=0, num_workers=0
    )


def main():
    case, variant, (inputs, targets) = protocol.arguments()
    fields = {"inputs": inputs, "targets": targets[..., None]}
    if case == "gpt":
        optimizer = optax.adamw(protocol.LEARNING_RATE, weight_decay=protocol.WEIGHT_DECAY)
    else:
        optimizer = optax.adam(protocol.LEARNING_RATE)
    loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(logits="preds.logits", labels="batch.targets")
    trainer = kd.train.Trainer(
        seed=0,
        workdir=tempfile.mkdtemp(),
        train_ds=pipeline(variant, fields, protocol.BATCH[case]),
        model=Model(case),
        optimizer=optimizer,
        train_losses={"loss": loss},
        num_train_steps=10_000_000,
        log_metrics_every=LOG_EVERY[case],
        log_summaries_every=10_000_000,
        writer=Writer(),
        profiler=Rounds(),
    )
    params = jax.eval_shape(flax_models.MODELS[case]().init, jax.random.key(0), inputs[:1])["params"]
    Rounds.on_step = protocol.session(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        dtype=jax.tree.leaves(params)[0].dtype,
        imports=imports,
        packages=("kauldron", "jax", "optax"),
    )
    trainer.train()


main()
