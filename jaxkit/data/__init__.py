"""Data: sources (random access), streams (batch n is a function of the seed and n), augmentations.

Importing it is quick: a function's module is loaded when the function is first used, and
tensorflow_datasets, grain and scikit-learn only inside the functions that need them.

    source = data.digits(split="train")
    stream = data.shuffled(source.open(), batch_size=128, seed=0)
    batch = stream[1000]
"""

import importlib
from typing import Any

_MODULE_OF = {
    "arrays": "sources",
    "fields": "schema",
    "pinned": "pinning",
    "tfds": "prepared",
    "digits": "prepared",
    "stdlib": "corpora",
    "text": "tokens",
    "byte_level": "tokenizers",
    "bpe": "tokenizers",
    "synthetic_tokens": "tokens",
    "shuffled": "streams",
    "padded": "streams",
    "prefetch": "streams",
    "shift": "augment",
    "affine": "augment",
    "flip": "augment",
    "crop": "augment",
    "cutout": "augment",
    "chain": "augment",
}
_SUBMODULES = (
    "augment",
    "cache",
    "corpora",
    "locations",
    "manifests",
    "opening",
    "pinning",
    "prepared",
    "prompts",
    "schema",
    "sources",
    "streams",
    "tokenizers",
    "tokens",
)

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"jaxkit.data.{_MODULE_OF[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxkit.data.{name}")
    raise AttributeError(f"module 'jaxkit.data' has no attribute {name!r}; it has: {', '.join(_MODULE_OF)}")


def __dir__() -> list[str]:
    return [*_MODULE_OF, *_SUBMODULES]
