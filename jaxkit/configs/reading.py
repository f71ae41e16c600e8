"""Reading a config: the file's get_config(variants), then the flags."""

import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxkit.configs.frozen import Frozen, freeze
from jaxkit.configs.parsing import parse
from jaxkit.configs.paths import override
from jaxkit.errors import UsageError, did_you_mean


def read(argument: str, overrides: Sequence[tuple[str, str]] = ()) -> Frozen:
    """The config of "configs/digits.py:model=resnet,seed=3": that file's `get_config("model=resnet,seed=3")`.

    Args:
        argument: a Python file, and after a colon what its `get_config` is given.
        overrides: (path, text) as `split_overrides` gives them; the last one for a path counts.

    Raises:
        UsageError: in one line, the file and the line of it, or the path, and what is wrong there.
    """
    stem, found, arg = argument.partition(".py:")
    path = Path(stem + ".py" if found else argument)
    get_config = _run(path).get("get_config")
    if not callable(get_config):
        raise UsageError(f"{path}: has no function get_config(arg)")
    config = _guarded(path, lambda: freeze(_call(get_config, arg, path)))
    return override(config, overrides)


def _run(path: Path) -> dict[str, Any]:
    # Run, not imported: no cached bytecode, and no name in sys.modules for two files of one name to share.
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except FileNotFoundError:
        near = did_you_mean(str(path), map(str, path.parent.glob("*.py"))).removesuffix(".")
        raise UsageError(f"{path}: there is no such file{near}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    _guarded(path, lambda: exec(code, module.__dict__))
    return module.__dict__


def _guarded(path: Path, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        place = f"{path}:{lines[-1]}" if lines else str(path)
        raise UsageError(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _call(get_config: Callable[..., Any], arg: str, path: Path) -> Any:
    import inspect

    if inspect.signature(get_config).parameters:
        return get_config(arg)
    if arg:
        raise UsageError(f"takes no variants, came {arg!r}; write get_config(arg) for it to take some")
    return get_config()


def variants(arg: str, **allowed: Any) -> Frozen:
    """The choices in "model=resnet,seed=3"; for use in `get_config(arg)`.

    Args:
        arg: what came after the colon.
        **allowed: for each variant the values it may have, a tuple with the default first; or, where any
            value of a type will do, the default alone.

    Raises:
        UsageError: an unknown variant or value, with the nearest.

    Example:
        >>> choice = variants("model=resnet", model=("cnn", "mlp", "resnet"), seed=0)
        >>> choice.model, choice.seed
        ('resnet', 0)
    """
    chosen = {name: values[0] if isinstance(values, tuple) else values for name, values in allowed.items()}
    seen = set()
    for item in filter(None, map(str.strip, arg.split(","))):
        name, equals, text = map(str.strip, item.partition("="))
        if not equals or name not in allowed:
            known = ", ".join(f"{key}={_choices(values)}" for key, values in allowed.items())
            near = did_you_mean(name, allowed) if equals else "; write it NAME=VALUE."
            raise UsageError(f"there is no variant {item!r}{near} There are: {known or 'none'}")
        if name in seen:
            raise UsageError(f"the variant {name!r} comes twice in {arg!r}")
        seen.add(name)
        chosen[name] = _choose(name, text, allowed[name])
    return freeze(chosen, where="variants")


def _choices(values: Any) -> str:
    return "|".join(map(str, values)) if isinstance(values, tuple) else type(values).__name__.upper()


def _choose(name: str, text: str, values: Any) -> Any:
    if not isinstance(values, tuple):
        return parse(text, values, f"variant {name}")
    by_text = {str(value): value for value in values}
    if text not in by_text:
        near = did_you_mean(text, by_text)
        raise UsageError(f"variant {name}: came {text!r}{near} It is one of: {', '.join(by_text)}")
    return by_text[text]


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.PATH=VALUE` and `--config.PATH VALUE` out of a command line: (the rest, the overrides).

    Raises:
        UsageError: a flag without a value.

    Example:
        >>> split_overrides(["--config=c.py", "--config.model.width=8", "--config.seed", "3", "--debug"])
        (['--config=c.py', '--debug'], [('model.width', '8'), ('seed', '3')])
    """
    rest, overrides = [], []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        path, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            text = next(words, "--")
            if text.startswith("--"):
                raise UsageError(f"{word}: has no value; write {word}=VALUE")
        overrides.append((path, text))
    return rest, overrides
