"""What a layout costs on one device: the step of the digits CNN under `exact` and `pmap`, against `jit`.

    python benchmarks/layouts.py

Rounds are interleaved, on two cores as they come; beside the time stands the memory that the compiler plans.
"""

import time

import jax
import measure
import numpy as np
import optax

from jaxkit import models, objectives, parallel, updates

BATCH = 128
LAYOUTS = {
    "jit": parallel.jit,
    "pmap on 1 device": lambda: parallel.pmap(num_devices=1),
    "mesh of 1 device": lambda: parallel.mesh(data=1),
    "exact, 8 shards on 1 device": lambda: parallel.exact(shards=8, num_devices=1),
}


def prepared(layout):
    """A function of a number of steps: milliseconds a step; and the bytes that the compiler plans for one."""
    model, optimizer = models.cnn(num_classes=10), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    loss = optax.softmax_cross_entropy_with_integer_labels
    gradients = updates.gradients(objectives.classification(model, loss, num_classes=10))
    update = layout.compile(updates.step(layout.across(gradients), optimizer))
    rng = np.random.default_rng(0)
    images = rng.random((BATCH, 8, 8, 1), np.float32)
    batch = layout.put_batch({"image": images, "label": rng.integers(0, 10, BATCH).astype(np.int32)})
    state = updates.init_state(*model.init(jax.random.key(0), images), optimizer)
    state, key = layout.put_state(state), layout.put_state(jax.random.key(0))
    lowered = jax.jit(lambda *arguments: update(*arguments), donate_argnums=0).lower(state, batch, key)
    memory = lowered.compile().memory_analysis()
    state, _ = update(state, batch, key)
    held = [state]

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            held[0], _ = update(held[0], batch, key)
        jax.block_until_ready(held[0])
        return (time.perf_counter() - began) / steps * 1e3

    return run, memory.argument_size_in_bytes + memory.temp_size_in_bytes


def main(rounds: int = 11, steps: int = 40) -> None:
    """Interleaves the layouts and prints medians."""
    print(measure.machine())
    ready = {name: prepared(make()) for name, make in LAYOUTS.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (run, _) in ready.items():
            times[name].append(run(steps))
    measure.table("the step of the digits CNN, batch 128", times, "ms/step", "jit")
    for name, (_, memory) in ready.items():
        print(f"  {name:44} {memory / 2**20:8.1f} MiB planned")


if __name__ == "__main__":
    main()
