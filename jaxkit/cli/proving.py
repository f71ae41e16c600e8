"""`jaxkit verify-resume`, `reproduce` and `replay`: what shows that a run is exact, or where it is not."""

import argparse
import shutil
import sys
import tempfile
from typing import Any

from jaxkit import configs
from jaxkit.cli import parsing, planning, replaying, tables
from jaxkit.runs.text import printable


def add(verb: Any) -> None:
    """Adds the verbs to a command line; `verb(name, function, text)` makes the parser of one."""
    verify = verb("verify-resume", verify_resume, "kill -9 at random moments, resume, and prove the same bits")
    planning.add_experiment(verify)
    verify.add_argument("--kills", type=int, default=3, help="how many (default: 3)")
    verify.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    verify.add_argument(
        "--workdir", help="where the runs are made and stay (default: deleted when all is the same)"
    )
    again = verb("reproduce", reproduce, "run a run again from its directory alone, and compare step by step")
    again.add_argument("run", help="a run directory")
    again.add_argument("--steps", type=int, help="only so many, for a quick look")
    again.add_argument("--keep", metavar="DIR", help="where the new run stays (default: it is deleted)")
    again.add_argument(
        "--tolerance", type=float, help="succeed also where the largest relative difference is at most this"
    )
    one = verb(
        "replay", replaying.replay, "rebuild one step of a run on one device, and name what made its numbers"
    )
    one.add_argument("run", help="a run directory")
    one.add_argument("--step", type=int, required=True, help="as it is recorded")
    for parser in (again, one):
        parser.add_argument(
            "--allow", action="append", default=[], metavar="MODULE", help="its config may call into this too"
        )


def verify_resume(arguments: argparse.Namespace) -> int:
    """Runs an experiment whole, then killed and resumed, and compares all that both leave."""
    experiment = parsing.path(arguments.experiment)
    planning.check_file(experiment)
    config = configs.check_fields(configs.read(arguments.config, arguments.overrides))
    command = [sys.executable, str(experiment), f"--config={arguments.config}"]
    command += [f"--config.{path}={value}" for path, value in arguments.overrides]
    _on_the_cpu()
    from jaxkit.proofs import killing

    top = parsing.path(arguments.workdir or tempfile.mkdtemp(prefix="jaxkit-verify-resume-"))
    say = (lambda text: None) if arguments.json else (lambda text: print(text, flush=True))
    proof = None
    try:
        proof = killing.prove(command, kills=arguments.kills, seed=arguments.seed, top=top, say=say)
    finally:
        # What differs is worth a look; all else has been looked at.
        if not arguments.workdir and (proof is None or proof.holds):
            shutil.rmtree(top)
    found = {
        "identical": proof.holds,
        "experiment": str(experiment),
        "fingerprint": configs.fingerprint(config),
        "rounds": proof.rounds,
        "steps": proof.comparison.last,
        "rows": proof.comparison.rows,
        "arrays": proof.comparison.arrays,
        "differences": list(proof.differences),
        "workdir": str(top) if top.exists() else None,
        "kills": [kill._asdict() for kill in proof.kills],
    }
    _print(found, lambda: _say_proof(proof, found), arguments.json)
    return 0 if proof.holds else 1


def _say_proof(proof: Any, found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table("kill", "after", "aimed at", "hit", "reached", "resumed from")
    for number, kill in enumerate(proof.kills, 1):
        row = (f"{kill.seconds:.3f} s", kill.aimed, kill.phase, f"step {kill.reached}", f"step {kill.resumes}")
        table.add_row(str(number), *row)
    console.print(table)
    if proof.holds:
        console.print(
            f"identical: {found['rows']} rows up to step {found['steps']}, {found['arrays']} arrays of the last"
            f" checkpoint bit for bit, SHA-256 of the parameters, evaluation; after {len(proof.kills)} kills",
            soft_wrap=True,
        )
        return
    console.print(f"not identical: {proof.differences[0] if proof.differences else 'nothing was compared'}")
    for line in proof.differences[1:9]:
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"the runs are in {found['workdir']}", soft_wrap=True)


def reproduce(arguments: argparse.Namespace) -> int:
    """Runs a run again and says whether it came to the same."""
    _on_the_cpu()
    from jaxkit.proofs import reproducing

    say = (lambda text: None) if arguments.json else (lambda text: print(printable(text), flush=True))
    made = reproducing.reproduce(
        parsing.path(arguments.run),
        steps=arguments.steps,
        keep=parsing.path(arguments.keep) if arguments.keep else None,
        allow=arguments.allow,
        say=say,
    )
    comparison = made.comparison
    found = {
        "verdict": made.verdict,
        "run": arguments.run,
        "steps": comparison.last,
        "agreed": comparison.agreed,
        "rows": comparison.rows,
        "checkpoint": comparison.checkpoint,
        "arrays": comparison.arrays,
        "largest_relative_difference": comparison.largest,
        "differences": list(map(str, comparison.differences)),
        "environment": list(made.environment),
        "notes": list(made.notes),
        "what": made.runs_what,
    }
    _print(found, lambda: _say_reproduction(made), arguments.json)
    near = arguments.tolerance is not None and comparison.rows and comparison.largest <= arguments.tolerance
    return 0 if made.verdict == "bits" or near else 1


def _say_reproduction(made: Any) -> None:
    comparison, say = made.comparison, lambda text: print(printable(text))
    steps = f"{comparison.agreed} of {comparison.last} steps"
    if made.verdict == "bits":
        arrays = f", {comparison.arrays} arrays of checkpoint {comparison.checkpoint}" if comparison.arrays else ""
        say(f"identical: {steps}, bit for bit ({comparison.rows} rows{arrays})")
        return
    largest = f"the largest relative difference is {comparison.largest:.2g}"
    if made.verdict == "within tolerance":
        say(f"within tolerance, not the same bits: {largest}; the same bits for {steps}")
    else:
        say(f"different: {largest}; the same bits for {steps}")
    for number, difference in enumerate(comparison.differences[:9]):
        say(f"  {'first ' if number == 0 else ''}{difference}")
    if comparison.checkpoint is None:
        say("  the two have no checkpoint of the same step, so no arrays were compared")


def _print(found: dict[str, Any], say: Any, as_json: bool) -> None:
    if not as_json:
        say()
        return
    print(tables.as_json(found))


def _on_the_cpu() -> None:
    """This process only compares: the accelerator is left to those that train."""
    import jax

    jax.config.update("jax_platforms", "cpu")
