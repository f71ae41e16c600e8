"""The config of tests/proofs/crash.py."""


def get_config(arg=""):
    """Five epochs of 8 steps, with a checkpoint every half epoch."""
    return {
        "seed": 7,
        "num_steps": 40,
        "batch_size": 32,
        "log_every": 2,
        "eval_every": 8,
        "checkpoint_every": 4,
        "data": {},
        "model": {"call": "jaxkit.models.from_linen", "module": {"call": "crash.Mlp"}},
        "loss": {"function": "optax.softmax_cross_entropy_with_integer_labels"},
        "optimizer": {"call": "optax.adamw", "learning_rate": 0.01},
        "microbatches": 2,
        "layout": {"call": "jaxkit.parallel.jit"},
        "writers": (),
        "steps_per_call": 1,
    }
