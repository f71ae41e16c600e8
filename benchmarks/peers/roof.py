"""What hardly a library can pass: the products of a step alone, at the speed of one large product of XLA's.

As many floating point operations as the products (and convolutions) of a step have, forward and backward, spent in
products of square matrices of a size at which no cache set is fought over.
"""

import time

began = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

imports = time.perf_counter() - began

import jaxkit_models  # noqa: E402
import protocol  # noqa: E402

from jaxkit import costs, losses  # noqa: E402

SIZE = 1040
STEPS = {"mlp": 500, "cnn": 50, "gpt": 3}


def main():
    case, _, arrays = protocol.arguments()
    model, steps = jaxkit_models.model(case), STEPS[case]
    inputs, targets = (jnp.asarray(array[: protocol.BATCH[case]]) for array in arrays)
    params, extra = jax.eval_shape(model.init, jax.random.key(0), inputs[:1])

    def loss(params):
        return losses.cross_entropy(model.apply(params, extra, inputs)[0], targets).mean()

    flops = costs.flops(jax.make_jaxpr(jax.grad(loss))(params))
    product = jax.jit(lambda x: x @ x / SIZE)
    x = jnp.ones((SIZE, SIZE))
    on_step = protocol.session(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        dtype=x.dtype,
        imports=imports,
        packages=("jax",),
    )
    while True:
        for _ in range(round(steps * flops / (2 * SIZE**3))):
            x = product(x)
        on_step(lambda x=x: x[0, 0], steps)


main()
