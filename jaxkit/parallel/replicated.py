"""Layouts that keep the state whole on each device: `jit` on one, `pmap` on several."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxkit import checks, random
from jaxkit.errors import UsageError
from jaxkit.means import portion, share
from jaxkit.parallel.owning import check_unused, own
from jaxkit.types import Evaluate, Gradients, Indexed, Layout

AXIS = "devices"


def jit(*, compiler_options: Mapping[str, Any] | None = None) -> Layout:
    """Everything on one device.

    `compiler_options` are XLA's, for the update alone: {"xla_...": value}.

    Raises:
        UsageError: by `check`: XLA has no such option, or it takes no such value.

    Example:
        >>> jit().num_devices
        1
    """
    options = dict(compiler_options or {})

    def compiled(update):
        return _Program(update, options) if options else jax.jit(update, donate_argnums=0)

    return Layout(
        put_state=own,
        # A jit call takes numpy arrays faster than a device_put before it does.
        put_batch=lambda batch, axis=0: batch,
        across=lambda gradients: gradients,
        compile=compiled,
        compile_evaluate=jax.jit,
        num_devices=1,
        check=lambda: _check_options(options),
    )


class _Program:
    """A jit call with options of the compiler; within another program it is a part of that, without them."""

    def __init__(self, update: Callable, options: dict[str, Any]) -> None:
        self._alone = jax.jit(update, donate_argnums=0, compiler_options=options)
        self._within = jax.jit(update)
        self.lower = self._alone.lower

    def __call__(self, state: Any, batch: Any, key: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((state, batch, key)))
        return (self._within if traced else self._alone)(state, batch, key)


def _check_options(options: dict[str, Any]) -> None:
    # XLA knows its options only when it compiles, and so that the devices have started.
    if not options:
        return
    try:
        jax.jit(operator.neg, compiler_options=options).lower(1.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError, TypeError) as error:
        raise UsageError(f"compiler_options: came {options}: {str(error).splitlines()[0]}") from error


def pmap(*, num_devices: int | None = None) -> Layout:
    """The batch split over local devices, the state whole on each, gradients summed with `psum`.

    `num_devices` None takes all there are. Each device draws with a key of its own; what changes
    without a gradient (`extra`) is averaged over the devices.

    Raises:
        UsageError: more devices are asked for than there are.
        ValueError: when called: a batch that does not divide.

    Example:
        >>> pmap(num_devices=1).num_devices
        1
    """
    chosen = local_devices(num_devices)
    return over_devices(
        chosen,
        divisor=len(chosen),
        across=_sum_gradients,
        across_metrics=lambda evaluate: lambda *arguments: jax.lax.psum(evaluate(*arguments), AXIS),
        sums_by=("psum",) if len(chosen) > 1 else (),
    )


def over_devices(
    devices: list[Any],
    *,
    divisor: int,
    across: Callable[[Gradients], Gradients],
    across_metrics: Callable[[Evaluate], Evaluate],
    sums_by: tuple[str, ...],
) -> Layout:
    """The layout of a `pmap` over these devices, with its ways to sum gradients and metrics over them.

    Example:
        >>> same = lambda function: function
        >>> layout = over_devices(jax.devices()[:1], divisor=8, across=same, across_metrics=same, sums_by=())
        >>> layout.divisor
        8
    """
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def put_batch(batch: Any, axis: int = 0):
        if isinstance(batch, Indexed):
            return Indexed(batch.arrays, put_batch(batch.indices, axis))
        check_divides(batch, divisor, axis)
        return jax.device_put(jax.tree.map(lambda x: _split(x, len(devices), axis), batch), split)

    def mapped(function, batch_argument: int, donate: tuple[int, ...] = ()):
        programs: dict[Any, Any] = {}

        def compiled(*arguments):
            if donate:
                check_unused(arguments[0])
            in_axes = tuple(_axes(argument, n == batch_argument) for n, argument in enumerate(arguments))
            if repr(in_axes) not in programs:
                programs[repr(in_axes)] = jax.pmap(
                    function, AXIS, in_axes=in_axes, out_axes=None, devices=devices, donate_argnums=donate
                )
            return programs[repr(in_axes)](*arguments)

        return compiled

    return Layout(
        put_state=lambda state: jax.device_put(own(state), everywhere),
        put_batch=put_batch,
        across=across,
        compile=lambda update: mapped(update, 1, donate=(0,)),
        compile_evaluate=lambda evaluate: mapped(across_metrics(evaluate), 2),
        num_devices=len(devices),
        divisor=divisor,
        sums_by=sums_by,
        shardings=lambda tree: jax.tree.map(lambda _: everywhere, tree),
    )


def local_devices(number: int | None) -> list[Any]:
    """The first `number` of this process's devices; None: all.

    Raises:
        UsageError: there are not as many.

    Example:
        >>> len(local_devices(1))
        1
    """
    devices = jax.local_devices()
    if number is None:
        return devices
    checks.sizes(num_devices=number)
    if number > len(devices):
        raise UsageError(f"num_devices: came {number}, but {have(devices)}")
    return devices[:number]


def have(devices: list[Any]) -> str:
    """How many devices there are, in words, and how to pretend that there are more.

    Example:
        >>> have(jax.devices()[:1])[:25]
        'there is 1 cpu device; on'
    """
    count = f"is 1 {devices[0].platform} device" if len(devices) == 1 else ""
    return (
        f"there {count or f'are {len(devices)} {devices[0].platform} devices'};"
        " on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of them"
    )


def check_divides(batch: Any, divisor: int, axis: int) -> None:
    """Checks that a batch's examples can be dealt out evenly.

    Raises:
        ValueError: they cannot.

    Example:
        >>> check_divides({"x": np.zeros((8, 3))}, 4, 0)
    """
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[axis] % divisor:
            raise ValueError(
                f"batch: {leaf.shape[axis]} examples do not divide over the {divisor} parts of this layout;"
                f" use a batch size that is a multiple of {divisor}"
            )


def _split(x, num_devices: int, axis: int):
    x = x.reshape(*x.shape[:axis], num_devices, x.shape[axis] // num_devices, *x.shape[axis + 1 :])
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
        grads, metrics, after = gradients(params, extra, batch, key)
        devices = jax.lax.axis_size(AXIS)
        grads, metrics, total = jax.lax.psum((grads, metrics, portion(after, devices)), AXIS)
        # Flags are counted.
        same = lambda new, old: new.astype(old.dtype)
        return grads, metrics, jax.tree.map(same, share(total, devices), after)

    return summed
