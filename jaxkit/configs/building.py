"""From a config to what it describes: a dict with "call" becomes the result of the call."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxkit.configs.annotations import described, fits
from jaxkit.configs.frozen import Frozen, frozen_value, place, thaw
from jaxkit.configs.resolving import resolve
from jaxkit.errors import UsageError, did_you_mean
from jaxkit.errors import place as place_of

# What a config from elsewhere may call: of our modules what they publish, no module beneath, for some of those
# write files; of the others all, which is arithmetic. Of jax.numpy the dtypes only: jax.numpy.load reads pickles.
ALLOWED = (
    "jaxkit.losses.*",
    "jaxkit.metrics.*",
    "jaxkit.models.*",
    "jaxkit.objectives.*",
    "jaxkit.updates.*",
    "jaxkit.parallel.*",
    "jaxkit.data.*",
    "optax",
    "jax.nn",
    "jax.numpy.float32",
    "jax.numpy.bfloat16",
    "jax.numpy.float16",
    "flax.linen",
)


def build(config: Any, *, where: str | None = None, allow: Sequence[str] | None = None) -> Any:
    """What a config describes: every dict with "call" or "function" replaced, the innermost first.

    {"call": NAME, ...} becomes the result of the call with the other keys as arguments; {"function": NAME,
    ...} the function itself, with the other keys bound. A key may also name the `*args` of a function, as
    in {"call": "optax.chain", "args": (..., ...)}. Other dicts become dicts, tuples tuples, and a plain
    value stays what it is. Before a call its arguments are held against the signature.

    Args:
        config: the part to build.
        where: its path, for messages; a `Frozen` knows it.
        allow: the modules that may be called into ("optax"), with all beneath them, or for what is in their
            `__all__` alone ("jaxkit.data.*"), such as `ALLOWED`; None for any.

    Raises:
        UsageError: names the path, the function, what came and what was wanted.

    Example:
        >>> build({"call": "fractions.Fraction", "numerator": 3, "denominator": 6})
        Fraction(1, 2)
    """
    start = where or (place(config) if isinstance(config, Frozen) else "config")
    return _built(frozen_value(config, start), start, allow)


def _built(value: Any, where: str, allow: Sequence[str] | None) -> Any:
    if type(value) is tuple:
        return tuple(_built(item, f"{where}.{index}", allow) for index, item in enumerate(value))
    if not isinstance(value, Frozen):
        return value
    if "call" in value and "function" in value:
        raise UsageError(f"{where}: has both 'call' and 'function'; 'call' gives a result, 'function' itself")
    for word in ("call", "function"):
        if word in value:
            return _applied(value, word, where, allow)
    return {key: _built(item, f"{where}.{key}", allow) for key, item in value.items()}


def _applied(config: Frozen, word: str, where: str, allow: Sequence[str] | None) -> Any:
    name = config[word]
    function = resolve(name, where=f"{where}.{word}", allow=allow)
    signature = _signature(function)
    given = {key: value for key, value in config.items() if key != word}
    _check(name, signature, given, where, partial=word == "function")
    arguments = {key: _built(value, f"{where}.{key}", allow) for key, value in given.items()}
    if word == "function":
        return functools.partial(function, **arguments) if arguments else function
    args, kwargs = _split(signature, arguments)
    try:
        return function(*args, **kwargs)
    except Exception as error:
        # These two say what is wrong by themselves.
        kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
        raise UsageError(f"{where}: {name}: {kind}{' '.join(str(error).split())}{place_of(error)}") from error


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    for eval_str in (True, False):
        try:
            return inspect.signature(function, eval_str=eval_str)
        except Exception:  # an annotation in quotes may be any expression, and fail to evaluate
            continue
    return None  # some functions written in C have none


def _check(
    name: str, signature: inspect.Signature | None, given: Mapping[str, Any], where: str, *, partial: bool
) -> None:
    if signature is None:
        return
    by_name = {key: p for key, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    rest = next((p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if partial:  # functools.partial can bind these by position only
        by_name = {k: p for k, p in by_name.items() if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)}
    takes = f"It takes: {', '.join(by_name) or 'nothing'}"
    for key, value in given.items():
        if key not in by_name and rest is None:
            near = did_you_mean(key, by_name)
            raise UsageError(f"{where}: {name} takes no argument {key!r}{near} {takes}")
        parameter = by_name.get(key) or rest
        annotation = _annotation(parameter)
        # Many a default of None stands where the annotation does not say so.
        as_default = value is None and parameter is not None and parameter.default is None
        if not (annotation is inspect.Parameter.empty or as_default or fits(value, annotation)):
            raise UsageError(f"{where}.{key}: came {thaw(value)!r}, wanted {described(annotation)} ({name})")
    required = [k for k, p in by_name.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    missing = [key for key in required if key not in given]
    if missing and not partial:
        arrays = any("array" in described(_annotation(by_name[key])).lower() for key in missing)
        how = "; write 'function' for 'call' where it is called later, with arrays" if arrays else ""
        raise UsageError(f"{where}: {name} needs {', '.join(map(repr, missing))}{how}. {takes}")


def _annotation(parameter: inspect.Parameter | None) -> Any:
    if parameter is None:
        return inspect.Parameter.empty
    if parameter.kind is not parameter.VAR_POSITIONAL:
        return parameter.annotation
    item = Any if parameter.annotation is parameter.empty else parameter.annotation
    return types.GenericAlias(tuple, (item, ...))


def _split(
    signature: inspect.Signature | None, arguments: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # By keyword, except where a parameter can only be given by position: then all before it are, too.
    parameters = signature.parameters if signature else {}
    by_position = [k for k, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
    if signature is None or not any(key in arguments for key in by_position):
        return (), arguments
    bound = inspect.BoundArguments(signature, {k: arguments[k] for k in parameters if k in arguments})  # type: ignore[arg-type]
    bound.apply_defaults()
    extra = {key: value for key, value in arguments.items() if key not in parameters}
    return bound.args, {**bound.kwargs, **extra}
