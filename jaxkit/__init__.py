"""jaxkit: a functional research library for JAX and Flax.

Importing it is quick: a submodule (and jax with it) is loaded when it is first used.
"""

import importlib

__version__ = "0.1.0"

_SUBMODULES = (
    "checks",
    "configs",
    "costs",
    "data",
    "errors",
    "losses",
    "means",
    "metrics",
    "models",
    "objectives",
    "parallel",
    "random",
    "recipe",
    "runs",
    "sampling",
    "types",
    "updates",
    "writers",
)


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxkit.{name}")
    raise AttributeError(f"module 'jaxkit' has no attribute {name!r}; it has: {', '.join(_SUBMODULES)}")


def __dir__() -> list[str]:
    return [*_SUBMODULES, "__version__"]
