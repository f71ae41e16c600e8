"""Whether a value from a config fits a parameter's annotation, as far as a plain annotation says."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxkit.configs.frozen import Frozen

_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, Mapping, collections.abc.MutableMapping)


def fits(value: Any, annotation: Any) -> bool:
    """False where the annotation rules the value out; True also where it says nothing we can judge by.

    An int serves for a float, a bool never for an int; a tuple serves for a list. A dict with "call" or
    "function" is not judged: what it will be is not known yet.

    Example:
        >>> fits(1, float), fits(True, int), fits((16, "a"), tuple[int, ...]), fits(None, int | None)
        (True, False, False, True)
    """
    if isinstance(value, Frozen) and ("call" in value or "function" in value):
        return True
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if annotation in (None, type(None)):
        return value is None
    if annotation in (bool, int, str):
        return type(value) is annotation
    if annotation in (float, complex):
        return type(value) in (int, float)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in _MAPPINGS:
        return isinstance(value, Frozen)
    if origin in _SEQUENCES:
        return type(value) is tuple and _elements_fit(value, origin, inner)
    if origin is collections.abc.Callable:
        return False
    if _is_array(origin):
        return not isinstance(value, str | Frozen)
    return True


def _elements_fit(value: tuple[Any, ...], origin: Any, inner: tuple[Any, ...]) -> bool:
    if not inner:
        return True
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(item, inner[0]) for item in value)


def _is_array(annotation: Any) -> bool:
    # By what it has, because jax is not imported here.
    return isinstance(annotation, type) and hasattr(annotation, "shape") and hasattr(annotation, "dtype")


def described(annotation: Any) -> str:
    """The annotation in the words of a message.

    Example:
        >>> described(int | None), described(tuple[int, ...])
        ('int | None', 'tuple[int, ...]')
    """
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(described, inner)))
    if origin is typing.Annotated:
        return described(inner[0])
    if origin is typing.Literal:
        return " | ".join(map(repr, inner))
    if origin is collections.abc.Callable:
        return "{'function': NAME}"
    if annotation is type(None):
        return "None"
    return "array" if _is_array(origin) else inspect.formatannotation(annotation)
