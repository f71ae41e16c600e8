"""MNIST (LeCun et al. 1998) through TFDS, which downloads and prepares it on first use.

    python experiments/image_classification.py --config=configs/mnist.py

Not trained to its end where it was written, so no accuracy is stated. Preparing
needs a network and TensorFlow (pip install "jaxkit[tensorflow]"); training does not.
"""

from jaxkit import configs

MODELS = {
    "cnn": {"call": "jaxkit.models.cnn", "features": (32, 64), "num_classes": 10},
    "mlp": {"call": "jaxkit.models.mlp", "features": (512, 512), "num_classes": 10},
}


def get_config(arg=""):
    choice = configs.variants(arg, model=tuple(MODELS), num_steps=5_000)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 128,
        "log_every": 50,
        "eval_every": 1_000,
        "checkpoint_every": 1_000,
        "data": {
            "train": {"call": "jaxkit.data.tfds", "name": "mnist", "split": "train"},
            "test": {"call": "jaxkit.data.tfds", "name": "mnist", "split": "test"},
        },
        # The mean and standard deviation of a training pixel, which is 0 to 255.
        "inputs": {"mean": 33.3, "std": 78.6},
        "augment": {"call": "jaxkit.data.affine", "max_degrees": 10.0, "max_scale": 0.1, "max_shift": 2.0},
        "model": MODELS[choice.model],
        "loss": {"function": "jaxkit.losses.cross_entropy", "label_smoothing": 0.05},
        "optimizer": {
            "call": "optax.adamw",
            "weight_decay": 0.05,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 2e-3,
                "warmup_steps": 200,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        "ema_decay": 0.998,
        "microbatches": 1,
        "layout": {"call": "jaxkit.parallel.jit"},
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "picture": True,
        "steps_per_call": None,
    }
