"""What it saves that a layer of few columns is turned on a CPU (`models.mlp`), beside the plain product.

    python benchmarks/narrow.py

The layer alone, forward and backward, over numbers of columns; then the scanned steps of loop.py's two MLPs. Both
forms in one process on one pinned core, rounds in turn, medians and medians of paired ratios; after the first call
their losses must be the same.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import measure

measure.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import loop  # noqa: E402
import numpy as np  # noqa: E402

from jaxkit import data  # noqa: E402
from jaxkit.models import feedforward  # noqa: E402

ROWS, FEATURES = 128, 256
COLUMNS = (1, 2, 4, 10, 16, 32, 64, 100)
STEPS = 100


def compiled(few: int, function: Callable[..., Any], *args: Any) -> Any:
    """The function as it is where layers of at most `few` columns are turned."""
    usual, feedforward._FEW = feedforward._FEW, few
    jax.clear_caches()  # jax keeps what it has traced
    try:
        return jax.jit(function).lower(*args).compile()
    finally:
        feedforward._FEW = usual


def layer(columns: int) -> Callable[..., Any]:
    """STEPS times the layer's value and gradients, one after the other."""

    def loss(kernel, x):
        return jnp.sum(jnp.square(feedforward._dense({"kernel": kernel, "bias": jnp.ones(columns)}, x)))

    def one(carry, _):
        value, grads = jax.value_and_grad(loss, (0, 1))(*carry)
        return jax.tree.map(lambda x, change: x - 1e-9 * change, carry, grads), value

    return lambda *carry: jax.lax.scan(one, carry, None, length=STEPS)[1]


def compare(title: str, few: int, function: Callable[..., Any], *args: Any, rounds: int = 25) -> None:
    """Prints microseconds a step of both forms, and how many times the turned one's the plain one takes."""
    forms = [compiled(columns, function, *args) for columns in (0, few)]
    first = [jax.tree.leaves(form(*args))[-1] for form in forms]
    np.testing.assert_allclose(*first, rtol=1e-5)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for form, spent in zip(forms, times):
            began = time.perf_counter()
            jax.block_until_ready(form(*args))
            spent.append((time.perf_counter() - began) / STEPS * 1e6)
    plain, turned = map(statistics.median, times)
    ratio = statistics.median(a / b for a, b in zip(*times))
    print(f"  {title:36} plain {plain:8.1f} us, turned {turned:8.1f} us: {ratio:.2f} times", flush=True)


def main() -> None:
    """The layer, then the steps."""
    print(measure.machine())
    rng = np.random.default_rng(0)
    for columns in COLUMNS:
        kernel, x = (
            jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((FEATURES, columns), (ROWS, FEATURES))
        )
        compare(f"layer: {ROWS} rows, {FEATURES} to {columns}", columns, layer(columns), kernel, x)
    examples = loop.sources()["train"].open()
    arrays = {name: jnp.asarray(value) for name, value in examples.arrays.items()}
    indices = jnp.asarray(data.shuffled(examples, batch_size=loop.BATCH, seed=0).indices(0, STEPS))
    for name in ("tiny", "mlp"):
        model = loop.CASES[name].model()
        recipe, optimizer = loop.make_recipe(model, extras=False)
        state = jax.jit(recipe.init)(jax.random.key(0))
        step = loop.by_hand(model, optimizer, arrays, STEPS).__wrapped__
        compare(f"step: {name}, scanned", feedforward._FEW, step, state.params, state.opt_state, indices)


if __name__ == "__main__":
    main()
