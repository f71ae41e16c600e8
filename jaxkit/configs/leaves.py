"""What a config may hold, and how to say what it may not."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from jaxkit.errors import UsageError


def is_mapping(value: Any) -> bool:
    """Whether it is a dict of some kind; ml_collections.ConfigDict is no Mapping, but has `keys`."""
    return isinstance(value, Mapping) or (hasattr(type(value), "keys") and hasattr(type(value), "__getitem__"))


def check_text(text: str, where: str) -> None:
    """Raises a UsageError where the text could not be written to a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where}: came {text!r}, which is not valid Unicode text") from None


def check_key(key: Any, where: str) -> None:
    """Raises a UsageError where a config cannot have this key."""
    # "." and "=" divide a flag, --config.path=value; "$" marks what JSON has no word for.
    if type(key) is not str or not key or key[0] == "$" or "." in key or "=" in key:
        raise UsageError(f"{where}: came the key {key!r}, wanted a str without '.' and '=', not starting with '$'")
    check_text(key, where)


def came(value: Any) -> str:
    """What a value is that a config cannot hold, and what to write instead."""
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    name = getattr(value, "__name__", None)
    if callable(value) and name:
        module = getattr(value, "__module__", None) or ""
        # A private module (jax._src.nn) is not the name to write down, and a config file is none.
        importable = module in sys.modules and "._" not in module and module != "__main__"
        package = module if importable else "PACKAGE"
        kind = "class" if isinstance(value, type) else "function"
        written = name if name.isidentifier() else "NAME"  # a lambda has none
        return f"{kind} {name}; write {{'function': '{package}.{written}'}}, the name it is imported by"
    if hasattr(value, "tolist"):
        return f"{kind}; write its plain value, x.tolist()"
    if isinstance(value, os.PathLike):
        return f"{kind}; write str(path)"
    return f"{kind}; a config holds None, bool, int, float, str, tuples, lists and dicts"
