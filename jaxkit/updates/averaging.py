"""An exponential moving average of the parameters, kept in the optimizer's state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkit import checks
from jaxkit.types import Params, State


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

    # In 32 bits whatever the parameters are: in bfloat16 a small step to a sum of many is no step.
    wide = lambda p: p.astype(jnp.complex64 if jnp.iscomplexobj(p) else jnp.float32)

    def init(params):
        return EmaState(jnp.zeros(()), jax.tree.map(lambda p: jnp.zeros_like(wide(p)), params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("ema: came no params; call optimizer.update(gradients, opt_state, params)")
        new = EmaState(jnp.ones(()), jax.tree.map(wide, optax.apply_updates(params, updates)))
        return updates, jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state, new)

    return optax.GradientTransformation(init, update)


def averaged(state: State) -> Params:
    """The averaged parameters where the optimizer keeps an `ema`, else the parameters themselves.

    So too for those that optax.masked or optax.multi_transform keep from it.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), ema(decay=0.9))
        >>> from jaxkit.updates import init_state
        >>> float(averaged(init_state(jnp.array(3.0), {}, optimizer)))
        3.0
    """
    is_ema = lambda node: isinstance(node, EmaState)
    params = state.params
    # Each of several may have parameters of its own; of two with the same, the first counts.
    for node in reversed(jax.tree.leaves(state.opt_state, is_leaf=is_ema)):
        if is_ema(node):
            params = _averaged(node, params)
    return params


def _averaged(state: EmaState, params: Params) -> Params:
    # Before the first update there is nothing to average yet.
    started = state.weight > 0
    divisor = jnp.where(started, state.weight, 1)
    masked = lambda node: isinstance(node, optax.MaskedNode)
    of = lambda t, p: p if masked(t) else jnp.where(started, t / divisor, p).astype(p.dtype)
    return jax.tree.map(of, state.total, params, is_leaf=masked)
