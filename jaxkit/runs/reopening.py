"""What a run has come to, for a notebook: its experiment and its newest state."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.recipe import plan
from jaxkit.runs import checkpoints, command, directory, ledger, loop
from jaxkit.types import Recipe, State


def reopen(
    recipe: Callable[[configs.Frozen], Recipe], run: str | os.PathLike[str], *, allow: Sequence[str] = ()
) -> tuple[Recipe, State]:
    """The recipe of a run, on one device, and the state of its newest checkpoint; nothing in the run is changed.

    `updates.averaged(state)` are the parameters that were evaluated, `state.extra` goes with them, and
    `recipe.predict(params, extra, batch)` and `recipe.data` are what the run had.

    Args:
        recipe: the experiment's: `from experiments.image_classification import recipe`.
        run: the run's directory.
        allow: modules that its config may call into, beside `configs.ALLOWED`.

    Raises:
        UsageError: no run, no checkpoint yet or none that is whole, an experiment that makes another state.

    Example:
        >>> reopen(lambda config: None, "runs/there_is_none")
        Traceback (most recent call last):
        jaxkit.errors.UsageError: runs/there_is_none: ...
    """
    run = Path(run)
    config = configs.replace(
        directory.read_config(run), {"layout": {"call": "jaxkit.parallel.jit"}, "writers": ()}
    )
    configs.check_calls(config, allow=(*configs.ALLOWED, *allow))
    made = command.compose(recipe, config)
    planned = plan(made, batch_size=config.batch_size)
    abstract = {"state": planned.state, "interval": ledger.no_metrics(planned)}
    try:
        saved = checkpoints.restore(run / directory.CHECKPOINTS, abstract, warnings.warn)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{str(error).splitlines()[0]}; is it the code of the run?") from error
    if saved is None:
        raise UsageError(f"{run}: has no checkpoint yet; it has one from step {config.checkpoint_every} on")
    return made, loop.begin(made, config, planned, saved[1])[0]
