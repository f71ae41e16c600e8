"""Configs: trees of calls as plain, typed data; read, frozen, written, compared and built here.

A dict with the key "call" names an importable function; its other keys are the keyword arguments. Nothing
in this package imports jax: the functions that a config names bring it.
"""

from jaxkit.configs.building import ALLOWED, build
from jaxkit.configs.calls import check_calls
from jaxkit.configs.fields import check_fields
from jaxkit.configs.frozen import Frozen, fingerprint, freeze, from_json, thaw, to_json
from jaxkit.configs.paths import MISSING, Difference, check_paths, differences, differing, override, replace
from jaxkit.configs.reading import read, split_overrides, variants

__all__ = [
    "ALLOWED",
    "MISSING",
    "Difference",
    "Frozen",
    "build",
    "check_calls",
    "check_fields",
    "check_paths",
    "differences",
    "differing",
    "fingerprint",
    "freeze",
    "from_json",
    "override",
    "read",
    "replace",
    "split_overrides",
    "thaw",
    "to_json",
    "variants",
]
