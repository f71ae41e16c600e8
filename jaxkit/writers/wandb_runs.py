"""Weights & Biases: a run of ours as one of its runs, on disk until it is wanted online."""

import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxkit.configs import thaw
from jaxkit.writers import libraries
from jaxkit.writing import Tracked, Writer

# What it would collect beside the values: console, code, git state, machine, packages, load.
_WITHOUT = {
    "console": "off",
    "silent": True,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
_ID = re.compile("[0-9a-f]{8}")
_LIMITS = {"init_timeout": 10.0, "finish_timeout": 20.0, "finish_timeout_raises": True}


def wandb(
    *,
    project: str = "jaxkit",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    mode: Literal["offline", "online"] = "offline",
) -> Writer:
    """Writes a run of Weights & Biases: into the run's directory ("offline"), or to its server.

    Offline, `wandb sync RUN/wandb/offline-run-*` uploads it; there is one such directory, which a resumed run
    writes anew from its record. Online, the server says after which step to go on. Nothing is collected but the
    values and the config.

    Raises:
        UsageError: wandb is not installed.
        ValueError: another mode.

    Example:
        >>> writer = wandb(project="digits")
    """
    libraries.need("writers.wandb", "wandb")
    if mode not in ("offline", "online"):
        raise ValueError(f"mode: came {mode!r}, wanted 'offline' or 'online'")
    run: Tracked
    session: Any
    newest = 0

    def open_(tracked: Tracked) -> int | None:
        nonlocal run, session, newest
        libraries.keep_quiet()
        import wandb

        run = tracked
        # What was kept is of a run that may come from elsewhere: it must not name other directories.
        kept = str(run.kept.get("id"))
        name = kept if _ID.fullmatch(kept) else uuid.uuid4().hex[:8]
        run.keep(id=name)
        if mode == "offline":
            for folder in run.directory.glob(f"wandb/offline-run-*-{name}"):
                shutil.rmtree(folder)
        # Some of these are not promised to stay: what a version does not know is left out.
        known: dict[str, Any] = {
            name: x for name, x in (_WITHOUT | _LIMITS).items() if name in wandb.Settings.model_fields
        }
        try:
            session = wandb.init(
                project=project,
                entity=entity,
                group=group,
                tags=list(tags),
                id=name,
                name=run.directory.absolute().name,
                dir=str(run.directory),
                mode=mode,
                resume="allow" if mode == "online" else None,
                config={**thaw(run.config), "jaxkit": dict(run.tags())},
                settings=wandb.Settings(**known),
                reinit="create_new",
            )
        except BaseException:
            # Its service holds on to a run that it could not begin, and would refuse the next attempt.
            wandb.teardown()
            raise
        newest = 0 if mode == "offline" else max(session.starting_step - 1, 0)
        return newest

    def write(step: int, values: Mapping[str, float], wall: float) -> None:
        nonlocal newest
        newest = step
        session.log({**values, "_timestamp": wall}, step=step)

    # An exit code that is not 0 shows as a failure; 75 is that of a run which is to be started again.
    close = lambda: session.finish(exit_code=0 if newest >= run.config["num_steps"] else 75)
    # Its service takes rows without saying what became of them; `finish` waits for them all.
    return Writer(write, close, open_, lambda: None)
