"""GPT-2, 124M parameters (Radford et al. 2019), in bfloat16; for one accelerator.

    python experiments/text_generation.py --config=configs/gpt2_124m.py
    python experiments/text_generation.py --config=configs/gpt2_124m.py:data=stdlib
    jaxkit plan experiments/text_generation.py --config=configs/gpt2_124m.py

On synthetic tokens, of which nothing can be learned, it measures throughput: steps/s times 32 x 1,024 tokens. The
standard library is some 3M tokens, which it sees 20 times. Not trained where it was written, only planned and run
with the model made small: no throughput and no loss are stated.
"""

from jaxkit import configs

VOCABULARY_SIZE = 50257
LENGTH = 1024


def synthetic(seed, size):
    return {
        "call": "jaxkit.data.synthetic_tokens",
        "vocabulary_size": VOCABULARY_SIZE,
        "length": LENGTH,
        "size": size,
        "seed": seed,
    }


def stdlib(split):
    return {
        "call": "jaxkit.data.text",
        "corpus": {"call": "jaxkit.data.stdlib"},
        "tokenizer": {"call": "jaxkit.data.bpe", "vocabulary_size": VOCABULARY_SIZE},
        "length": LENGTH,
        "split": split,
    }


DATA = {
    "synthetic": {"train": synthetic(seed=0, size=4096), "test": synthetic(seed=1, size=64)},
    "stdlib": {"train": stdlib("train"), "test": stdlib("test")},
}
LAYOUTS = {"jit": {"call": "jaxkit.parallel.jit"}, "pmap": {"call": "jaxkit.parallel.pmap"}}


def get_config(arg=""):
    choice = configs.variants(arg, data=tuple(DATA), layout=tuple(LAYOUTS), num_steps=2_000)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 32,
        "log_every": 20,
        "eval_every": 500,
        "checkpoint_every": 1_000,
        "data": DATA[choice.data],
        "model": {
            "call": "jaxkit.models.precision",
            "model": {
                "call": "jaxkit.models.transformer",
                "vocabulary_size": VOCABULARY_SIZE,
                "max_length": LENGTH,
                "num_layers": 12,
                "num_heads": 12,
                "features": 768,
                "output": "hidden",
            },
            "compute": "bfloat16",
            "output": "bfloat16",  # what the loss multiplies
        },
        # The logits of a whole batch would take 6.6 GB.
        "loss": {"function": "jaxkit.losses.chunked_cross_entropy", "chunk_size": 4096},
        "optimizer": {
            "call": "optax.adamw",
            "b2": 0.95,
            "weight_decay": 0.1,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 6e-4,
                "warmup_steps": 200,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        # No average of the parameters: it would cost another copy of them.
        "average": {"call": "optax.identity"},
        "microbatches": 1,
        "samples": {
            # Without a space behind them: a space begins the token of the next word.
            "prompts": ("import", "def", "class"),
            "num_tokens": 256,
            "temperature": 0.8,
            "top_p": 0.95,
        },
        "layout": LAYOUTS[choice.layout],
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "steps_per_call": None,
    }
