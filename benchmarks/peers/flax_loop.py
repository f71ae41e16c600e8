"""The loop of a flax example: a TrainState, one jit call a step, clu's metrics merged after each."""

import time

began = time.perf_counter()

import flax  # noqa: E402
import jax  # noqa: E402
import optax  # noqa: E402
from clu import metrics  # noqa: E402
from flax.training import train_state  # noqa: E402

imports = time.perf_counter() - began

import flax_models  # noqa: E402
import protocol  # noqa: E402


@flax.struct.dataclass
class Metrics(metrics.Collection):
    """What is measured."""

    accuracy: metrics.Accuracy
    loss: metrics.Average.from_output("loss")


@jax.jit
def train_step(state, inputs, targets):
    """The state after one step, and its metrics."""

    def loss_of(params):
        logits = state.apply_fn({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), logits

    (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    logits, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    update = Metrics.single_from_model_output(loss=loss, logits=logits, labels=labels)
    return state.apply_gradients(grads=grads), update


def main():
    case, _, (inputs, targets) = protocol.arguments()
    batch = protocol.BATCH[case]
    model = flax_models.MODELS[case]()
    params = model.init(jax.random.key(0), inputs[:batch])["params"]
    if case == "gpt":
        optimizer = optax.adamw(protocol.LEARNING_RATE, weight_decay=protocol.WEIGHT_DECAY)
    else:
        optimizer = optax.adam(protocol.LEARNING_RATE)
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    on_step = protocol.session(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        dtype=jax.tree.leaves(params)[0].dtype,
        imports=imports,
        packages=("flax", "clu", "jax", "optax"),
    )
    measured = Metrics.empty()

    def fetch():
        nonlocal measured
        jax.block_until_ready(state)
        loss, measured = measured.compute()["loss"], Metrics.empty()
        return loss

    for index in protocol.indices(len(inputs), batch):
        state, update = train_step(state, inputs[index], targets[index])
        measured = measured.merge(update)
        on_step(fetch)


main()
