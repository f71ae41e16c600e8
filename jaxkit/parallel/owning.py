"""Whose the memory of a state is: an update takes over that of what it is given (donation)."""

from typing import Any

import jax
import numpy as np


def own(state: Any) -> Any:
    """A copy on the device, which an update may take over.

    Example:
        >>> own(jax.numpy.ones(2)).tolist()
        [1.0, 1.0]
    """
    return jax.device_put(jax.tree.map(copied, state))


def copied(x: Any) -> Any:
    """The same numbers in memory that nobody else has; an array that is traced has none.

    What `device_put` returns can share its source's memory, and be deleted with it, also where it is told not to:
    on a CPU that of a numpy array, and that of an array on one device, where it is the first of several.

    Example:
        >>> array = np.ones(2)
        >>> copied(array) is array
        False
    """
    return x if isinstance(x, jax.core.Tracer) or not isinstance(x, np.ndarray | jax.Array) else x.copy()


def check_unused(state: Any) -> None:
    """Checks that a state was not given to an update before: on several devices jax ends the process over that.

    Raises:
        ValueError: it was.

    Example:
        >>> check_unused(jax.numpy.ones(2))
    """
    # All of it was given, so one leaf tells.
    first = next(iter(jax.tree.leaves(state)), None)
    if isinstance(first, jax.Array) and not isinstance(first, jax.core.Tracer) and first.is_deleted():
        raise ValueError(
            "state: was given to an update already, which took its memory; go on with the state that it returned"
        )
