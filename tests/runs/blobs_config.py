"""The config of tests/runs/blobs.py."""

import os


def get_config(arg=""):
    """A run of some seconds, with a checkpoint every few steps."""
    return {
        "seed": int(os.environ.get("BLOBS_SEED", 3)),
        "num_steps": 24,
        "batch_size": 32,
        "log_every": 1,
        "eval_every": 12,
        "checkpoint_every": 8,
        "data": {},
        "in_memory": True,
        "model": {"call": "jaxkit.models.mlp", "features": (16,), "num_classes": 2, "dropout": 0.2},
        "loss": {"function": "optax.softmax_cross_entropy_with_integer_labels"},
        "optimizer": {"call": "optax.adamw", "learning_rate": 0.01},
        "layout": {"call": "jaxkit.parallel.mesh", "fsdp": 2},
        "writers": (),
        "steps_per_call": 1,
    }
