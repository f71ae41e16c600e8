"""The JAX side: `bare`, a donated jit call a step; `loop`, jaxkit's run loop; `matmul`, what the device can."""

import time

began = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from jaxkit import configs, costs, data, means, models, parallel, updates  # noqa: E402
from jaxkit.recipe import plan  # noqa: E402
from jaxkit.runs import feeding, loop, progress  # noqa: E402
from jaxkit.types import Model, Recipe  # noqa: E402

imports = time.perf_counter() - began

import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import cases  # noqa: E402
import probe  # noqa: E402
import protocol  # noqa: E402
import vision_linen  # noqa: E402

LOSS = optax.softmax_cross_entropy_with_integer_labels
ON_CPU = jax.default_backend() == "cpu"


def parts_of(case: cases.Case) -> tuple[Model, optax.GradientTransformation, dict[str, np.ndarray]]:
    """The model, the optimizer and the examples."""
    rng, size = np.random.default_rng(0), cases.batches(case) * case.batch
    if isinstance(case, cases.Gpt):
        tokens = rng.integers(0, case.vocabulary, (size, case.length + 1)).astype(np.int32)
        model = models.transformer(
            vocabulary_size=case.vocabulary,
            max_length=case.length,
            num_layers=case.layers,
            num_heads=case.heads,
            features=case.features,
        )
        fields = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        return models.precision(model, compute="bfloat16"), optax.adamw(1e-4, weight_decay=0.1), fields
    images = rng.random((size, case.image, case.image, 3), np.float32)
    labels = rng.integers(0, cases.CLASSES, len(images)).astype(np.int32)
    fields = {"inputs": images, "targets": labels}
    if isinstance(case, cases.Resnet):
        model = models.resnet(num_classes=cases.CLASSES, depth=50, width=case.width)
        return models.precision(model, compute="bfloat16"), optax.sgd(0.01, momentum=0.9), fields
    model = models.from_linen(vision_linen.ViT(case, attention_of(case)))
    return model, optax.adamw(1e-4, weight_decay=0.1), fields


def attention_of(case: cases.Vit) -> str:
    """The attention of cuDNN, forward and backward, where it takes these shapes."""
    shape = (2, (case.image // case.patch) ** 2, case.heads, case.features // case.heads)
    x = jnp.ones(shape, jnp.bfloat16)
    attend = lambda x: jax.nn.dot_product_attention(x, x, x, implementation="cudnn").astype(jnp.float32).sum()
    try:
        jax.block_until_ready(jax.jit(jax.grad(attend))(x))
    except Exception as error:
        print(f"attention by XLA: cuDNN does not take it: {error}", file=sys.stderr)
        return "xla"
    return "cudnn"


def session(params) -> tuple:
    """`on_step`, with a trace of ten steps before the first round."""
    notes = {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}
    on_step = protocol.session(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        dtype="bfloat16",
        imports=imports,
        packages=("jax", "optax", "flax"),
        notes=notes,
    )
    folder = tempfile.mkdtemp()

    def end():
        jax.profiler.stop_trace()
        stats = jax.devices()[0].memory_stats() or {}
        notes["peak"] = stats.get("peak_bytes_in_use", 0)
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        # A GPU's streams are its kernels and copies; its other lines group them. A CPU has only threads.
        works = {"cpu": "XLA", "gpu": "Stream", "tpu": "XLA Ops"}.get(jax.default_backend(), "XLA Ops")
        devices = [plane for plane in planes if ON_CPU or plane.name.startswith("/device:")]
        lines = [line for plane in devices for line in plane.lines if works in line.name]
        events = [event for line in lines for event in line.events]
        return [(event.start_ns, event.start_ns + event.duration_ns) for event in events]

    return probe.probed(on_step, notes, begin=lambda: jax.profiler.start_trace(folder), end=end)


def bare(case: cases.Case) -> None:
    """Steps by hand: value_and_grad, the optimizer, everything donated."""
    model, optimizer, fields = parts_of(case)
    batches = [
        jax.device_put({name: value[n * case.batch : (n + 1) * case.batch] for name, value in fields.items()})
        for n in range(cases.batches(case))
    ]
    params, extra = jax.jit(model.init)(jax.random.key(0), batches[0]["inputs"][:1])
    opt_state = jax.jit(optimizer.init)(params)

    def step(params, opt_state, extra, batch):
        def loss_of(params):
            logits, new = model.apply(params, extra, batch["inputs"], key=None, train=True)
            return LOSS(logits, batch["targets"]).mean(), new

        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        changes, opt_state_ = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state_, new, loss

    call, state, on_step, n = (
        jax.jit(step, donate_argnums=(0, 1, 2)),
        (params, opt_state, extra),
        session(params),
        0,
    )
    while True:
        *state, loss = call(*state, batches[n % len(batches)])
        on_step(lambda loss=loss: loss)  # a float of it waits for the step
        n += 1


def public(case: cases.Case) -> None:
    """The run loop, which records every ten steps."""
    assert cases.BYTES <= feeding.MAX_BYTES_ON_DEVICES  # else each batch would come from the host
    model, optimizer, fields = parts_of(case)
    newest: dict = {}

    def compile_(update):
        compiled = jax.jit(update, donate_argnums=0)

        def call(*arguments):
            state, newest["metrics"] = compiled(*arguments)
            return state, newest["metrics"]

        return call

    def measure(params, extra, batch, **options):
        logits, extra = model.apply(params, extra, batch["inputs"], **options)
        losses = LOSS(logits, batch["targets"])
        return means.mean(losses.reshape(losses.shape[0], -1).mean(axis=1), batch.get("mask")), extra

    def objective(params, extra, batch, key):
        loss, extra = measure(params, extra, batch, key=key, train=True)
        return loss, ({}, extra)

    recipe = Recipe(
        data={"train": data.arrays(fields), "test": data.arrays({name: x[:1] for name, x in fields.items()})},
        init=lambda key: updates.init_state(*model.init(key, jnp.asarray(fields["inputs"][:1])), optimizer),
        update=updates.step(updates.gradients(objective), optimizer),
        evaluate=lambda params, extra, batch: {"loss": measure(params, extra, batch)[0]},
        predict=lambda params, extra, batch: {"logits": model.apply(params, extra, batch["inputs"])[0]},
        layout=parallel.jit()._replace(compile=compile_),
    )
    # Ten times a prime: of tiny steps too no call takes more than ten, for ten are traced.
    last, batch = 10_000_030, case.batch
    intervals = {"log_every": 10, "eval_every": last, "checkpoint_every": last}
    config = configs.freeze({"seed": 0, "num_steps": last, "batch_size": batch, **intervals})
    planned = plan(recipe, batch_size=batch)
    examples = {split: source.open() for split, source in recipe.data.items()}
    steps = feeding.choose_form(recipe, planned, config).steps_per_call
    on_step = session(planned.state.params)

    def stopped():
        on_step(lambda: jax.block_until_ready(newest["metrics"])["loss"].compute(), steps)
        return False

    from rich.console import Console

    console = Console(file=open("/dev/null", "w"), force_terminal=True, width=120)  # noqa: SIM115
    show = lambda step: progress.progress(console, start=step, num_steps=last)
    loop.train(recipe, config, planned, examples, Path(tempfile.mkdtemp()), show=show, stopped=stopped)


def matmul(size: int, times: int = 20) -> None:
    """bf16 products of random matrices, one after the other: `loss` is the best TFLOP/s, `sheet` the vendor's."""
    a, b = (jax.random.normal(jax.random.key(n), (size, size), jnp.bfloat16) for n in (0, 1))
    b = b / size**0.5  # so that the products stay of size one
    call = jax.jit(lambda a, b: jax.lax.fori_loop(0, times, lambda _, x: x @ b, a))
    kind = jax.devices()[0].device_kind
    on = costs.device_of_kind(kind)
    notes = {"device": kind, "platform": jax.default_backend(), "size": size, "sheet": on and on.flops / 1e12}
    on_step = protocol.session(parameters=0, dtype="bfloat16", imports=imports, packages=("jax",), notes=notes)
    jax.block_until_ready(call(a, b))
    rates = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(call(a, b))
        rates.append(2 * size**3 * times / (time.perf_counter() - start) / 1e12)
    on_step(lambda: max(rates))


def main() -> None:
    name, variant, size = sys.argv[1:]
    if variant == "matmul":
        matmul(256 if size == "tiny" or ON_CPU else 8192)
    else:
        {"bare": bare, "loop": public}[variant](cases.of(name, size))


main()
