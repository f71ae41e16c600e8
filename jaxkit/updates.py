"""From an objective to an update, in small steps; leave them at any line and go on by hand.

gradients = updates.gradients(objective)                    # sums
gradients = updates.accumulate(gradients, microbatches=4)   # still sums
gradients = layout.across(gradients)                        # still sums, now over devices
update    = updates.step(gradients, optimizer)              # divide once, apply once
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkit import checks, random
from jaxkit.means import Mean, add
from jaxkit.types import Gradients, Indexed, Objective, Params, State, Update


def gradients(objective: Objective) -> Gradients:
    """The gradients of an objective's total, as a sum with its count.

    Returns:
        (params, extra, batch, key) -> (Mean of params, {"loss": Mean, name: additive}, extra).

    Raises:
        TypeError: when traced: the objective does not return (Mean, (metrics, extra)).

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> summed, metrics, extra = gradients(objective)(
        ...     jnp.array(3.0), {}, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> float(summed.total), float(summed.compute())
        (6.0, 3.0)
    """

    def total(params, extra, batch, key):
        returned = objective(params, extra, batch, key)
        try:
            loss, (metrics, new_extra) = returned
            return loss.total, (jax.tree.map(jnp.asarray, (loss, metrics)), new_extra)
        except (TypeError, ValueError, AttributeError):
            raise TypeError(
                f"objective: came {type(returned).__name__}, wanted (Mean, ({{name: additive}}, extra))"
            ) from None

    def summed(params, extra, batch, key):
        (_, ((loss, metrics), extra)), grads = jax.value_and_grad(total, has_aux=True)(params, extra, batch, key)
        return Mean(grads, loss.count), {"loss": loss, **metrics}, extra

    return summed


def accumulate(gradients: Gradients, *, microbatches: int, unroll: bool | None = None) -> Gradients:
    """Sums the gradients of `microbatches` equal parts of the batch, one after the other, to save memory.

    `extra` passes through the parts in order; each part has a key of its own. With `unroll` None the
    parts are a loop in the program, except where a loop is slow: on a CPU with convolutions in it.

    Raises:
        ValueError: `microbatches` is below 1; when traced: the batch does not divide.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> halves = accumulate(gradients(objective), microbatches=2)
        >>> summed, _, _ = halves(jnp.array(3.0), {}, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> float(summed.compute())
        3.0
    """
    checks.at_least(1, microbatches=microbatches)
    if microbatches == 1:
        return gradients
    gradients = jax.jit(gradients)  # used for its shapes and in the loop, and traced once

    def split(array):
        if array.shape[0] % microbatches:
            raise ValueError(
                f"microbatches: {microbatches} do not divide the batch of {array.shape[0]}"
                " that each device is given; change one of them"
            )
        return array.reshape(microbatches, array.shape[0] // microbatches, *array.shape[1:])

    def summed(params, extra, batch, key):
        def part(carry, xs):
            sums, extra = carry
            number, batch = xs
            *new, extra = gradients(params, extra, batch, random.at(key, number))
            return (add(sums, tuple(new)), extra), None

        xs = (jnp.arange(microbatches), jax.tree.map(split, batch))
        first = jax.tree.map(lambda x: x[0], xs)
        *shapes, _ = jax.eval_shape(gradients, params, extra, first[1], key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tuple(shapes))
        ((grads, metrics), extra), _ = loop(part, (zeros, extra), xs, unroll=unroll)
        return grads, metrics, extra

    return summed


def step(gradients: Gradients, optimizer: optax.GradientTransformation) -> Update:
    """One update: divide the summed gradients once, apply the optimizer once.

    A batch in which no example counts makes the parameters nan; `guarded_step` skips it.

    Returns:
        (state, batch, key) -> (state, metrics); `state.step` is folded into the key.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> optimizer = optax.sgd(0.1)
        >>> update = step(gradients(objective), optimizer)
        >>> state = init_state(jnp.array(3.0), {}, optimizer)
        >>> state, metrics = update(state, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> round(float(state.params), 3), int(state.step)
        (2.7, 1)
    """

    def update(state: State, batch, key):
        summed, metrics, extra = gradients(state.params, state.extra, batch, random.at(key, state.step))
        return _apply(optimizer, state, summed.compute(), extra), metrics

    return update


def guarded_step(gradients: Gradients, optimizer: optax.GradientTransformation) -> Update:
    """A `step` that skips, and counts, what is not finite: the gradients, their squares, a metric, `extra`.

    A skipped step moves `state.step` on and changes nothing else; its metrics count nothing. The metric
    "skipped" is the share of steps that were skipped. What the optimizer makes of finite gradients is not judged.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> optimizer = optax.sgd(0.1)
        >>> update = guarded_step(gradients(objective), optimizer)
        >>> state = init_state(jnp.array(3.0), {}, optimizer)
        >>> state, metrics = update(state, {"x": jnp.array([1.0, jnp.inf])}, jax.random.key(0))
        >>> float(state.params), int(state.step), float(metrics["skipped"].compute())
        (3.0, 1, 1.0)
    """

    def update(state: State, batch, key):
        summed, metrics, extra = gradients(state.params, state.extra, batch, random.at(key, state.step))
        mean = summed.compute()
        # Judged before the optimizer, so that choosing costs no pass over its state of its own. Where the squares
        # are finite, so are the moments that adaptive optimizers keep.
        good = jnp.isfinite(optax.tree.norm(mean, squared=True)) & _finite((metrics, extra))
        new = _apply(optimizer, state, mean, extra)
        kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state)
        metrics = jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), metrics)
        skipped = Mean(1.0 - good.astype(jnp.float32), jnp.float32(1))
        return kept._replace(step=new.step), {**metrics, "skipped": skipped}

    return update


def _apply(optimizer: optax.GradientTransformation, state: State, mean: Params, extra: Any) -> State:
    updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state, extra)


def _finite(tree: Any) -> jax.Array:
    inexact = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in inexact]))


def init_state(params: Params, extra: Any, optimizer: optax.GradientTransformation) -> State:
    """The state before the first update.

    Example:
        >>> int(init_state({"w": jnp.ones(3)}, {}, optax.adam(1e-3)).step)
        0
    """
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), extra)


class EmaState(NamedTuple):
    """A weighted sum of the parameters so far, and the sum of the weights.

    weight: f32[], 1 - decay^steps
    total:  a pytree like params
    """

    weight: jax.Array
    total: Params


def ema(*, decay: float) -> optax.GradientTransformation:
    """An exponential moving average of the parameters, kept in the optimizer's state; put it last in a chain.

    The updates pass through unchanged. `averaged(state)` reads the average, free of the zeros it
    started from (as in Adam: Kingma & Ba 2015, section 3). Statistics of batch normalisation are not averaged
    with it: they are those of the newest parameters, so prefer group normalisation beside an average.

    Raises:
        ValueError: decay is not in [0, 1).

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), ema(decay=0.9))
    """
    checks.at_least(0, decay=decay)
    if decay >= 1:
        raise ValueError(f"decay: came {decay}, wanted a number in [0, 1)")

    def init(params):
        # In float32 whatever the parameters are: in bfloat16 a small step to a sum of many is no step.
        return EmaState(jnp.zeros(()), jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("ema: came no params; call optimizer.update(gradients, opt_state, params)")
        new = EmaState(jnp.ones(()), optax.tree.cast(optax.apply_updates(params, updates), jnp.float32))
        return updates, jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state, new)

    return optax.GradientTransformation(init, update)


def averaged(state: State) -> Params:
    """The averaged parameters where the optimizer keeps an `ema`, else the parameters themselves.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), ema(decay=0.9))
        >>> float(averaged(init_state(jnp.array(3.0), {}, optimizer)))
        3.0
    """
    is_ema = lambda node: isinstance(node, EmaState)
    found = [node for node in jax.tree.leaves(state.opt_state, is_leaf=is_ema) if is_ema(node)]
    if not found:
        return state.params
    weight, total = found[0]
    # Before the first update there is nothing to average yet.
    started = weight > 0
    divisor = jnp.where(started, weight, 1)
    return jax.tree.map(lambda t, p: jnp.where(started, t / divisor, p).astype(p.dtype), total, state.params)


def indexed(update: Update) -> Update:
    """An update that takes its batch by reference (`Indexed`) from data that lives on the devices.

    Example:
        >>> update = indexed(lambda state, batch, key: (state, batch["x"]))
        >>> update(0, Indexed({"x": jnp.arange(5) * 10}, jnp.array([3, 1])), None)[1].tolist()
        [30, 10]
    """

    def gathered(state, batch: Indexed, key):
        # The stream checked the indices; telling XLA so spares it the clamping.
        take = lambda array: array.at[batch.indices].get(mode="promise_in_bounds")
        return update(state, jax.tree.map(take, batch.arrays), key)

    return gathered


def fuse(update: Update, *, unroll: bool = False) -> Update:
    """Many steps in one call: the batch has a leading axis of steps, the metrics are their sum.

    A batch field is [steps, batch, ...]; of an `Indexed` batch only the index has the leading axis.
    Saves what a call costs; only worth it where a step is short.

    Example:
        >>> update = fuse(lambda total, batch, key: (total + batch["x"], {"x": Mean(batch["x"], 1.0)}))
        >>> total, metrics = update(jnp.array(0.0), {"x": jnp.array([1.0, 2.0, 6.0])}, None)
        >>> float(total), float(metrics["x"].compute())
        (9.0, 3.0)
    """

    update = jax.jit(update)  # used for its shapes and in the loop, and traced once

    def fused(state, batches, key):
        def part(carry, batch):
            state, sums = carry
            if isinstance(batches, Indexed):
                batch = Indexed(batches.arrays, batch)
            state, metrics = update(state, batch, key)
            return (state, add(sums, metrics)), None

        stacked = batches.indices if isinstance(batches, Indexed) else batches
        first = jax.tree.map(lambda x: x[0], stacked)
        first = Indexed(batches.arrays, first) if isinstance(batches, Indexed) else first
        _, shapes = jax.eval_shape(update, state, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry, _ = loop(part, (state, zeros), stacked, unroll=unroll)
        return carry

    return fused


def loop(body, carry, xs, *, unroll: bool | None = None):
    """`jax.lax.scan`, unrolled where a loop is slow on this backend.

    On a CPU a convolution inside a loop runs some thirty times slower than outside of one.

    Example:
        >>> float(loop(lambda total, x: (total + x, None), 0.0, jnp.arange(4.0))[0])
        6.0
    """
    if unroll is None:
        first = jax.tree.map(lambda x: x[0], xs)
        unroll = slow_in_a_loop(jax.make_jaxpr(body)(carry, first))
    return jax.lax.scan(body, carry, xs, unroll=bool(unroll) or 1)


def slow_in_a_loop(jaxpr) -> bool:
    """Whether a (closed) jaxpr is one that this backend runs slowly inside a loop: convolutions on a CPU.

    Example:
        >>> slow_in_a_loop(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))))
        False
    """
    return jax.default_backend() == "cpu" and mentions(jaxpr, ("conv_general_dilated",))


def mentions(jaxpr, primitives: tuple[str, ...]) -> bool:
    """Whether a primitive whose name begins with one of these is anywhere in a (closed) jaxpr.

    Example:
        >>> mentions(jax.make_jaxpr(jax.jit(jnp.sin))(1.0), ("sin",))
        True
    """
    return any(
        equation.primitive.name.startswith(primitives)
        or any(mentions(inner, primitives) for inner in _inner(equation))
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _inner(equation):
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]
