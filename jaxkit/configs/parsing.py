"""Text from a command line, read as a value of the type that stands in the config."""

import ast
from typing import Any

from jaxkit.configs.frozen import Frozen
from jaxkit.errors import UsageError

_WANTED = {bool: "true or false", int: "an int", float: "a float"}


def parse(text: str, like: Any, where: str) -> Any:
    """The value that `text` means in the place of `like`.

    A str is taken as it is. A tuple is written "(16, 32)" or "16,32", each element read like those it
    replaces. In the place of None stands any Python literal, or else the text; in the place of a dict, and
    of a number, a dict with "call" or "function" too, so that one flag swaps a number for a schedule.

    Raises:
        UsageError: names the path, what came and what was wanted.

    Example:
        >>> parse("1", 0.5, "config.rate"), parse("16,32", (8,), "config.features")
        (1.0, (16, 32))
    """
    if type(like) is str:
        return text
    if like is None:
        return _literal(text, otherwise=text)
    if isinstance(like, Frozen) or text.lstrip().startswith("{"):
        return _tree(text, like, where)
    if type(like) is tuple:
        return _tuple(text, like, where)
    try:
        return {"true": True, "false": False}[text.lower()] if type(like) is bool else type(like)(text)
    except (ValueError, KeyError):
        raise UsageError(f"{where}: came {text!r}, wanted {_WANTED[type(like)]}") from None


def _literal(text: str, otherwise: Any) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return otherwise


def _tree(text: str, like: Any, where: str) -> Any:
    value = _literal(text, otherwise=text)
    is_call = isinstance(value, dict) and ("call" in value or "function" in value)
    # A schedule may give way to a number, and a number to a schedule; a word is a mistake in both places.
    if is_call or (isinstance(like, Frozen) and (value is None or isinstance(value, dict | int | float))):
        return value
    wanted = "a dict" if isinstance(like, Frozen) else f"{_WANTED.get(type(like), 'a tuple')} or a dict"
    raise UsageError(f"{where}: came {text!r}, wanted {wanted} such as {{'call': 'jaxkit.models.cnn'}}")


def _tuple(text: str, like: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    kinds = {type(item) for item in like}
    value = _literal(text, otherwise=None)
    if text.strip() and len(kinds) == 1 and kinds <= {bool, int, float, str}:
        if kinds == {str} and isinstance(value, tuple | list) and {type(item) for item in value} <= {str}:
            return tuple(value)
        if kinds == {str} and isinstance(value, str):
            return (value,)
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        words = [word.strip() for word in inner.split(",")]
        words = words[:-1] if words[-1] == "" else words  # (16,) and ()
        return tuple(parse(word, like[0], f"{where}.{index}") for index, word in enumerate(words))
    if not isinstance(value, tuple | list):
        raise UsageError(f"{where}: came {text!r}, wanted a tuple such as '(16, 32)' or '({{\"call\": NAME}},)'")
    return tuple(value)
