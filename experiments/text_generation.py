"""Text generation: a language model, a loss and an optimizer from the config, on any windows of tokens.

    python experiments/text_generation.py --config=configs/stdlib_gpt.py

Trains, evaluates on the whole held-out split (loss, perplexity, bits per byte, accuracy of the next token), and
lets the model write: samples.txt. Copy this file to start an experiment of your own.
"""

from typing import Any

import jax.numpy as jnp
import optax

from jaxkit import configs, metrics, objectives, runs, sampling, updates
from jaxkit.data import tokenizers
from jaxkit.types import Recipe


def recipe(config) -> Recipe:
    """The experiment, as functions."""
    sources = configs.build(config.data)
    vocabulary_size = objectives.vocabulary_of(sources)
    tokens = sources["train"].schema["tokens"]
    # Synthetic tokens stand for no text.
    codec: Any = getattr(sources["train"], "codec", None)
    writes = codec is not None and config.samples is not None

    model = configs.build(config.model)
    loss = configs.build(config.loss)
    layout = configs.build(config.layout)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        configs.build(config.optimizer),
        configs.build(config.average),
    )

    objective = objectives.language_modelling(model, loss, vocabulary_size=vocabulary_size)
    gradients = updates.gradients(objective)
    gradients = updates.accumulate(gradients, microbatches=config.microbatches)
    gradients = layout.across(gradients)

    def init(key):
        params, extra = model.init(key, jnp.zeros((1, tokens.shape[0] - 1), jnp.int32))
        return updates.init_state(params, extra, optimizer)

    def predict(params, extra, batch):
        inputs, targets, _ = objectives.next_tokens(batch)
        outputs, _ = model.apply(params, extra, inputs)
        return {"nats": objectives.token_cross_entropy(outputs, targets)}

    def samples(params, extra, key):
        prompts, lengths = tokenizers.encode_prompts(codec(), config.samples.prompts)
        written = sampling.generate(
            model,
            params,
            prompts,
            lengths,
            key,
            num_tokens=config.samples.num_tokens,
            temperature=config.samples.temperature,
            top_p=config.samples.top_p,
        )
        texts = [tokenizers.decode_document(codec(), row) for row in written]
        return "".join(f"--- {p!r}\n{p}{text}\n" for p, text in zip(config.samples.prompts, texts))

    if writes:
        tokenizers.check_prompts(
            config.samples.prompts, num_tokens=config.samples.num_tokens, max_length=model.max_length
        )
    return Recipe(
        data=sources,
        init=init,
        update=updates.step(gradients, optimizer),
        evaluate=objectives.language_evaluation(
            model, vocabulary_size=vocabulary_size, metrics={"accuracy": metrics.accuracy}
        ),
        predict=predict,
        layout=layout,
        steps_per_call=config.steps_per_call,
        assets=codec and (lambda: {"tokenizer.json": codec().asset}),
        samples=samples if writes else None,
    )


if __name__ == "__main__":
    runs.main(recipe)
