"""How the command line of `jaxkit` is read: argparse, with a mistake in one line and the nearest name."""

import argparse
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jaxkit import configs
from jaxkit.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """One that raises where argparse prints its usage and exits; its verbs' parsers are such ones too."""

    def error(self, message: str) -> NoReturn:
        """Ends the parsing.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)")


def path(text: str) -> Path:
    """The path that an argument names; a shell leaves the "~" of --output=~/FILE to the program.

    Raises:
        UsageError: there is no such user.

    Example:
        >>> path("runs/one")
        PosixPath('runs/one')
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text}: {error}") from None


def parse(
    parser: argparse.ArgumentParser, verbs: Mapping[str, argparse.ArgumentParser], argv: Sequence[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """What argparse makes of a command line, and its overrides of a config.

    Raises:
        UsageError: an unknown verb or flag, with the nearest; what argparse finds wrong.

    Example:
        >>> parser = Parser(prog="jaxkit")
        >>> verbs = parser.add_subparsers(dest="verb")
        >>> _ = verbs.add_parser("runs").add_argument("--limit", type=int)
        >>> parse(parser, verbs.choices, ["runs", "--limit=3"])
        (Namespace(verb='runs', limit=3), [])
        >>> parse(parser, verbs.choices, ["runs", "--limt=3"])
        Traceback (most recent call last):
        jaxkit.errors.UsageError: there is no flag --limt; did you mean '--limit'? (see jaxkit runs --help)
    """
    before = list(itertools.takewhile(lambda word: word.startswith("-"), argv))
    _check_flags(parser, before)
    for verb in argv[len(before) : len(before) + 1]:
        if verb not in verbs:
            raise UsageError(f"there is no verb {verb!r}{did_you_mean(verb, verbs)} There are: {', '.join(verbs)}")
        _check_flags(verbs[verb], argv[len(before) + 1 :])
    found, rest = parser.parse_known_args(argv)
    unknown, changes = configs.split_overrides(rest)
    if unknown:
        what = "flag" if unknown[0].startswith("-") else "place for"
        raise UsageError(f"there is no {what} {unknown[0]} (see jaxkit {found.verb} --help)")
    return found, changes


def _check_flags(parser: argparse.ArgumentParser, words: Iterable[str]) -> None:
    # Before argparse looks: it says first what is missing, and of a flag that is misspelt nothing.
    known = ["--help", *re.findall(r"--[a-z][a-z-]*", parser.format_usage())]
    for word in itertools.takewhile(lambda word: word != "--", words):
        name = word.partition("=")[0]
        # Argparse takes the beginning of a name for the name.
        good = not name.startswith("--") or name.startswith("--config.") or any(k.startswith(name) for k in known)
        if not good:
            # Without the dashes, which make all of them alike.
            near = did_you_mean(name[2:], [flag[2:] for flag in known]).replace(" '", " '--").removesuffix(".")
            raise UsageError(f"there is no flag {name}{near} (see {parser.prog} --help)")
