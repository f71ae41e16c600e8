"""Llama 3.2 1B, 1.24 billion parameters (Grattafiori et al. 2024, arXiv:2407.21783), in bfloat16.

    python experiments/text_generation.py --config=configs/llama_1b.py
    python experiments/text_generation.py --config=configs/llama_1b.py:layout=fsdp
    jaxkit plan experiments/text_generation.py --config=configs/llama_1b.py:layout=fsdp --device=h200

For accelerators: the shape of the model, trained from nothing on synthetic tokens, to measure throughput, steps/s
times 8 x 4,096 tokens. Parameters and the moments of AdamW take 15 GB in float32, the checkpoints of a run three
times that. Rotary positions with the base of Llama 3, without its rescaling for contexts beyond 8,192 tokens. Not
trained where it was written, only planned and run with the model made small: no throughput is stated.
"""

from jaxkit import configs

VOCABULARY_SIZE = 128256
LENGTH = 4096


def synthetic(seed, size):
    return {
        "call": "jaxkit.data.synthetic_tokens",
        "vocabulary_size": VOCABULARY_SIZE,
        "length": LENGTH,
        "size": size,
        "seed": seed,
    }


LAYOUTS = {
    "jit": {"call": "jaxkit.parallel.jit"},
    # Eight accelerators: each keeps an eighth of the parameters and moments, or four of them do, and two share
    # each matmul.
    "fsdp": {"call": "jaxkit.parallel.mesh", "fsdp": 8},
    "tensor": {"call": "jaxkit.parallel.mesh", "fsdp": 4, "tensor": 2},
}


def get_config(arg=""):
    choice = configs.variants(arg, layout=tuple(LAYOUTS), num_steps=1_000)
    # Of the schedule too: `:num_steps=N` moves both, --config.num_steps the end of the run alone.
    num_steps = choice.num_steps
    return {
        "seed": 0,
        "num_steps": num_steps,
        "batch_size": 8,
        "log_every": 10,
        "eval_every": num_steps,
        "checkpoint_every": num_steps,
        "data": {"train": synthetic(seed=0, size=1024), "test": synthetic(seed=1, size=8)},
        "model": {
            "call": "jaxkit.models.precision",
            "model": {
                "call": "jaxkit.models.transformer",
                "vocabulary_size": VOCABULARY_SIZE,
                "max_length": LENGTH,
                "num_layers": 16,
                "num_heads": 32,
                "num_kv_heads": 8,
                "features": 2048,
                "mlp_features": 8192,
                "positions": "rotary",
                "rotary_base": 500_000.0,
                "norm": "rms",
                "activation": "swiglu",
                "bias": False,
                "tied": True,
                "remat": True,
                "scan": True,
                "output": "hidden",
            },
            "compute": "bfloat16",
            "output": "bfloat16",  # what the loss multiplies
        },
        # The logits of a whole batch would take 16.8 GB.
        "loss": {"function": "jaxkit.losses.chunked_cross_entropy", "chunk_size": 2048},
        "optimizer": {
            "call": "optax.adamw",
            "b2": 0.95,
            "weight_decay": 0.1,
            "learning_rate": {
                "call": "optax.warmup_cosine_decay_schedule",
                "init_value": 0.0,
                "peak_value": 3e-4,
                "warmup_steps": 100,
                "decay_steps": num_steps,
            },
        },
        "clip_norm": 1.0,
        # No average of the parameters: it would cost another copy of them.
        "average": {"call": "optax.identity"},
        "microbatches": 1,
        "samples": {"prompts": ("import",), "num_tokens": 128, "temperature": 0.8, "top_p": 0.95},
        "layout": LAYOUTS[choice.layout],
        "writers": (),
        # A run ends at a loss that is no number; with a number for "spike", also at one so many times the usual.
        "stop_on": {"nonfinite": True, "spike": None},
        "steps_per_call": None,
    }
