"""The layout on a named mesh: one `jit`, parameters and batches split as rules say."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxkit import checks
from jaxkit.backends import BATCH_AXES
from jaxkit.errors import UsageError
from jaxkit.parallel.activations import Seen, check_used, checked, usual, within
from jaxkit.parallel.owning import check_unused, copied
from jaxkit.parallel.replicated import check_divides, have
from jaxkit.parallel.rules import by_size, check_spec
from jaxkit.types import Activations, Indexed, Layout, Rules, State


def mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    rules: Rules | None = None,
    activations: Activations | None = None,
) -> Layout:
    """One `jit` on a mesh of data x fsdp x tensor devices; XLA puts in the sums and gathers.

    The batch is split over "data" and "fsdp"; the parameters, and what the optimizer keeps of them, as the rules
    say; activations, where a model names their axes (`constrain`), as their own rule says. Random draws are those
    of one device: they are made for the whole batch.

    Args:
        data: devices that each have the parameters whole (of what "fsdp" and "tensor" leave).
        fsdp: devices that each keep a part of the parameters and of the optimizer's state
            (Rajbhandari et al. 2020, "ZeRO").
        tensor: devices that each do a part of every matmul (Shoeybi et al. 2019, "Megatron-LM").
        rules: {path: abstract parameter} -> {path: PartitionSpec}; None: `by_size`.
        activations: (its axes in words, abstract activation) -> PartitionSpec, or None where the compiler is to
            choose; such as `by_axis`. None: batches over "data" and "fsdp"; heads, the hidden features of an MLP
            and the vocabulary over "tensor"; the compiler's choice for images, and where a size does not divide.

    Raises:
        UsageError: more devices than there are; when a state is put: a rule that does not fit its parameter; when
            an update is traced: a rule that does not fit an activation.
        ValueError: an axis below 1; when called: a batch that does not divide.

    Example:
        >>> mesh(data=1).num_devices
        1
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    checks.sizes(**sizes)
    number, devices = math.prod(sizes.values()), jax.devices()
    if number > len(devices):
        wanted = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        raise UsageError(f"mesh: {wanted} takes {number} devices, but {have(devices)}")
    made = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3, devices=devices[:number]
    )
    rules = rules or by_size(fsdp=fsdp, tensor=tensor)
    activations, seen = activations or usual(sizes), Seen()
    split_activation = checked(activations, made, seen)
    everywhere = NamedSharding(made, PartitionSpec())

    def shardings(tree: Any) -> Any:
        """Of a State by the rules; of anything else, whole on each device."""
        if not isinstance(tree, State):
            return jax.tree.map(lambda _: everywhere, tree)
        specs = _specs(tree, rules, sizes)
        return jax.tree.map(lambda spec: NamedSharding(made, spec), specs)

    def split(axis: int) -> NamedSharding:
        return NamedSharding(made, PartitionSpec(*[None] * axis, BATCH_AXES))

    def put_batch(batch: Any, axis: int = 0):
        if isinstance(batch, Indexed):
            return Indexed(batch.arrays, put_batch(batch.indices, axis))
        check_divides(batch, data * fsdp, axis)
        return jax.tree.map(lambda x: _put(x, split(axis)), batch)

    def put_state(tree: Any) -> Any:
        return jax.tree.map(_put, tree, shardings(tree))

    def compile_(update):
        def placed(state, batch, key):
            with within(made, split_activation):
                state, metrics = update(state, batch, key)
            check_used(activations, seen)
            constrained = jax.lax.with_sharding_constraint((state, metrics), (shardings(state), everywhere))
            return constrained

        program = jax.jit(placed, donate_argnums=0)

        def compiled(state, batch, key):
            check_unused(state)
            return program(state, batch, key)

        compiled.lower = program.lower  # type: ignore[attr-defined]
        return compiled

    def compile_evaluate(evaluate):
        def placed(params, extra, batch):
            with within(made, split_activation):
                metrics = evaluate(params, extra, batch)
            return jax.lax.with_sharding_constraint(metrics, everywhere)

        return jax.jit(placed)

    return Layout(
        put_state=put_state,
        put_batch=put_batch,
        across=lambda gradients: gradients,
        compile=compile_,
        compile_evaluate=compile_evaluate,
        num_devices=number,
        divisor=data * fsdp,
        shardings=shardings,
        split=split,
        activations=lambda: list(seen),
    )


def _put(x: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1 or isinstance(x, jax.core.Tracer):
        return jax.device_put(copied(x), sharding)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    # Every process has the same global array, and gives its own devices their part of it.
    return jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__)


def _specs(state: State, rules: Rules, sizes: dict[str, int]) -> Any:
    """The PartitionSpec of each leaf: of a parameter by the rules, of what has its path and shape likewise."""
    params = {checks.path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
    abstract = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    specs = rules(abstract)
    for path, leaf in abstract.items():
        check_spec(f"rules: {path}", leaf, specs.get(path), sizes)

    def of(path, leaf) -> PartitionSpec:
        names = checks.path_of(path).split(".")
        # The optimizer keeps trees like the parameters: their leaves end in a parameter's path, the empty one too.
        for start in range(len(names) + 1):
            name = ".".join(names[start:])
            if name in abstract and abstract[name].shape == leaf.shape:
                # Whatever is asked for, XLA gives an array of nothing back whole.
                return PartitionSpec() if 0 in leaf.shape else specs[name]
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(of, state)
