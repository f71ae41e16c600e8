"""What programs will run on, asked without starting it."""

import functools
import importlib.metadata
import importlib.util
import math
import os

import jax
from jax.sharding import AxisType

from jaxkit.errors import UsageError

# Of a mesh (`parallel.mesh`): a batch is split over both; of the parameters, "fsdp" holds a part each and gathers
# it where it is used.
BATCH_AXES = ("data", "fsdp")


def platform() -> str:
    """What `jax.default_backend()` says; where that can only be "cpu", jax's client is not made for the question.

    Example:
        >>> platform() == jax.default_backend()
        True
    """
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    only_cpu = asked == "cpu" if asked else not _accelerators()
    return "cpu" if only_cpu else jax.default_backend()


def parts_of_a_batch() -> int:
    """Over how many devices the mesh that is traced for splits a batch; 1 where there is none.

    Example:
        >>> parts_of_a_batch()
        1
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Within a shard_map each device has its own part already.
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        return 1
    return math.prod(size for name, size in mesh.shape.items() if name in BATCH_AXES)


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
