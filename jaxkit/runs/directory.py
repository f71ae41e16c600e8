"""A run's directory: whose it is, who is writing in it, and how it stands."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxkit import configs
from jaxkit.errors import Busy, UsageError
from jaxkit.runs import evaluations, files, ownership, rows
from jaxkit.runs.process import keep_to_itself

CONFIG = "config.json"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
STATUS = "status.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

# What is in a run directory, and what it means; a change that an older jaxkit would misread counts it up.
FORMAT = 1

# Whoever looks whether a run is alive holds its lock for a moment.
_SECONDS_FOR_THE_LOCK = 1.0


def check(workdir: Path, config: configs.Frozen, experiment: str, allow: Sequence[str] = ()) -> None:
    """Checks that the directory is this run's, or could be made so; changes nothing.

    `allow` names the paths of the config that may differ from the run's, with all that is below them.

    Raises:
        UsageError: another run's directory, or one that holds other files.
    """
    if not str(workdir).isprintable():
        raise UsageError(f"workdir: came {str(workdir)!r}, wanted a name that can be printed, in UTF-8")
    if is_run(workdir):
        _check_same_run(workdir, config, experiment, allow)
        return
    configs.check_paths(allow, config, flag="--allow-config-change")
    around = next((folder for folder in workdir.absolute().parents if holds_run(folder)), None)
    if around is not None:
        raise UsageError(f"workdir: {workdir} lies in the run {around}; choose another with --workdir=DIR")
    if workdir.is_symlink() and not workdir.exists():
        raise UsageError(
            f"workdir: {workdir} is a link to {workdir.readlink()}, which is not there; make that directory, or"
            " choose another with --workdir=DIR"
        )
    existing = next(path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"workdir: {existing} is a file; choose another with --workdir=DIR")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"workdir: no permission to write in {existing}; choose another with --workdir=DIR")
    if existing != workdir.absolute():
        return
    # A kill while the directory was being made can leave any of these.
    ours = (LOCK, ownership.OWNER, f".{ownership.OWNER}.", STATUS, f".{STATUS}.", f".{CONFIG}.")
    others = [path.name for path in workdir.iterdir() if not path.name.startswith(ours)]
    if others:
        raise UsageError(
            f"workdir: {workdir} is no run directory and holds other files ({others[0]}, ...);"
            " choose an empty or new one with --workdir=DIR"
        )


class Claim(NamedTuple):
    """What is known of a directory that is this process's.

    changed: the changes of the config that were allowed: (path, what it was, what it is now); not yet written
    check:   () -> None; looks again that it is; raises Busy
    """

    changed: list[configs.Difference]
    check: Callable[[], None]


@contextlib.contextmanager
def claim(workdir: Path, config: configs.Frozen, experiment: str, allow: Sequence[str] = ()) -> Iterator[Claim]:
    """Makes the directory this run's, or finds that it is; nobody else may write in it meanwhile.

    Raises:
        UsageError: another run's directory, no permission.
        Busy: another process is writing in it.
    """
    check(workdir, config, experiment, allow)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open("a+")
    except OSError as error:
        raise files.explain(error, "workdir") from error
    keep_to_itself(lock)
    with lock:
        if not _locked(lock):
            raise Busy(
                f"workdir: another process is writing in {workdir}; wait for it,"
                " or choose another with --workdir=DIR"
            )
        with ownership.held(workdir) as still:
            # Again, now that nobody else can change it.
            check(workdir, config, experiment, allow)
            _clear(workdir)
            if not is_run(workdir):
                try:
                    new = {"format": FORMAT, "status": "running", "step": 0, "experiment": experiment}
                    files.write_json(workdir / STATUS, new)
                    # The config comes last: it is what makes the directory a run's.
                    files.write_text(workdir / CONFIG, configs.to_json(config))
                except OSError as error:
                    raise files.explain(error, "workdir") from error
            yield Claim(configs.differences(read_config(workdir), config), still)


def _clear(workdir: Path) -> None:
    """Deletes what killed processes were in the middle of writing."""
    for top, folders, names in os.walk(workdir):
        # A process for the writers outlives a run that was killed, and may be at work there.
        folders[:] = [name for name in folders if name != "writers"]
        for path in (Path(top, name) for name in names):
            if files.is_temporary(path):
                path.unlink(missing_ok=True)


def _locked(lock: IO[str]) -> bool:
    until = time.monotonic() + _SECONDS_FOR_THE_LOCK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def _check_same_run(workdir: Path, config: configs.Frozen, experiment: str, allow: Sequence[str]) -> None:
    owner = status(workdir).get("experiment", experiment)
    if owner != experiment:
        raise UsageError(
            f"workdir: {workdir} holds a run of {owner}, this is {experiment}; choose another with --workdir=DIR"
        )
    configs.check_paths(allow, read_config(workdir), config, flag="--allow-config-change")
    allowed = lambda path: any(path == name or path.startswith(f"{name}.") for name in allow)
    changed = [row for row in configs.differences(read_config(workdir), config) if not allowed(row[0])]
    if changed:
        rows = "; ".join(f"config.{path} was {old!r}, now {new!r}" for path, old, new in changed)
        raise UsageError(
            f"workdir: {workdir} holds a run with another config: {rows};"
            " go on with the same config, allow the change with --allow-config-change=PATH, or choose another"
            " with --workdir=DIR"
        )


def read_config(workdir: Path) -> configs.Frozen:
    """The config of a run.

    Raises:
        UsageError: not a run directory, or its config.json was damaged.
    """
    if is_run(workdir):
        _stands(workdir)
    try:
        config = configs.from_json(files.content(workdir / CONFIG).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{workdir}: is no run directory (it has no {CONFIG}); `jaxkit runs DIR` lists those below a directory"
        ) from None
    except OSError as error:
        raise UsageError(f"{workdir / CONFIG}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise files.damaged(workdir / CONFIG, str(error)) from error
    if "num_steps" not in config or not isinstance(config["num_steps"], int):
        raise files.damaged(workdir / CONFIG, "has no number of steps, num_steps")
    return config


def status(workdir: Path) -> dict[str, Any]:
    """What `status.json` says; "interrupted" where it says "running" and no process is.

    Raises:
        UsageError: the file is damaged, or a newer jaxkit wrote it.
    """
    found = _stands(workdir)
    if found["status"] == "running" and not _alive(workdir):
        # Between the two looks it may have ended: what it said last is there before it lets go.
        found = _stands(workdir)
        if found["status"] == "running":
            found["status"] = "interrupted"
    return found


def _stands(workdir: Path) -> dict[str, Any]:
    # A run that was made before there was a number is of the first format.
    start: dict[str, Any] = {"format": 1, "status": "running", "step": 0, "timing": {}}
    found = start | (files.read_json(workdir / STATUS) or {})
    for name, kind in (("format", int), ("status", str), ("step", int), ("timing", dict)):
        if not isinstance(found[name], kind):
            raise files.damaged(workdir / STATUS, f"{name}: came {found[name]!r}, wanted {kind.__name__}")
    if found["format"] > FORMAT:
        raise UsageError(
            f"{workdir}: was written by a newer jaxkit (format {found['format']}, this one reads up to {FORMAT});"
            " install the newer one to read it"
        )
    return found


def _alive(workdir: Path) -> bool:
    try:
        with files.opened(workdir / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ownership.elsewhere(workdir)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def set_status(workdir: Path, **values: Any) -> None:
    """Changes some of what `status.json` says.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json(workdir / STATUS, {**(files.read_json(workdir / STATUS) or {}), **values})


def summary(workdir: Path, recorded: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """All that one wants to know of a run at a glance; what `jaxkit show RUN --json` prints.

    `recorded` are the rows of its record, where they were read already.

    Raises:
        UsageError: not a run directory, or a file in it is damaged.
    """
    config = read_config(workdir)
    stands = status(workdir)
    recorded = rows.read(workdir / METRICS) if recorded is None else recorded
    newest = recorded[-1] if recorded else {}
    return {
        "run": str(workdir),
        "experiment": stands.get("experiment"),
        "status": stands["status"],
        "step": max(stands["step"], newest.get("step", 0)),
        "num_steps": config["num_steps"],
        "fingerprint": configs.fingerprint(config),
        "digest": newest.get("digest"),
        "params_sha256": stands.get("params_sha256"),
        "evaluation": {split: found["metrics"] for split, found in evaluations.read(workdir).items()},
        "timing": stands["timing"],
        "newest": newest,
    }


def holds_run(path: Path) -> bool:
    """Whether what is in a directory is a run's, also where others may have a file called config.json.

    Example:
        >>> holds_run(Path("there_is_no_such_directory"))
        False
    """
    return is_run(path) and os.path.isfile(path / STATUS)


def is_run(path: Path) -> bool:
    """Whether a directory is a run's."""
    return os.path.isfile(path / CONFIG)
