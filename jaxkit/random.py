"""Keys by name and by step. One seed makes one root key; nothing carries a key from step to step.

Whoever needs randomness derives it: `at(named(key, "dropout"), step)`. So a resumed run draws what an
uninterrupted one would have drawn, and adding a consumer changes nobody else's draws.
"""

import zlib

import jax
import jax.numpy as jnp

from jaxkit import checks
from jaxkit.types import Key


def named(key: Key, name: str) -> Key:
    """The key for one purpose: the same name gives the same key on every machine.

    Raises:
        TypeError: not a typed key; a name that is no str.

    Example:
        >>> key = jax.random.key(0)
        >>> bool(named(key, "init") == named(key, "augment"))
        False
    """
    checks.key(key)
    if not isinstance(name, str):
        raise TypeError(f"name: came {checks.describe(name)}, wanted a str; random.at(key, step) is for numbers")
    # CRC-32 because it is stable across processes, which Python's hash() is not.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at(key: Key, step: int | jax.Array) -> Key:
    """The key for one step (or microbatch, or device): a function of the number alone.

    Raises:
        TypeError: not a typed key; a step that is no whole number.

    Example:
        >>> at(jax.random.key(0), 7).shape
        ()
    """
    checks.key(key)
    # jax would cut 1.5 down to 1, and so draw the same for both.
    if not jnp.issubdtype(getattr(step, "dtype", type(step)), jnp.integer):
        raise TypeError(f"step: came {checks.describe(step)}, wanted a whole number; random.named is for names")
    return jax.random.fold_in(key, step)
