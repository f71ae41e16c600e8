"""`jaxkit replay`: one step of a run, rebuilt and taken apart, printed."""

import argparse
from typing import Any

from jaxkit.cli import parsing, planning, tables
from jaxkit.runs.text import printable

# How many of many arrays and examples a person is shown; JSON has all.
_SHOWN = 8


def replay(arguments: argparse.Namespace) -> int:
    """Rebuilds a step and says what made its numbers."""
    from jaxkit.proofs import replaying, worktrees
    from jaxkit.runs import directory, programs, provenance

    run = parsing.path(arguments.run)
    directory.read_config(run)
    programs.keep()
    here = worktrees.project()
    experiment = worktrees.experiment(provenance.read(run), here, f"the project here ({here})")
    say = (lambda text: None) if arguments.json else (lambda text: print(printable(text), flush=True))
    say(f"runs {experiment}")
    recipe = planning.recipe_of(experiment)
    found = replaying.replay(recipe, run, arguments.step, allow=arguments.allow, say=say)
    if arguments.json:
        print(tables.as_json({"run": str(run), "experiment": str(experiment), **found._asdict()}))
    for line in () if arguments.json else _lines(found):
        say(line)
    return 0


def _lines(found: Any):
    yield from (f"note: {note}" for note in found.notes)
    findings = found.findings
    if found.recorded is not None:
        here = "not rebuilt whole" if found.replayed is None else f"here {found.replayed}"
        yield f"loss recorded {found.recorded}, {here}"
    values = ", ".join(f"{name} {value:.6g}" for name, value in found.values.items() if isinstance(value, float))
    words = ", ".join(f"{name} {value}" for name, value in found.values.items() if isinstance(value, str))
    yield f"step {found.step} alone: {', '.join(filter(None, [values, words])) or 'counts nothing'}"
    yield f"its examples: {_some(found.examples)}"
    if findings.finite:
        yield "everything in it is finite; what stands out against the step before:"
    else:
        yield f"the first array that is not finite: {findings.first}"
        for number, operation in enumerate(findings.made_by):
            yield f"{'made by' if number == 0 else 'then nan by'} {_said(operation)}"
        if findings.layer:
            yield f"nearest parameters: {findings.layer}"
        if findings.culprits:
            yield f"in the rows of examples {_some(findings.culprits)}"
        if findings.way:
            yield "on the way there, nearest first:"
        yield from (f"  {_said(operation)}" for operation in findings.way)
        yield "norms:"
    yield f"  {'':28} {'parameters':>12} {'gradient':>12} {'before':>12} {'update':>12} {'before':>12}"
    for layer in findings.layers[:_SHOWN]:
        numbers = (layer.parameter, layer.gradient, layer.gradient_before, layer.update, layer.update_before)
        yield f"  {layer.path:28} " + " ".join(f"{'' if x is None else format(x, '.4g'):>12}" for x in numbers)
    if len(findings.layers) > _SHOWN:
        yield f"  and {len(findings.layers) - _SHOWN} more (--json has all)"


def _said(operation: Any) -> str:
    bad = [f"{count} {name}" for name, count in (("nan", operation.nan), ("inf", operation.inf)) if count]
    made = f", {' and '.join(bad)}" if bad else ""
    return f"{operation.name} {list(operation.shape)} at {operation.where}: largest {operation.largest:.4g}{made}"


def _some(numbers: Any) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more
