"""Layouts: how one and the same update is spread over devices.

Whatever the layout, `put_batch` takes the same global batch and the numbers are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import checks, random
from jaxkit.types import Evaluate, Gradients, Indexed, Layout

AXIS = "devices"


def jit() -> Layout:
    """Everything on one device.

    Example:
        >>> jit().num_devices
        1
    """
    return Layout(
        put_state=_own,
        # A jit call takes numpy arrays faster than a device_put before it does.
        put_batch=lambda batch, axis=0: batch,
        across=lambda gradients: gradients,
        compile=lambda update: jax.jit(update, donate_argnums=0),
        compile_evaluate=jax.jit,
        num_devices=1,
    )


def pmap(*, num_devices: int | None = None) -> Layout:
    """The batch split over local devices, the state whole on each, gradients summed with `psum`.

    `num_devices` None takes all there are. Each device draws with a key of its own; what changes
    without a gradient (`extra`) is averaged over the devices.

    Raises:
        ValueError: more devices are asked for than there are; when called: a batch that does not divide.

    Example:
        >>> pmap(num_devices=1).num_devices
        1
    """
    devices = jax.local_devices()
    checks.at_least(1, num_devices=len(devices) if num_devices is None else num_devices)
    if num_devices is not None and num_devices > len(devices):
        raise ValueError(
            f"num_devices: came {num_devices}, but there are {len(devices)} {devices[0].platform} devices;"
            " on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of them"
        )
    devices = devices[:num_devices]
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def put_batch(batch: Any, axis: int = 0):
        if isinstance(batch, Indexed):
            return Indexed(batch.arrays, put_batch(batch.indices, axis))
        return jax.device_put(jax.tree.map(lambda x: _split(x, len(devices), axis), batch), split)

    def mapped(function, batch_argument: int, donate: tuple[int, ...] = ()):
        programs: dict[Any, Any] = {}

        def compiled(*arguments):
            in_axes = tuple(_axes(argument, n == batch_argument) for n, argument in enumerate(arguments))
            if repr(in_axes) not in programs:
                programs[repr(in_axes)] = jax.pmap(
                    function, AXIS, in_axes=in_axes, out_axes=None, devices=devices, donate_argnums=donate
                )
            return programs[repr(in_axes)](*arguments)

        return compiled

    return Layout(
        put_state=lambda state: jax.device_put(_own(state), everywhere),
        put_batch=put_batch,
        across=_sum_gradients,
        compile=lambda update: mapped(update, 1, donate=(0,)),
        compile_evaluate=lambda evaluate: mapped(_sum_metrics(evaluate), 2),
        num_devices=len(devices),
    )


def _own(state: Any) -> Any:
    # Donating what device_put returned can delete its source too: the loop gets a copy of its own.
    return jax.device_put(state, may_alias=False)


def _split(x, num_devices: int, axis: int):
    size = x.shape[axis]
    if size % num_devices:
        raise ValueError(
            f"batch: {size} examples do not divide over {num_devices} devices;"
            f" use a batch size that is a multiple of {num_devices}"
        )
    x = x.reshape(*x.shape[:axis], num_devices, size // num_devices, *x.shape[axis + 1 :])
    return x.swapaxes(0, axis) if axis else x


def _axes(argument: Any, is_batch: bool) -> Any:
    if not jax.tree.leaves(argument):
        return argument  # pmap gives the None of an empty argument to the leaf after it
    if is_batch:
        return Indexed(None, 0) if isinstance(argument, Indexed) else 0  # type: ignore[arg-type]
    return None


def _sum_gradients(gradients: Gradients) -> Gradients:
    def summed(params, extra, batch, key):
        key = random.at(key, jax.lax.axis_index(AXIS))
        grads, metrics, extra = gradients(params, extra, batch, key)
        grads, metrics = jax.lax.psum((grads, metrics), AXIS)
        return grads, metrics, jax.tree.map(_average, extra)

    return summed


def _sum_metrics(evaluate: Evaluate) -> Evaluate:
    return lambda params, extra, batch: jax.lax.psum(evaluate(params, extra, batch), AXIS)


def _average(x):
    # Integers (a counter, say) are the same on every device.
    return jax.lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.inexact) else jax.lax.pmax(x, AXIS)
