"""When a run ends itself: a loss that is no number, or that has leapt, and parameters that are not finite."""

import collections
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkit import checks

# What holds where a config has no `stop_on`: after a nan every step is wasted, and every checkpoint too. A leap of
# the loss may be the data's, so what counts as one is for the config to say.
DEFAULT: Mapping[str, Any] = {"nonfinite": True, "spike": None}
# A spike is a loss that is so many times the median of the last recorded ones.
WINDOW = 20


class Diverged(Exception):
    """Why a run ended itself: at which step, and what was seen there."""

    def __init__(self, step: int, what: str):
        super().__init__(f"step {step}: {what}")
        self.step = step


def rules(config: Any) -> Mapping[str, Any]:
    """The rules of a config: its field `stop_on`, which a config of an older run does not have.

    Example:
        >>> rules({"seed": 0})["nonfinite"], rules({"stop_on": {"nonfinite": False}})["nonfinite"]
        (True, False)
    """
    return {**DEFAULT, **config.get("stop_on", {})}


def judge(config: Any, losses: Iterable[Any] = ()) -> Callable[[Any, bool], str | None]:
    """Makes (loss, whether it is recorded) -> what is wrong with it, None: nothing.

    Args:
        config: with the field `stop_on`, or without.
        losses: those that were recorded before, oldest first, of a run that is resumed.

    Example:
        >>> wrong = judge({"stop_on": {"spike": 3.0}}, losses=[1.0] * 20)
        >>> wrong(2.5, True), wrong(3.5, True)
        (None, 'loss is 3.5, 3.5 times the median of the 20 before it')
        >>> wrong("nan", True)
        'loss is nan'
    """
    rule = rules(config)
    last = collections.deque((x for x in losses if isinstance(x, float)), maxlen=WINDOW)

    def wrong(loss: Any, recorded: bool) -> str | None:
        # What JSON has no number for is recorded as a string.
        if isinstance(loss, str):
            return f"loss is {loss}" if rule["nonfinite"] else None
        if loss is None or not recorded or rule["spike"] is None:
            return None
        middle = statistics.median(last) if len(last) == WINDOW else 0.0
        last.append(loss)
        if middle <= 0 or loss <= rule["spike"] * middle:
            return None
        return f"loss is {loss:.4g}, {loss / middle:.3g} times the median of the {WINDOW} before it"

    return wrong


def check(params: Any, step: int, config: Any) -> None:
    """Checks before they are saved that parameters are finite: a checkpoint is something to go on from.

    Raises:
        Diverged: they are not; names the first array.

    Example:
        >>> check({"w": jnp.array([1.0, jnp.inf])}, 7, {})
        Traceback (most recent call last):
        jaxkit.runs.stopping.Diverged: step 7: parameters w are not finite
    """
    if not rules(config)["nonfinite"]:
        return
    leaves = jax.tree_util.tree_leaves_with_path(params)
    finite = jax.device_get(_finite([leaf for _, leaf in leaves]))
    for (path, _), good in zip(leaves, finite):
        if not good:
            raise Diverged(step, f"parameters {checks.path_of(path)} are not finite")


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    """Of each array whether it is finite, in one program and on the devices."""
    return [jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(True) for x in leaves]
