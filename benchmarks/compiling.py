"""What a cold start compiles, in seconds of the processor, and what XLA's first level of optimisation changes.

    python benchmarks/compiling.py [cnn] [mlp]

The initialisation and the update of configs/digits.py, compiled anew in each round, and steps of the two updates
in turn. Not how long a start takes, which is start.py: XLA compiles on all cores.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np
import trust

from jaxkit import configs, data, updates
from jaxkit.types import Indexed

ROUNDS, STEPS, FUSED = 5, 40, 100
LEVELS = {"as XLA does by itself": {}, "the first level": {"xla_backend_optimization_level": 1}}


def compiled(lowered, options: dict):
    """A program, and the seconds of the processor that compiling it took."""
    jax.clear_caches()  # it may be known from the round before
    began = time.process_time()
    return lowered.compile(compiler_options=options), time.process_time() - began


def measured(variant: str) -> None:
    """One model of the digits: one step a call for the CNN, as a run has it, else a hundred."""
    recipe = trust.recipe_of(configs.freeze(trust.digits(variant)))
    examples = recipe.data["train"].open()
    arrays = jax.tree.map(jnp.asarray, dict(examples.arrays))
    stream, update = data.shuffled(examples, batch_size=128, seed=0), updates.indexed(recipe.update)
    steps = 1 if variant == "cnn" else FUSED
    if steps > 1:
        update = updates.fuse(update)
    batch = Indexed(arrays, jnp.asarray(stream.indices(0, steps if steps > 1 else None)))
    key, init = jax.random.key(0), jax.jit(recipe.init)
    states = {name: init(key) for name in LEVELS}
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, options in LEVELS.items():
            step, spent = compiled(jax.jit(update, donate_argnums=0).lower(states[name], batch, key), options)
            _, initialising = compiled(jax.jit(recipe.init).lower(key), options)
            states[name], _ = step(states[name], batch, key)
            began = time.perf_counter()
            for _ in range(STEPS if steps == 1 else 4):
                states[name], metrics = step(states[name], batch, key)
            jax.block_until_ready(metrics)
            took = (time.perf_counter() - began) / (STEPS if steps == 1 else 4 * steps)
            found = {"update": spent, "initialisation": initialising, "ms a step": took * 1e3}
            for what, value in found.items():
                if number:
                    times.setdefault(f"{what}, {name}", []).append(value)
    first, second = LEVELS
    for what in ("update", "initialisation", "ms a step"):
        pair = {name: times[f"{what}, {name}"] for name in LEVELS}
        measure.table(f"{variant}: {what}", pair, "s" if "step" not in what else "ms", first)
        ratio = statistics.median(np.divide(pair[second], pair[first]))
        print(f"  {ratio:.3f} times as much with the first level")


def main(variants: list[str]) -> None:
    """Measures the named models, or both."""
    print(measure.machine())
    jax.config.update("jax_enable_compilation_cache", False)
    for variant in variants or ("cnn", "mlp"):
        measured(variant)


if __name__ == "__main__":
    main(sys.argv[1:])
