"""From a dotted name to the function, imported."""

import importlib
import types
from collections.abc import Callable, Sequence
from typing import Any

from jaxkit.errors import UsageError, did_you_mean


class Outside(UsageError):
    """A name outside of what may be called."""


def resolve(name: Any, *, where: str, allow: Sequence[str] | None = None) -> Callable[..., Any]:
    """The function (or class) of that name, "jaxkit.models.cnn", from any module that Python can import.

    Raises:
        UsageError: not a dotted name, no such module or function, not callable, or not within `allow`.

    Example:
        >>> resolve("os.path.basename", where="config.call")("a/b")
        'b'
    """
    parts = name.split(".") if type(name) is str else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UsageError(
            f"{where}: came {name!r}, wanted the dotted name of a function, such as 'jaxkit.models.cnn'"
        )
    published = allow is not None and not _within(name, allow) and f"{'.'.join(parts[:-1])}.*" in allow
    private = any(part.startswith("_") for part in parts)
    if allow is not None and (private or not (published or _within(name, allow))):
        raise Outside(_outside(name, where, allow))
    found = _module(parts[0], name, where)
    if found is None:
        import sys  # for the nearest name only

        near = did_you_mean(parts[0], [module for module in sys.modules if "." not in module])
        raise UsageError(
            f"{where}: {name!r}: there is no module {parts[0]!r}{near} "
            "Is it installed, or in the directory that Python runs in?"
        )
    for end, part in enumerate(parts[1:], start=1):
        parent, is_last = found, end == len(parts) - 1
        found = _member(parent, parts[:end], part, name, where)
        if not (published and is_last):
            _check_real(found, name, where, allow, is_last=is_last)
        elif part not in getattr(parent, "__all__", ()):
            raise Outside(_outside(name, where, allow or ()))
    if not callable(found):
        raise UsageError(f"{where}: {name!r} is of type {type(found).__name__}, wanted a function")
    return found


def _module(module: str, name: str, where: str) -> types.ModuleType | None:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        raise _broken(error, name, where) from error
    except Exception as error:  # whatever the module does when it is imported
        raise _broken(error, name, where) from error


def _member(parent: Any, path: Sequence[str], part: str, name: str, where: str) -> Any:
    try:
        return getattr(parent, part)
    except AttributeError:
        pass
    except Exception as error:  # a module that imports its parts lazily
        raise _broken(error, name, where) from error
    dotted = ".".join(path)
    found = _module(f"{dotted}.{part}", name, where) if hasattr(parent, "__path__") else None
    if found is None:
        near = did_you_mean(part, [known for known in dir(parent) if not known.startswith("_")])
        raise UsageError(f"{where}: {name!r}: {dotted} has no {part!r}{near}".removesuffix("."))
    return found


def _broken(error: Exception, name: str, where: str) -> UsageError:
    line = " ".join(str(error).split())
    return UsageError(f"{where}: {name!r} cannot be imported: {type(error).__name__}: {line}")


def _within(name: str, allow: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allow)


def _check_real(found: Any, name: str, where: str, allow: Sequence[str] | None, *, is_last: bool) -> None:
    # "optax.chain" may come from anywhere within optax; but no name may lead out through a module that an
    # allowed one imports ("jaxkit.losses.os.system").
    if allow is None or name in allow:
        return
    if not is_last and isinstance(found, types.ModuleType) and found.__name__ in _parents(allow):
        return
    real = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
    real = real or type(found).__module__
    private = "._" in real and real.split(".")[0] in {prefix.split(".")[0] for prefix in allow}
    if not (_within(real, allow) or private):
        raise Outside(_outside(f"{name} ({real})", where, allow))


def _parents(allow: Sequence[str]) -> set[str]:
    return {".".join(prefix.split(".")[:end]) for prefix in allow for end in range(1, prefix.count(".") + 1)}


def _outside(name: str, where: str, allow: Sequence[str]) -> str:
    may = ", ".join(allow)
    return (
        f"{where}: {name!r} is outside what this config may call: {may};"
        ' allow its module if you trust it (--allow=MODULE, in Python allow=["MODULE"])'
    )
