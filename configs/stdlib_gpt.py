"""A small GPT on the source files of the Python standard library; a tenth of the modules is held out.

    python experiments/text_generation.py --config=configs/stdlib_gpt.py
    python experiments/text_generation.py --config=configs/stdlib_gpt.py:tokenizer=bpe

A few minutes on two CPU cores. On the 62 held-out modules of Python 3.11.7, 1.18 MB, bytes come to 2.333 bits per
byte, and byte pairs (of tokenizers 0.23.3) to 2.084, in 271 s of CPU time (seed 0, 2026-11-21, jax 0.10.2).
"""

from jaxkit import configs

TOKENIZERS = {
    "bytes": {"call": "jaxkit.data.byte_level"},
    # Trained on the training split; needs pip install "jaxkit[text]".
    "bpe": {"call": "jaxkit.data.bpe", "vocabulary_size": 2048},
}
VOCABULARY_SIZES = {"bytes": 257, "bpe": 2048}
# So that both take about as long.
NUM_STEPS = {"bytes": 600, "bpe": 400}
LENGTH = 128


def get_config(arg=""):
    choice = configs.variants(arg, tokenizer=tuple(TOKENIZERS), num_steps=0)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps or NUM_STEPS[choice.tokenizer]
    text = {
        "call": "jaxkit.data.text",
        "corpus": {"call": "jaxkit.data.stdlib"},
        "tokenizer": TOKENIZERS[choice.tokenizer],
        "length": LENGTH,
    }
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 16,
        "log_every": 20,
        "eval_every": num_steps,
        "checkpoint_every": 200,
        "data": {"train": {**text, "split": "train"}, "test": {**text, "split": "test"}},
        "model": {
            "call": "jaxkit.models.transformer",
            "vocabulary_size": VOCABULARY_SIZES[choice.tokenizer],
            "max_length": LENGTH,
            "num_layers": 4,
            "num_heads": 4,
            "features": 128,
            "positions": "rotary",
            "norm": "rms",
            "activation": "swiglu",
            "bias": False,
        },
        "loss": {"function": "jaxkit.losses.cross_entropy"},
        "optimizer": {
            "call": "optax.adamw",
            "b2": 0.95,
            "weight_decay": 0.1,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 3e-3,
                "warmup_steps": 50,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        "average": {"call": "jaxkit.updates.ema", "decay": 0.98},
        "microbatches": 1,
        "samples": {
            # Without a space behind them: a space begins the token of the next word.
            "prompts": ("import", "def", "class"),
            # Beyond the length that it was trained on, it has learned nothing.
            "num_tokens": 112,
            "temperature": 0.8,
            "top_p": 0.95,
        },
        "layout": {"call": "jaxkit.parallel.jit"},
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "steps_per_call": None,
    }
