"""What programs will run on, asked without starting it."""

import functools
import importlib.metadata
import importlib.util
import os

import jax

from jaxkit.errors import UsageError


def platform() -> str:
    """What `jax.default_backend()` says; where that can only be "cpu", jax's client is not made for the question.

    Example:
        >>> platform() == jax.default_backend()
        True
    """
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    only_cpu = asked == "cpu" if asked else not _accelerators()
    return "cpu" if only_cpu else jax.default_backend()


def check() -> None:
    """Checks that jax finds the devices that JAX_PLATFORMS asks for; where it asks for none, it finds the CPU.

    Raises:
        UsageError: it finds none.

    Example:
        >>> check()
    """
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    if not asked or asked == "cpu":
        return
    try:
        jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # of "cuda" without its plugin an assertion, without a word
        said = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise UsageError(
            f"JAX_PLATFORMS: came {asked!r}, but jax finds no such device here{said}; install jax for it, such as"
            " jax[cuda12], or unset JAX_PLATFORMS"
        ) from error


@functools.cache
def _accelerators() -> bool:
    """Whether anything is installed through which jax would find one; not whether there is one."""
    return (
        any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
        or any(name in os.environ for name in ("PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH"))
        or len(importlib.metadata.entry_points(group="jax_plugins")) > 0
    )
