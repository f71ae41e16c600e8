"""The limit: jaxkit's models in a loop by hand, with the data on the device and donated parameters.

A `lax.scan` of 100 steps for the MLP; a convolution in a loop is slow on a CPU and a step of the GPT is long,
so theirs is one jit call a step. No record, no progress, no evaluation, no checkpoint.
"""

import time

began = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

imports = time.perf_counter() - began

import jaxkit_models  # noqa: E402
import protocol  # noqa: E402

STEPS = {"mlp": 100, "cnn": 1, "gpt": 1}


def main():
    case, _, arrays = protocol.arguments()
    model, optimizer = jaxkit_models.model(case), jaxkit_models.optimizer(case)
    params, extra = jax.jit(model.init)(jax.random.key(0), jnp.asarray(arrays[0][:1]))
    opt_state, steps = jax.jit(optimizer.init)(params), STEPS[case]
    inputs, targets = map(jnp.asarray, arrays)

    def one(carry, index):
        params, opt_state = carry

        def loss(params):
            logits, _ = model.apply(params, extra, inputs[index])
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets[index]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), value

    many = lambda carry, index: jax.lax.scan(one, carry, index)
    call = jax.jit(many if steps > 1 else one, donate_argnums=0)
    on_step = protocol.session(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        dtype=jax.tree.leaves(params)[0].dtype,
        imports=imports,
        packages=("jax", "optax"),
    )
    carry, batches = (params, opt_state), protocol.indices(len(inputs), protocol.BATCH[case])
    while True:
        index = np.stack([next(batches) for _ in range(steps)]).astype(np.int32)
        carry, loss = call(carry, index if steps > 1 else index[0])
        # Of a call's losses the first, which is that of the start; a float of it waits for the call.
        on_step(lambda loss=loss: loss.reshape(-1)[0], steps)


main()
