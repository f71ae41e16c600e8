"""The contract of writers, part of `types`; here, because what serves them does without jax."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Tracked(NamedTuple):
    """The run whose rows a writer is given.

    directory: its directory
    config:    its config
    tags:      () -> {name: text}: experiment, fingerprint, git commit, directory, as far as they are known yet
    kept:      what the writer kept when it last wrote for this run (ids, places in files); {} the first time
    keep:      (**values) -> None; adds to what is kept for the next time, on the disk when it returns
    """

    directory: Path
    config: Mapping[str, Any]
    tags: Callable[[], Mapping[str, str]]
    kept: Mapping[str, Any]
    keep: Callable[..., None]


class Writer(NamedTuple):
    """Where recorded values go beside `metrics.jsonl`, from a process of its own that no step waits for.

    What fails is tried again with a new writer, from the row behind the last that is known to be there. The
    function that a config names is called to check its arguments, too: what has an effect belongs in `open`.

    write: (step, {name: float}, wall) -> None; the step's values, of which some may be nan or infinite, and when
           they were recorded, in seconds since the epoch
    close: () -> None; when it returns, all is there
    open:  (Tracked) -> the last step that is there, None where the writer has no better knowledge than what was
           counted; called before the first row
    flush: () -> what is to be kept ({} for nothing), now that all that was written is there; None where that is
           not certain before `close`
    """

    write: Callable[[int, Mapping[str, float], float], None]
    close: Callable[[], None]
    open: Callable[[Tracked], int | None] = lambda run: None
    flush: Callable[[], Mapping[str, Any] | None] = dict
