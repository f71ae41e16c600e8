"""CIFAR-10 (Krizhevsky 2009) through TFDS, which downloads and prepares it on first use; for an accelerator.

    python experiments/image_classification.py --config=configs/cifar10.py
    python experiments/image_classification.py --config=configs/cifar10.py:layout=pmap

Preparing needs a network and TensorFlow (pip install "jaxkit[tensorflow]"); training does not. This config
was not trained to its end where it was written, so no accuracy is stated.
"""

from jaxkit import configs

LAYOUTS = {"jit": {"call": "jaxkit.parallel.jit"}, "pmap": {"call": "jaxkit.parallel.pmap"}}


def get_config(arg=""):
    choice = configs.variants(arg, layout=tuple(LAYOUTS), num_steps=20_000)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps
    fields = ("image", "label")
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 256,
        "log_every": 100,
        "eval_every": 1_000,
        "checkpoint_every": 2_000,
        "data": {
            "train": {"call": "jaxkit.data.tfds", "name": "cifar10", "split": "train", "fields": fields},
            "test": {"call": "jaxkit.data.tfds", "name": "cifar10", "split": "test", "fields": fields},
        },
        # The mean and standard deviation of each channel of a training pixel, which is 0 to 255.
        "inputs": {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)},
        "augment": {
            "call": "jaxkit.data.chain",
            "augmentations": (
                {"call": "jaxkit.data.crop", "padding": 4},
                {"call": "jaxkit.data.flip"},
                {"call": "jaxkit.data.cutout", "size": 8},
            ),
        },
        "model": {
            "call": "jaxkit.models.resnet",
            "depth": 18,
            "small_images": True,
            "norm": "group",
            "num_classes": 10,
        },
        "loss": {"function": "jaxkit.losses.cross_entropy", "label_smoothing": 0.1},
        "optimizer": {
            "call": "optax.adamw",
            "weight_decay": 0.05,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 2e-3,
                "warmup_steps": 1_000,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        "ema_decay": 0.999,
        "microbatches": 1,
        "layout": LAYOUTS[choice.layout],
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "picture": True,
        "steps_per_call": None,
    }
