"""Models, one file per family. Each public function returns a `Model`: two pure functions.

`mlp`, `cnn` and `transformer` are plain JAX; `resnet` and `from_linen` need Flax, which is imported
when one of them is first used. No file has the name of its function: importing it would hide the function.
"""

import importlib

_FAMILIES = {
    "cnn": "convolutional",
    "from_linen": "linen",
    "mlp": "feedforward",
    "precision": "policy",
    "resnet": "residual",
    "standardized": "inputs",
    "transformer": "decoder",
}

__all__ = [*_FAMILIES]


def __getattr__(name: str):
    if name in _FAMILIES:
        return getattr(importlib.import_module(f"jaxkit.models.{_FAMILIES[name]}"), name)
    raise AttributeError(f"module 'jaxkit.models' has no attribute {name!r}; it has: {', '.join(_FAMILIES)}")


def __dir__() -> list[str]:
    return list(_FAMILIES)
