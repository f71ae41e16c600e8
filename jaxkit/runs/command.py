"""The command line of an experiment: what `runs.main(recipe)` does, from the flags to the exit code."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxkit import configs
from jaxkit.errors import UsageError, did_you_mean
from jaxkit.runs import distributed
from jaxkit.runs.peers import OK, TRY_AGAIN, USAGE

_HELP = """\
usage: python {experiment} --config=FILE.py[:VARIANTS] [--workdir=DIR] [--config.PATH=VALUE ...]
       [--allow-config-change=PATH ...] [--distributed[=HOST:PORT,NUM_PROCESSES,PROCESS_ID]] [--debug]

  --config=FILE.py       the config; FILE.py:model=mlp,... gives variants to its get_config
  --config.PATH=VALUE    changes one value of it: --config.optimizer.weight_decay=0
  --workdir=DIR          the run directory (default: runs/NAME-FINGERPRINT); the same command resumes
  --allow-config-change=PATH
                         go on with a run although its config differs there: layout, num_steps, log_every
  --distributed          one run on many processes, as Slurm, Open MPI or Kubernetes has started them, each with
                         this same command; they share the run directory
  --distributed=HOST:PORT,NUM_PROCESSES,PROCESS_ID
                         the same, started by hand: where process 0 is, how many there are, which this one is
  --debug                show tracebacks for mistakes too

exit codes: 0 done, 2 a mistake that the message explains, 75 interrupted (start again to resume), 1 other,
76 another process is dead or stuck (start all again to resume). A process counts as stuck after
JAXKIT_PEER_SECONDS (20); the start waits for all for JAXKIT_JOIN_SECONDS (300).
"""


class Flags(NamedTuple):
    """The command line of an experiment, parsed."""

    config: str
    overrides: list[tuple[str, str]]
    workdir: str | None
    debug: bool
    distributed: str | None = None
    allow: tuple[str, ...] = ()


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
    with explained(debug="--debug" in argv):
        flags = parse(argv)
        if flags is None:
            print(_HELP.format(experiment=argv[0]), end="")
            sys.exit(OK)
        config = configs.check_fields(configs.read(flags.config, flags.overrides))
        names = {
            "experiment": Path(argv[0]).stem,
            "name": _name(flags),
            "workdir": flags.workdir,
            "allow": flags.allow,
        }
        if flags.distributed is None:
            sys.exit(run(recipe, config, **names))  # type: ignore[arg-type]
        with distributed.worker(flags.distributed, ours=argv is sys.argv) as worker, explained(debug=flags.debug):
            sys.exit(run(recipe, config, **names, worker=worker))  # type: ignore[arg-type]


@contextlib.contextmanager
def explained(*, debug: bool) -> Iterator[None]:
    """Turns a mistake of the user's into one line and exit code 2; `debug` lets the traceback through."""
    try:
        yield
    except (UsageError, OSError) as error:
        if debug:
            raise
        if isinstance(error, OSError):
            from jaxkit.runs import files

            error = files.explain(error, "reading or writing a file")
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        print("interrupted; start the same command again", file=sys.stderr)
        sys.exit(TRY_AGAIN)


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
            raise UsageError(f"there is no flag {name}{near.removesuffix('.')} (see --help)")
        alone = name in ("--debug", "--distributed")
        if not alone and not equals:
            text = next(words, "")
        if not alone and not text:
            raise UsageError(f"{name}: has no value; write {name}=VALUE")
        if name == "--allow-config-change":
            allow.append(text.removeprefix("config."))
        values[name] = text
    if "--config" not in values:
        raise UsageError("there is no --config; write --config=configs/NAME.py (see --help)")
    debug, distributed = "--debug" in values, values.get("--distributed")
    return Flags(values["--config"], overrides, values.get("--workdir"), debug, distributed, tuple(allow))


def compose(recipe: Callable[[configs.Frozen], Any], config: configs.Frozen) -> Any:
    """`recipe(config)`, with what it raises for a bad value in one line.

    Raises:
        UsageError: names the line of the recipe, and what is wrong there.
    """
    try:
        return recipe(config)
    except UsageError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in frames if frame.name == "recipe"), frames[-1])
        text = f"{place.filename}:{place.lineno}: {type(error).__name__}: {error}"
        raise UsageError(text.splitlines()[0]) from error


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

    from jaxkit.runs import checkpoints, directory

    fingerprint = configs.fingerprint(config)
    folder = Path(workdir or f"runs/{experiment}-{name}-{fingerprint[:8]}")
    console = Console(highlight=False, markup=False, quiet=not worker.leads)
    # Whoever read the output has gone: the run goes on without it.
    console.on_broken_pipe = _discard_output  # type: ignore[method-assign]
    if worker.agrees(_is_finished(folder, config if allow else None)):
        if worker.leads:
            with directory.claim(folder, config, experiment):
                console.print("This run is finished. Another --workdir=DIR starts it afresh.")
            _sum_up(console, folder)
        return OK
    _cache_programs()
    import jax

    from jaxkit.recipe import plan
    from jaxkit.runs import together

    built = compose(recipe, config)
    # The preflight and the loop trace them once between them.
    init, update, evaluate = (jax.jit(part) for part in (built.init, built.update, built.evaluate))
    built = built._replace(init=init, update=update, evaluate=evaluate)
    planned = plan(built, batch_size=config.batch_size)
    together.check(built.layout)
    if worker.leads:
        directory.check(folder, config, experiment, allow)
        checkpoints.check_room(folder, planned.state_bytes)
    examples = {split: source.open() for split, source in built.data.items()}
    writers = configs.build(config.writers, where="config.writers") if worker.leads else ()
    worker.says(directory=str(folder.absolute()))
    with (
        directory.claim(folder, config, experiment, allow) if worker.leads else contextlib.nullcontext() as changed
    ):
        try:
            if worker.leads:
                for path, before, now in changed or ():
                    console.print(f"config.{path} was {before!r}, is now {now!r}")
                code = _train(built, config, planned, examples, folder, console, writers, fingerprint, worker)
            else:
                code = _follow(built, config, planned, examples, folder, console, worker)
        except BaseException as error:
            worker.doubts(error)
            with contextlib.suppress(OSError):
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                if worker.leads:
                    directory.set_status(folder, status=status)
            raise
    if code == OK and worker.leads:
        _sum_up(console, folder)
    return code


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
    with _signals() as stopped:
        outcome = loop.train(
            recipe, config, plan, examples, folder, show=show, stopped=stopped.is_set, worker=worker
        )
    return TRY_AGAIN if outcome.step < config.num_steps else OK


def _train(
    recipe, config, plan, examples, folder: Path, console, writers, fingerprint: str, worker: distributed.Worker
) -> int:
    from jaxkit.runs import assets, digest, directory, files, loop, progress

    assets.keep(folder, recipe.assets)
    manifests = {split: opened.manifest for split, opened in examples.items()}
    _check_same_data(folder, manifests)
    form = loop.choose_form(recipe, plan, config)
    console.print(
        f"{plan.num_parameters:,} parameters; "
        + ", ".join(f"{opened.size:,} examples in {split}" for split, opened in examples.items())
        + f"; {form.steps_per_call} step{'s' * (form.steps_per_call > 1)} a call ({form.reason})"
    )
    directory.set_status(folder, status="running")
    # Git and package versions take a moment; the first program compiles meanwhile.
    noting = _in_background(lambda: _note(folder, fingerprint, config.seed, manifests, form._asdict()))

    with _signals() as stopped:
        outcome = loop.train(
            recipe,
            config,
            plan,
            examples,
            folder,
            show=lambda step: progress.progress(console, start=step, num_steps=config.num_steps),
            writers=writers,
            stopped=stopped.is_set,
            worker=worker,
        )
    noting()
    for writer in writers:
        writer.close()
    began = process_start()
    timing = {**outcome.timing, "to_first_step": outcome.first_step_at - began, "total": time.time() - began}
    done = {
        "step": outcome.step,
        "timing": {name: value and round(value, 4) for name, value in timing.items()},
    }
    if outcome.step < config.num_steps:
        directory.set_status(folder, status="interrupted", **done)
        console.print(f"interrupted after step {outcome.step}; the same command goes on from there")
        console.print(str(folder), soft_wrap=True)
        return TRY_AGAIN
    for split, metrics in outcome.evaluations.items():
        directory.write_evaluation(folder, split, outcome.step, metrics)
    if recipe.picture is not None and len(examples) > 1:
        try:
            loop.draw(recipe, config, outcome.state, examples, folder)
        except Exception as error:  # a picture is no reason to lose a run
            console.print(f"warning: no picture: {type(error).__name__}: {error}")
    if recipe.samples is not None:
        try:
            assets.write_samples(folder, recipe.samples, outcome.state, config.seed)
        except Exception as error:  # nor are samples
            console.print(f"warning: no samples: {type(error).__name__}: {error}")
    sha256 = digest.sha256(outcome.state.params)
    directory.set_status(folder, status="finished", params_sha256=sha256, **done)
    files.sync_directory(folder)
    return OK


def _note(
    folder: Path, fingerprint: str, seed: int, manifests: Mapping[str, Any], form: Mapping[str, Any]
) -> None:
    from jaxkit.runs import directory, files, provenance

    noted = {**provenance.collect(fingerprint=fingerprint, seed=seed, manifests=manifests), "form": form}
    patch = provenance.patch(Path.cwd(), leave_out=folder)
    before = files.read_json(folder / directory.PROVENANCE)
    # What a run was started with stays; each later start is noted beside it, with its own patch.
    resumed = [*before.get("resumed", []), noted] if before else []
    files.write_bytes(folder / (f"dirty-{len(resumed)}.patch" if resumed else "dirty.patch"), patch)
    files.write_json(folder / directory.PROVENANCE, {**(before or noted), "resumed": resumed})


def _check_same_data(folder: Path, manifests: Mapping[str, Any]) -> None:
    """Refuses to go on with other data than a run was started with."""
    from jaxkit.data.manifests import differences
    from jaxkit.runs import directory, files

    before = (files.read_json(folder / directory.PROVENANCE) or {}).get("data", {})
    for split, manifest in manifests.items():
        found = differences(before[split], manifest) if split in before else []
        if found:
            raise UsageError(
                f"config.data.{split}: is not the data that this run was started with: {found[0]};"
                " restore it, or start afresh with another --workdir=DIR"
            )


def _sum_up(console, folder: Path) -> None:
    """The table of results, and the run directory as the last line."""
    from rich.table import Table

    from jaxkit.runs import assets, directory

    found = directory.summary(folder)
    written = assets.shortened(folder)
    if written:
        console.print(written, soft_wrap=True)
    splits = list(found["evaluation"])
    table = Table(title=f"{found['experiment']}: {found['step']:,} steps", title_justify="left")
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    rows: dict[str, dict[str, float]] = {}
    for split in splits:
        for name, value in found["evaluation"][split].items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                if isinstance(number, int | float):
                    rows.setdefault(f"{name} {part}".strip(), {})[split] = number
    for name, values in rows.items():
        table.add_row(name, *(f"{values[split]:.4f}" if split in values else "" for split in splits))
    table.add_section()
    labels = {"steps_per_second": "steps/s", "to_first_step": "time to first step, s", "total": "total, s"}
    for name, label in labels.items():
        value = found["timing"].get(name)
        table.add_row(label, f"{value:,.1f}" if value else "")
    console.print(table)
    if (folder / assets.SAMPLES).exists():
        console.print(f"samples: {folder / assets.SAMPLES}", soft_wrap=True)
    if (folder / "picture.png").exists():
        console.print(f"picture: {folder / 'picture.png'}", soft_wrap=True)
    console.print(str(folder), soft_wrap=True)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _cache_programs() -> None:
    """Compiled programs are kept between processes, under the user's cache directory."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxkit" / "programs"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """SIGTERM, SIGHUP and Ctrl-C ask the loop to stop after the step it is in; a second Ctrl-C does not ask."""
    stopped = threading.Event()

    def stop(number, frame):
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    # What is ignored stays so: nohup means that.
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_background(function: Callable[[], None]) -> Callable[[], None]:
    """Starts a function on a thread; what is returned waits for it, and raises what it raised."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return wait


def process_start() -> float:
    """When this process was started, in seconds since the epoch."""
    import psutil

    return psutil.Process().create_time()


def _name(flags: Flags) -> str:
    return Path(flags.config.partition(":")[0]).stem
