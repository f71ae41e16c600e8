"""What a peer and the driver say to each other: one line at a time, over the peer's stdin and stdout.

The peer calls `on_step` after every step (or call of several). After the first it reports what it is and waits;
then the driver sends a number of steps, the peer takes them and answers with the seconds they took. The end of
the peer's input ends the peer. Nothing here needs more than the standard library and numpy.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01  # of the GPT's AdamW, on every parameter
BATCH = {"mlp": 128, "cnn": 128, "gpt": 8}
VOCABULARY, LENGTH, LAYERS, HEADS, FEATURES = 256, 256, 4, 4, 256


def arguments() -> tuple[str, str, tuple[np.ndarray, np.ndarray]]:
    """The case, the variant, and the data: images f32[n, 8, 8, 1] and labels i32[n], or two of tokens."""
    case, variant, path = sys.argv[1:]
    arrays = np.load(path)
    if case == "gpt":
        windows = arrays["tokens"].astype(np.int32)
        return case, variant, (windows[:, :-1], windows[:, 1:])
    return case, variant, (arrays["images"], arrays["labels"])


def indices(size: int, batch: int) -> Iterator[np.ndarray]:
    """Shuffled epochs without end: which examples each batch holds."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(size)
        yield from (order[start : start + batch] for start in range(0, size - batch + 1, batch))


def session(
    *, parameters: int, dtype: Any, imports: float, packages: Sequence[str], notes: Mapping[str, Any] = {}
) -> Callable[..., None]:
    """Takes over stdin and stdout, and gives back `on_step(fetch, steps=1)`.

    `fetch()` waits for all that was dispatched and returns the newest loss; it is called only where a round ends.
    `notes` are told besides, as they are after the first step.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is not for the driver
    began, left, first = 0.0, 0, True

    def reply(values: dict[str, Any]) -> int:
        """Sends a line, and waits for the number of steps of the next round."""
        print(json.dumps(values), file=replies, flush=True)
        command = sys.stdin.readline()
        if not command.strip():
            os._exit(0)  # frameworks catch SystemExit
        return int(command)

    def on_step(fetch: Callable[[], Any], steps: int = 1) -> None:
        nonlocal began, left, first
        left -= steps
        if left > 0 and not first:
            return
        loss = float(fetch())
        values: dict[str, Any] = {"loss": loss, "seconds": time.perf_counter() - began, "excess": -left}
        if first:
            versions = {name: importlib.metadata.version(name) for name in packages}
            values = {"loss": loss, "parameters": int(parameters), "dtype": str(dtype).removeprefix("torch.")}
            values |= {
                "imports": imports,
                "versions": versions,
                "first_step_at": time.time(),
                "steps": steps,
                **notes,
            }
        first = False
        left = reply(values)
        began = time.perf_counter()

    return on_step
