"""What every side of benchmarks/gpt.py shares: the sizes, the first parameters, the tokens, the conversation."""

import json
import resource
import sys
import time

import numpy as np

VOCABULARY, LENGTH, BATCH, FEATURES, HEADS, LAYERS = 256, 256, 8, 256, 4, 4
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY = 1e-3, (0.9, 0.95), 1e-8, 0.1


def parameters() -> dict:
    """The same first parameters for every side; kernels are [in, out]."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: (0.02 * rng.standard_normal(shape)).astype(np.float32)
    norm = lambda: {"scale": np.ones(FEATURES, np.float32), "bias": np.zeros(FEATURES, np.float32)}
    layer = lambda *shape: {"kernel": draw(*shape), "bias": np.zeros(shape[1], np.float32)}
    params: dict = {"embedding": draw(VOCABULARY, FEATURES), "positions": draw(LENGTH, FEATURES), "norm": norm()}
    for i in range(LAYERS):
        params[f"block_{i}"] = {
            "attention_norm": norm(),
            "mlp_norm": norm(),
            "attention": {name: layer(FEATURES, FEATURES) for name in ("query", "key", "value", "output")},
            "mlp": {"up": layer(FEATURES, 4 * FEATURES), "down": layer(4 * FEATURES, FEATURES)},
        }
    return params


def tokens() -> np.ndarray:
    """One batch i32[batch, length + 1], the same at every step, so that the losses say much about the steps."""
    return np.random.default_rng(1).integers(0, VOCABULARY, (BATCH, LENGTH + 1)).astype(np.int32)


def flops() -> float:
    """Of a step's products, forward and twice that backward, with all of the attention's square counted."""
    kernels = LAYERS * 12 * FEATURES**2 + FEATURES * VOCABULARY
    attention = LAYERS * 2 * LENGTH * FEATURES
    return 6.0 * BATCH * LENGTH * (kernels + attention)


def answer(step) -> None:
    """Takes as many steps as each line on stdin says; answers with seconds of this process a step, and a loss.

    Seconds of the processor, not of the clock: what else runs on the core is not counted.
    """
    print(json.dumps({"loss": float(step())}), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        for _ in range(int(line)):
            loss = step()
        loss = float(loss)
        seconds = (time.process_time() - began) / int(line)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "loss": loss, "megabytes": peak}), flush=True)
