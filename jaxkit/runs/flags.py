"""The flags of an experiment's command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkit import configs
from jaxkit.errors import UsageError, did_you_mean

HELP = """\
usage: python {experiment} --config=FILE.py[:VARIANTS] [--workdir=DIR] [--config.PATH=VALUE ...]
       [--allow-config-change=PATH ...] [--distributed[=HOST:PORT,NUM_PROCESSES,PROCESS_ID]] [--debug]

  --config=FILE.py       the config; FILE.py:model=mlp,... gives variants to its get_config
  --config.PATH=VALUE    changes one value of it: --config.optimizer.weight_decay=0
  --workdir=DIR          the run directory (default: runs/EXPERIMENT-CONFIG-FINGERPRINT); the same command resumes
  --allow-config-change=PATH
                         go on with the run in --workdir although its config differs there: layout, num_steps
  --distributed          one run on many processes, as Slurm, Open MPI or Kubernetes has started them, each with
                         this same command; they share the run directory
  --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID
                         the same, started by hand: where process 0 is, how many there are, which this one is
  --debug                show tracebacks for mistakes too

exit codes: 0 done, 2 a mistake that the message explains, 75 interrupted (start again to resume), 1 other (also
a loss that is not finite), 77 a step took longer than JAXKIT_STEP_SECONDS (not set: no limit), 76 another process
is dead or stuck (start all again to resume). A process counts as dead after JAXKIT_PEER_SECONDS (20) without a
sign of life, and as stuck when others have waited for its step that long and ten times their longest step; while
it compiles, evaluates or saves it is waited for. The start waits for all for JAXKIT_JOIN_SECONDS (300); who is
asked to stop saves within JAXKIT_STOP_SECONDS (no limit).
"""


class Flags(NamedTuple):
    """The command line of an experiment, parsed."""

    config: str
    overrides: list[tuple[str, str]]
    workdir: str | None
    debug: bool
    distributed: str | None = None
    allow: tuple[str, ...] = ()


def parse(argv: Sequence[str]) -> Flags | None:
    """The flags of a command line, None where help is asked for.

    Raises:
        UsageError: an unknown flag, a flag without its value, no config.

    Example:
        >>> parse(["x.py", "--config=c.py", "--config.seed=1"])
        Flags(config='c.py', overrides=[('seed', '1')], workdir=None, debug=False, distributed=None, allow=())
    """
    rest, overrides = configs.split_overrides(argv[1:])
    known = ("--config", "--workdir", "--debug", "--distributed", "--allow-config-change")
    values: dict[str, str] = {}
    allow: list[str] = []
    words = iter(rest)
    for word in words:
        name, equals, text = word.partition("=")
        if name in ("-h", "--help"):
            return None
        if name not in known:
            near = did_you_mean(name, (*known, "--help"))
            what = "flag" if word.startswith("-") else "place for"
            raise UsageError(f"there is no {what} {name}{near.removesuffix('.')} (see --help)")
        alone = name in ("--debug", "--distributed")
        if name == "--debug" and equals:
            raise UsageError(f"{name}: came {text!r}, but it takes no value; leave it out to turn it off")
        if not alone and not equals:
            text = next(words, "")
            text = "" if text.startswith("--") else text
        if not alone and not text:
            raise UsageError(f"{name}: has no value; write {name}=VALUE")
        if name == "--allow-config-change":
            allow.append(text.removeprefix("config."))
        values[name] = text
    if "--config" not in values:
        raise UsageError("there is no --config; write --config=configs/NAME.py (see --help)")
    if allow and "--workdir" not in values:
        raise UsageError(
            "--allow-config-change: goes on with the run in --workdir=DIR, so name that; without it another config"
            " starts another run"
        )
    debug, distributed = "--debug" in values, values.get("--distributed")
    return Flags(values["--config"], overrides, values.get("--workdir"), debug, distributed, tuple(allow))


def name_of(flags: Flags) -> str:
    """What a run is called after its config: the file's name.

    Example:
        >>> name_of(Flags("configs/digits.py:model=mlp", [], None, False))
        'digits'
    """
    return Path(flags.config.partition(":")[0]).stem
