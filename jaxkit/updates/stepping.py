"""From summed gradients to an update: divide once, apply the optimizer once."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from jaxkit import checks, contracts, random
from jaxkit.errors import UsageError
from jaxkit.means import Mean
from jaxkit.types import Gradients, Metrics, Params, State, Update
from jaxkit.updates.summing import sums


def step(gradients: Gradients, optimizer: optax.GradientTransformation) -> Update:
    """One update: divide the summed gradients once, apply the optimizer once.

    An optimizer that takes more arguments is given the mean loss of the batch as `value`. A batch in which no
    example counts makes the parameters nan; `guarded_step` skips it.

    Returns:
        (state, batch, key) -> (state, metrics); `state.step` is folded into the key.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> optimizer = optax.sgd(0.1)
        >>> from jaxkit.updates import gradients
        >>> update = step(gradients(objective), optimizer)
        >>> state = init_state(jnp.array(3.0), {}, optimizer)
        >>> state, metrics = update(state, {"x": jnp.array([1.0, 5.0])}, jax.random.key(0))
        >>> round(float(state.params), 3), int(state.step)
        (2.7, 1)
    """
    contracts.optimizer(optimizer)

    def update(state: State, batch, key):
        summed, metrics, extra = sums(gradients(state.params, state.extra, batch, random.at(key, state.step)))
        return _apply(optimizer, state, _named(summed.compute()), extra, metrics), metrics

    return update


def guarded_step(gradients: Gradients, optimizer: optax.GradientTransformation) -> Update:
    """A `step` that skips, and counts, what is not finite: the gradients, their squares, a metric, `extra`.

    A skipped step moves `state.step` on and changes nothing else; its metrics count nothing. The metric
    "skipped" is the share of steps that were skipped. What the optimizer makes of finite gradients is not judged.

    Example:
        >>> def objective(params, extra, batch, key):
        ...     return Mean(jnp.sum(params * batch["x"]), batch["x"].size), ({}, extra)
        >>> optimizer = optax.sgd(0.1)
        >>> from jaxkit.updates import gradients
        >>> update = guarded_step(gradients(objective), optimizer)
        >>> state = init_state(jnp.array(3.0), {}, optimizer)
        >>> state, metrics = update(state, {"x": jnp.array([1.0, jnp.inf])}, jax.random.key(0))
        >>> float(state.params), int(state.step), float(metrics["skipped"].compute())
        (3.0, 1, 1.0)
    """
    contracts.optimizer(optimizer)

    def update(state: State, batch, key):
        summed, metrics, extra = sums(gradients(state.params, state.extra, batch, random.at(key, state.step)))
        mean = _named(summed.compute())
        # Judged before the optimizer, so that choosing costs no pass over its state of its own. Where the squares
        # are finite, so are the moments that adaptive optimizers keep.
        good = jnp.isfinite(optax.tree.norm(mean, squared=True)) & _finite((metrics, extra))
        new = _apply(optimizer, state, mean, extra, metrics)
        kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state)
        metrics = jax.tree.map(lambda x: jnp.where(good, x, jnp.zeros_like(x)), metrics)
        contracts.unmeasured("skipped", metrics)
        skipped = Mean(1.0 - good.astype(jnp.float32), jnp.float32(1))
        return kept._replace(step=new.step), {**metrics, "skipped": skipped}

    return update


def _named(gradients: Params) -> Params:
    """The same numbers; a replay of the step finds them in the program by these names."""
    named = lambda path, x: checkpoint_name(x, f"gradient {checks.path_of(path)}")
    return jax.tree_util.tree_map_with_path(named, gradients)


def _apply(
    optimizer: optax.GradientTransformation, state: State, mean: Params, extra: Any, metrics: Metrics
) -> State:
    # Some of optax want the loss as well: polyak_sgd, contrib.reduce_on_plateau.
    update = optax.with_extra_args_support(optimizer).update
    takes = inspect.signature(update).parameters.values()
    wanted = any(parameter.name == "value" or parameter.kind is parameter.VAR_KEYWORD for parameter in takes)
    more = {"value": metrics["loss"].compute()} if wanted and "loss" in metrics else {}
    try:
        updates, opt_state = update(mean, state.opt_state, state.params, **more)
    except TypeError as error:
        if "value_fn" not in str(error):
            raise
        raise UsageError(
            "optimizer: asks for the loss of other parameters (value_fn), to search along a line; wanted one that"
            " takes gradients alone"
        ) from error
    return State(state.step + 1, optax.apply_updates(state.params, updates), opt_state, extra)


def _finite(tree: Any) -> jax.Array:
    inexact = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in inexact])) if inexact else jnp.array(True)


def init_state(params: Params, extra: Any, optimizer: optax.GradientTransformation) -> State:
    """The state before the first update.

    Raises:
        TypeError: the optimizer is none, such as optax.adam without its call.

    Example:
        >>> int(init_state({"w": jnp.ones(3)}, {}, optax.adam(1e-3)).step)
        0
    """
    contracts.optimizer(optimizer)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), extra)
