"""How costs grow: a step with the devices, a call with the state's leaves, the feed with the size of a record.

    python benchmarks/growth.py [--rounds 3] [--picture docs/growth.png] [--quick]

One core does everything, so over pretended devices the best is a flat line: the same global batch, divided among
more of them. The leaves hold the same 16,384 numbers in total, with Adam's state three times that, and a step does
next to nothing with them, so what is left is the cost of the call and of many small arrays: as they are, flattened
into one vector for the step (`one vector`), and as they are in calls of ten steps (`fuse`). The same for a GPT of
12 layers that is too narrow to compute much. The feed is a shuffled batch of 128 records in memory, beside a plain
copy of as many bytes and the device's own gather of them. Medians over rounds of each round's fastest part.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import growth_lines as lines
import measure

measure.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

from jaxkit import data, means, models, objectives, parallel, updates  # noqa: E402

TOP = Path(__file__).parent.parent
DEVICES = (1, 2, 4, 8)
PARAMETERS = (4, 15, 50, 150, 500)  # arrays; Adam makes three of each, and there are two counters
RECORDS = (64, 256, 1024, 4096, 16_384, 65_536)  # bytes
BATCH = 128


def microseconds(call: Callable[[], Any], times: int, wait: Callable[[Any], Any] = jax.block_until_ready) -> float:
    """The time of a call, in the fastest of ten parts of a round: what else runs hits some of them, not all.

    Waits for the result every eight calls, or pretended devices deadlock.
    """
    wait(call())
    parts = []
    for _ in range(10):
        began, each = time.perf_counter(), max(1, times // 10)
        for n in range(each):
            found = call()
            if n % 8 == 7:
                wait(found)
        wait(found)
        parts.append((time.perf_counter() - began) / each * 1e6)
    return min(parts)


def stepping(update: Any, state: Any, batch: Any, key: Any) -> Callable[[], Any]:
    """A call that takes a step from where the last one ended."""

    def call():
        nonlocal state
        state, metrics = update(state, batch, key)
        return metrics

    return call


def layouts(count: int) -> dict[str, Any]:
    """The layouts that divide a batch over so many devices."""
    found = {"jit": parallel.jit()} if count == 1 else {}
    found["pmap"] = parallel.pmap(num_devices=count)
    found["mesh"] = parallel.mesh(data=count)
    return found


def over_devices(count: int, times: int) -> dict[str, float]:
    """A step of the digits MLP with 1,024 examples, by layout; to be called where there are `count` devices."""
    rng = np.random.default_rng(0)
    batch = {"image": rng.random((1024, 8, 8, 1), np.float32), "label": rng.integers(0, 10, 1024).astype(np.int32)}
    model, optimizer = models.mlp(num_classes=10), optax.adam(1e-3)
    loss, found = optax.softmax_cross_entropy_with_integer_labels, {}
    for name, layout in layouts(count).items():
        objective = objectives.classification(model, loss, num_classes=10)
        update = updates.step(layout.across(updates.gradients(objective)), optimizer)
        state = updates.init_state(*model.init(jax.random.key(0), batch["image"]), optimizer)
        key = layout.put_state(jax.random.key(1))
        call = stepping(layout.compile(update), layout.put_state(state), layout.put_batch(batch), key)
        found[name] = microseconds(call, times)
    return found


def device_times(quick: bool) -> lines.Times:
    """One round of the steps, a process for each number of devices."""
    found: lines.Times = {}
    for count in DEVICES:
        # First: XLA reads no further than a word that is no flag.
        flags = f"--xla_force_host_platform_device_count={count} {os.environ['XLA_FLAGS']}"
        environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(TOP)}
        command = [sys.executable, __file__, "--devices", str(count), *(["--quick"] if quick else [])]
        output = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout
        for line in output.splitlines():
            name, value = line.split()
            found.setdefault(name, {})[count] = float(value)
    return found


def forms(loss: Callable[..., jax.Array], params: Any, batch: Any) -> dict[str, tuple[Callable[[], Any], int]]:
    """The same step in its forms: a call, and how many steps it takes."""
    optimizer, key = optax.adam(1e-6), jax.random.key(0)

    def make(unravel):
        def objective(params, extra, batch, key):
            return means.mean(loss(unravel(params), batch)), ({}, extra)

        return updates.step(updates.gradients(objective), optimizer)

    own = lambda tree: jax.device_put(tree, may_alias=False)
    compiled = lambda update: jax.jit(update, donate_argnums=0)
    vector, unravel = ravel_pytree(params)
    tree_state = lambda: updates.init_state(own(params), {}, optimizer)
    vector_state = updates.init_state(own(vector), {}, optimizer)
    ten = jax.tree.map(lambda x: jnp.stack([x] * 10), batch)
    as_is = make(lambda params: params)
    return {
        "as they are": (stepping(compiled(as_is), tree_state(), batch, key), 1),
        "one vector": (stepping(compiled(make(unravel)), vector_state, batch, key), 1),
        "fuse: 10 a call": (stepping(compiled(updates.fuse(as_is)), tree_state(), ten, key), 10),
    }


def many_leaves() -> dict[int, Any]:
    """{number of state leaves: the forms of a step over them}."""
    found = {}
    for count in PARAMETERS:
        params = {f"p{n:03}": jnp.ones(16_384 // count) for n in range(count)}
        loss = lambda params, batch: sum(jnp.sum(p) for p in jax.tree.leaves(params)) * batch["x"]
        found[3 * count + 2] = forms(loss, params, {"x": jnp.ones(1)})
    return found


def narrow_gpt() -> dict[int, Any]:
    """The same for a GPT of 12 layers."""
    model = models.transformer(vocabulary_size=64, max_length=16, num_layers=12, num_heads=2, features=32)
    tokens = jnp.zeros((2, 16), jnp.int32)
    params, _ = jax.jit(model.init)(jax.random.key(0), tokens)

    def loss(params, batch):
        logits, _ = model.apply(params, {}, batch["tokens"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"]).mean(axis=1)

    return {3 * len(jax.tree.leaves(params)) + 2: forms(loss, params, {"tokens": tokens})}


def form_times(cases: dict[int, Any], quick: bool) -> lines.Times:
    """One round of every form, by the leaves of the state."""
    found: lines.Times = {}
    for leaves, named in cases.items():
        for name, (call, steps) in named.items():
            times = max(10, (20 if quick else 2000) // steps // (1 + leaves // 100))
            found.setdefault(name, {})[leaves] = microseconds(call, times) / steps
    return found


def feeds() -> dict[int, Any]:
    """{bytes of a record: {name: read batch n}}."""
    found = {}
    for size in RECORDS:
        count = max(2 * BATCH, min(16_384, 2**28 // size))
        values = np.random.default_rng(0).random((count, size // 4), np.float32)
        stream = data.shuffled(data.arrays({"x": values}).open(), batch_size=BATCH, seed=0)
        on_device, target = jnp.asarray(values), np.empty((BATCH, size // 4), np.float32)
        gather = jax.jit(lambda array, index: array.at[index].get(mode="promise_in_bounds"))
        gathered = lambda n, g=gather, a=on_device, s=stream: g(a, s.indices(n)).block_until_ready()
        starts = count // BATCH
        copied = lambda n, v=values, t=target, s=starts: np.copyto(t, v[n % s * BATCH : (n % s + 1) * BATCH])
        found[size] = {"stream[n]": stream.__getitem__, "gather on the device": gathered, "a plain copy": copied}
    return found


def feed_times(cases: dict[int, Any], quick: bool) -> lines.Times:
    """One round of every feed."""
    found: lines.Times = {}
    for size, named in cases.items():
        times = max(10, (50 if quick else 2000) * 256 // (256 + size))
        for name, read in named.items():
            numbers = itertools.count()
            found.setdefault(name, {})[size] = microseconds(
                lambda read=read, numbers=numbers: read(next(numbers)), times, wait=lambda _: None
            )
    return found


def main() -> None:
    """Measures in rounds, prints the tables, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, default=TOP / "docs/growth.png")
    parser.add_argument("--quick", action="store_true", help="to see that all of it runs")
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.devices:
        for name, value in over_devices(options.devices, 16 if options.quick else 160).items():
            print(name, value)
        return
    print(measure.machine())
    leaves, gpt, read = many_leaves(), narrow_gpt(), feeds()
    rounds = [
        (
            device_times(options.quick),
            form_times(leaves, options.quick),
            form_times(gpt, options.quick),
            feed_times(read, options.quick),
        )
        for _ in range(options.rounds)
    ]
    devices, split, narrow, feed = map(lines.medians, map(list, zip(*rounds)))
    lines.show("a step of the MLP, 1,024 examples, us", "devices on one core", devices)
    lines.show("a step over 16,384 numbers, us", "leaves of the state", split)
    lines.show("a step of a narrow GPT of 12 layers, us", "leaves of the state", narrow)
    lines.show("a batch of 128 records, us", "bytes of a record", feed)
    panels = [
        ("a step, 1,024 examples, one core", "pretended devices", devices),
        ("a step over 16,384 numbers", "leaves of the state", split),
        ("a batch of 128 records", "bytes of a record", feed),
    ]
    lines.draw(options.picture, panels)


if __name__ == "__main__":
    main()
