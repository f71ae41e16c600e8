"""The command line of an experiment: what `runs.main(recipe)` does, from the flags to the exit code."""

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxkit import configs
from jaxkit.errors import Busy, UsageError
from jaxkit.runs import distributed, flags, process
from jaxkit.runs.peers import FAILED, OK, TRY_AGAIN, USAGE


def main(recipe: Callable[[configs.Frozen], Any], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs an experiment from the command line and exits; the last line of an experiment file.

    `recipe` takes the frozen config and returns a `types.Recipe`. The run is trained from where its
    directory stands, evaluated, and summed up; the last line printed names the directory.

    Example:
        >>> import pytest
        >>> with pytest.raises(SystemExit):
        ...     main(lambda config: None, ["experiment.py", "--help"])
        usage: python experiment.py --config=FILE.py...
    """
    argv = sys.argv if argv is None else argv
    # Python puts the experiment's directory there; a config may name modules beside where the command is given.
    sys.path.append(os.getcwd())
    process.outlive_readers()
    with explained(debug="--debug" in argv):
        given = flags.parse(argv)
        if given is None:
            print(flags.HELP.format(experiment=argv[0]), end="")
            sys.exit(OK)
        config = configs.check_fields(configs.read(given.config, given.overrides))
        names = {
            "experiment": Path(argv[0]).stem,
            "name": flags.name_of(given),
            "workdir": given.workdir,
            "allow": given.allow,
        }
        # What was imported stays: Python need not look through it while it traces, nor on its way out.
        gc.freeze()
        if given.distributed is None:
            with process.asked_to_stop():
                sys.exit(run(recipe, config, **names))  # type: ignore[arg-type]
        with (
            distributed.worker(given.distributed, ours=argv is sys.argv) as worker,
            # Who leaves with another code is waited for by those that were not refused.
            explained(debug=given.debug, busy=USAGE),
        ):
            sys.exit(run(recipe, config, **names, worker=worker))  # type: ignore[arg-type]


@contextlib.contextmanager
def explained(*, debug: bool, busy: int = TRY_AGAIN) -> Iterator[None]:
    """Turns a mistake of the user's into one line and exit code 2; `debug` lets the traceback through.

    Where only somebody else is at work, the exit code is `busy`.
    """
    try:
        yield
    except (UsageError, OSError) as error:
        if debug:
            raise
        from jaxkit.runs import files, text

        code = busy if isinstance(error, Busy) else USAGE
        if isinstance(error, OSError):
            error = files.explain(error, "reading or writing a file")
        if sys.stdout is not None:
            sys.stdout.flush()
        print(text.printable(f"error: {error}"), file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        print("interrupted; start the same command again", file=sys.stderr)
        sys.exit(TRY_AGAIN)


def compose(recipe: Callable[[configs.Frozen], Any], config: configs.Frozen) -> Any:
    """`recipe(config)`, with what it raises for a bad value in one line.

    Raises:
        UsageError: names the line of the recipe, and what is wrong there; there are no such devices.
    """
    from jaxkit import backends, contracts
    from jaxkit.data import schema

    backends.check()
    try:
        made = recipe(config)
    except UsageError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in frames if frame.name == "recipe"), frames[-1])
        line = f"{place.filename}:{place.lineno}: {type(error).__name__}: {error}".splitlines()[0]
        # Of a KeyError the text is the key alone; what was looked for in what, the line says.
        bare = isinstance(error, LookupError | AttributeError) and place.line
        said = f" (in `{place.line}`)" if bare else ""
        raise UsageError(line + contracts.called_for(line) + said) from error
    contracts.recipe(made)
    schema.check_sources(made.data)
    return made


def run(
    recipe: Callable[[configs.Frozen], Any],
    config: configs.Frozen,
    *,
    experiment: str,
    name: str = "run",
    workdir: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    worker: distributed.Worker = distributed.ALONE,
) -> int:
    """Runs an experiment to its end, or to where it is interrupted; returns the exit code.

    Everything is checked on shapes before a directory is made, data read or a program compiled. `worker` says
    which of several processes this is; only the first writes and prints. `allow` names paths of the config in
    which it may differ from that of the run that is resumed.

    Raises:
        UsageError: a mistake in the config, or in what the work directory holds.
    """
    from rich.console import Console

    from jaxkit.runs import checkpoints, cursors, directory, memory, programs, results, stopping

    fingerprint = configs.fingerprint(config)
    # A shell leaves the "~" of --workdir=~/runs to the program.
    shown = Path(workdir or f"runs/{experiment}-{name}-{fingerprint[:8]}").expanduser()
    folder = shown.absolute()  # the same, wherever user code goes
    console = Console(highlight=False, markup=False, quiet=not worker.leads)
    if worker.agrees(_is_finished(folder, config if allow else None)):
        if worker.leads:
            # Whoever may not write there may look.
            claimed = directory.claim if os.access(folder, os.W_OK) else _looked_at
            with claimed(folder, config, experiment):
                console.print("This run is finished. Another --workdir=DIR starts it afresh.")
            results.show(console, folder, shown)
        return OK
    programs.keep()
    import jax

    from jaxkit.data import opening
    from jaxkit.recipe import plan
    from jaxkit.runs import feeding, leading, together, watchdog

    for name in (watchdog.ENVIRONMENT, process.STOP_SECONDS):
        process.seconds_of(name)
    process.check_asked()
    built = compose(recipe, config)
    together.check_same_config(config)
    # The preflight and the loop trace them once between them.
    init, update, evaluate = (jax.jit(part) for part in (built.init, built.update, built.evaluate))
    built = built._replace(init=init, update=update, evaluate=evaluate)
    planned = plan(built, batch_size=config.batch_size)
    process.check_asked()
    memory.prepare(planned)
    together.check(built.layout)
    feeding.check(built, planned)
    if worker.leads:
        directory.check(folder, config, experiment, allow)
        checkpoints.check_room(folder, planned.state_bytes)
        cursors.check(config.writers)
    examples = opening.opened(built.data)
    together.check_same_data({split: opened.manifest for split, opened in examples.items()})
    process.check_asked()
    worker.says(directory=str(folder))
    begun: list[int] = []
    with directory.claim(folder, config, experiment, allow) if worker.leads else contextlib.nullcontext() as claim:
        try:
            if claim is not None:
                code = leading.train(built, config, planned, examples, folder, console, claim, begun, worker)
            else:
                code = _follow(built, config, planned, examples, folder, console, worker)
        except stopping.Diverged as error:
            # All processes see the same numbers; the one that leads says so.
            code = results.diverged(console, folder, shown, error) if worker.leads else FAILED
        except BaseException as error:
            worker.doubts(error)
            with contextlib.suppress(OSError):
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                # What is refused before the run goes on stays as it stood.
                if begun:
                    directory.set_status(folder, status=status)
            raise
    if code == OK and worker.leads:
        results.show(console, folder, shown)
    elif code == TRY_AGAIN and worker.leads:
        console.print(str(shown), soft_wrap=True)
    return code


@contextlib.contextmanager
def _looked_at(folder: Path, config: configs.Frozen, experiment: str) -> Iterator[None]:
    from jaxkit.runs import directory

    directory.check(folder, config, experiment)
    yield


def _is_finished(folder: Path, config: configs.Frozen | None) -> bool:
    """Whether the run is finished; with a config, whether it is with that one."""
    from jaxkit.runs import directory

    if not directory.is_run(folder) or directory.status(folder)["status"] != "finished":
        return False
    return config is None or not configs.differences(directory.read_config(folder), config)


def _follow(recipe, config, plan, examples, folder: Path, console, worker: distributed.Worker) -> int:
    """The part of a process that neither writes nor prints."""
    from jaxkit.runs import loop, progress

    show = lambda step: progress.progress(console, start=step, num_steps=config.num_steps)
    with process.signals() as stopped:
        outcome = loop.train(
            recipe, config, plan, examples, folder, show=show, stopped=stopped.is_set, worker=worker
        )
    return TRY_AGAIN if outcome.step < config.num_steps else OK
