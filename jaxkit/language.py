"""Language modelling: what the next token is, at every place at once. Used as `jaxkit.objectives`.

A batch is {"tokens": i32[batch, length + 1]}: all but the last are inputs, all but the first are targets. What
counts are tokens: "token_mask" bool[batch, length + 1] is False for those that are not to be counted as targets,
"mask" bool[batch] for whole windows. "token_bytes" int[batch, length + 1] says for how many bytes of text each
stands.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks, chunks, contracts, losses, random
from jaxkit import metrics as measures
from jaxkit.means import add, included, mean
from jaxkit.types import Batch, Evaluate, Loss, Metric, Metrics, Model, Objective, Source

# Tokens whose logits exist at a time, where a model gives (hidden, kernel).
_CHUNK = 1024


class Prediction(NamedTuple):
    """What is predicted from what, i32[batch, length] each; mask bool[batch, length] | None: what counts."""

    inputs: jax.Array
    targets: jax.Array
    mask: jax.Array | None


def next_tokens(batch: Batch) -> Prediction:
    """Inputs and targets of a batch: all tokens but the last, all but the first.

    Raises:
        ValueError: the tokens are not [batch, 2 or more], or a mask is of another shape.
        TypeError: the tokens are not integers, a mask is not bool.

    Example:
        >>> next_tokens({"tokens": jnp.array([[5, 6, 7]])}).targets.tolist()
        [[6, 7]]
    """
    checks.fields(batch, "tokens")
    tokens = jnp.asarray(batch["tokens"])
    checks.dtypes(tokens=(tokens, jnp.integer))
    tokens = tokens.astype(jnp.int32)  # of 8 or 16 bits, a vocabulary's size would not fit beside them
    sizes = checks.shapes(tokens=(tokens, "batch window"))
    if sizes["window"] < 2:
        raise ValueError(f"tokens: came {checks.describe(tokens)}, wanted [batch, length + 1] with a length >= 1")
    mask = None if "mask" not in batch else included(jnp.asarray(batch["mask"]), tokens[:, 1:].shape)
    if "token_mask" in batch:
        checks.shapes(token_mask=(batch["token_mask"], f"{sizes['batch']} {sizes['window']}"))
        of_tokens = included(jnp.asarray(batch["token_mask"])[:, 1:], tokens[:, 1:].shape)
        mask = of_tokens if mask is None else mask & of_tokens
    return Prediction(tokens[:, :-1], tokens[:, 1:], mask)


def language_modelling(
    model: Model, loss: Loss, *, vocabulary_size: int, metrics: Mapping[str, Metric] = {}
) -> Objective:
    """The mean loss of a token over a batch {"tokens": i32[batch, length + 1]}, with its masks.

    Args:
        model: i32[batch, length] -> logits f32[batch, length, vocabulary], or (hidden, kernel).
        loss: (outputs, targets) -> f32[batch, length]: `losses.cross_entropy` for logits,
            `losses.chunked_cross_entropy` for (hidden, kernel).
        vocabulary_size: of the data; the model has at least as many.
        metrics: of logits, computed from the training outputs.

    Raises:
        ValueError: when traced: the model has too small a vocabulary, outputs and tokens do not fit each other;
            a metric is called "loss".
        TypeError: when traced: the tokens are not integers.

    Example:
        >>> apply = lambda params, extra, inputs, *, key=None, train=False: (params[inputs], extra)
        >>> bigrams = Model(lambda key, inputs: (jnp.zeros((4, 4)), {}), apply)
        >>> objective = language_modelling(bigrams, losses.cross_entropy, vocabulary_size=4)
        >>> loss, _ = objective(jnp.zeros((4, 4)), {}, {"tokens": jnp.array([[0, 1, 2]])}, jax.random.key(0))
        >>> round(float(loss.compute()), 3), float(loss.count)  # log(4), over two tokens
        (1.386, 2.0)
    """
    contracts.model(model)
    contracts.metrics(metrics, "loss")
    checks.sizes(vocabulary_size=vocabulary_size)

    def objective(params, extra, batch, key):
        inputs, targets, mask = next_tokens(batch)
        key = random.named(key, "model")
        outputs, extra = contracts.outputs(model.apply(params, extra, inputs, key=key, train=True))
        _check_vocabulary(outputs, vocabulary_size)
        outputs = _logits_in_float32(outputs)
        values = loss(outputs, targets)
        contracts.losses(values, targets.shape)
        return mean(values, mask), (_measure(metrics, outputs, targets, mask), extra)

    return objective


def language_evaluation(
    model: Model, loss: Loss | None = None, *, vocabulary_size: int, metrics: Mapping[str, Metric] = {}
) -> Evaluate:
    """Loss, perplexity and bits per byte of a language model as it is served, averaged over tokens.

    Bits per byte are there where the batch has "token_bytes"; the end of a document costs bits, and is no byte.

    Args:
        model: i32[batch, length] -> logits f32[batch, length, vocabulary], or (hidden, kernel).
        loss: in nats per token; None: cross entropy, in chunks where the model gives (hidden, kernel).
        vocabulary_size: of the data; the model has at least as many.
        metrics: of logits, `metrics.accuracy`; in chunks too.

    Returns:
        (params, extra, batch) -> {"loss": Mean, "perplexity": ..., "bits_per_byte": Mean, name: additive}.

    Raises:
        ValueError: a metric has a name that is taken; when traced, as `language_modelling`.

    Example:
        >>> apply = lambda params, extra, inputs, *, key=None, train=False: (params[inputs], extra)
        >>> bigrams = Model(lambda key, inputs: (jnp.zeros((4, 4)), {}), apply)
        >>> evaluate = language_evaluation(bigrams, vocabulary_size=4, metrics={"accuracy": measures.accuracy})
        >>> batch = {"tokens": jnp.array([[0, 1, 2]]), "token_bytes": jnp.array([[1, 1, 3]])}
        >>> found = evaluate(jnp.zeros((4, 4)), {}, batch)
        >>> float(found["bits_per_byte"].compute()), float(found["accuracy"].compute())  # 2 x 2 bits, 4 bytes
        (1.0, 0.0)
    """
    contracts.model(model)
    contracts.metrics(metrics, "loss", "perplexity", "bits_per_byte")
    checks.sizes(vocabulary_size=vocabulary_size)

    def evaluate(params, extra, batch) -> Metrics:
        inputs, targets, mask = next_tokens(batch)
        outputs, _ = contracts.outputs(model.apply(params, extra, inputs))
        _check_vocabulary(outputs, vocabulary_size)
        outputs = _logits_in_float32(outputs)
        values, measured = _judged(loss, metrics, outputs, targets, mask)
        contracts.losses(values, targets.shape)
        # Computed once, and handed on as they are.
        given = lambda values, targets: values
        found: dict[str, Any] = {
            "loss": mean(values, mask),
            "perplexity": measures.perplexity(values, targets, mask, loss=given),
        }
        if "token_bytes" in batch:
            sizes = jnp.asarray(batch["token_bytes"])[:, 1:]
            found["bits_per_byte"] = measures.bits_per_byte(values, targets, mask, token_bytes=sizes, loss=given)
        return found | measured

    return evaluate


def vocabulary_of(sources: Mapping[str, Source]) -> int:
    """How many tokens there are in the data: one number for all of its splits.

    Raises:
        UsageError: a source has no tokens; the splits have different numbers of them.

    Example:
        >>> from jaxkit.types import Field
        >>> vocabulary_of({"train": Source("mine", {"tokens": Field((9,), "int32", 257)}, lambda: None)})
        257
    """
    found = {}
    for split, source in sources.items():
        field = source.schema.get("tokens")
        if field is None or field.num_classes is None:
            raise checks.UsageError(
                f"config.data.{split}: came the fields {sorted(source.schema)}, wanted 'tokens' of a known"
                " vocabulary, such as jaxkit.data.text gives"
            )
        found[split] = field.num_classes
    if len(set(found.values())) > 1:
        raise checks.UsageError(f"config.data: came vocabularies of {found}, wanted one tokenizer for all splits")
    return next(iter(found.values()))


def token_cross_entropy(outputs: Any, targets: jax.Array) -> jax.Array:
    """The cross entropy of each token in nats, f32[batch, length], of logits or of (hidden, kernel).

    Example:
        >>> token_cross_entropy(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int)).shape
        (2, 3)
    """
    if isinstance(outputs, tuple):
        return losses.chunked_cross_entropy(outputs, targets, chunk_size=_CHUNK)
    return losses.cross_entropy(outputs, targets)


def _logits_in_float32(outputs: Any) -> Any:
    # (hidden, kernel) stay as they are: what takes them makes its logits in float32, some tokens at a time.
    return outputs if isinstance(outputs, tuple) else losses.in_float32(outputs)


def _judged(
    loss: Loss | None, metrics: Mapping[str, Metric], outputs: Any, targets: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    """The loss of each token, f32[batch, length], and the metrics; where both need them, of the same logits."""
    if isinstance(outputs, tuple) and loss is None:
        return _in_chunks(metrics, outputs, targets, mask)
    return (loss or losses.cross_entropy)(outputs, targets), _measure(metrics, outputs, targets, mask)


def _measure(
    metrics: Mapping[str, Metric], outputs: Any, targets: jax.Array, mask: jax.Array | None
) -> dict[str, Any]:
    if not isinstance(outputs, tuple):
        return {name: metric(outputs, targets, mask) for name, metric in metrics.items()}
    return _in_chunks(metrics, outputs, targets, mask)[1] if metrics else {}


def _in_chunks(
    metrics: Mapping[str, Metric], outputs: Any, targets: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    """Cross entropy and metrics of the logits `hidden @ kernel`, which exist for a chunk of tokens at a time."""
    hidden, kernel = outputs
    counted = included(mask, targets.shape).ravel()
    rows = hidden.reshape(-1, hidden.shape[-1]), targets.ravel(), counted
    cut = jax.tree.map(lambda x: chunks.cut(x, _CHUNK), rows)

    def measured(chunk):
        hidden, targets, mask = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunk)
        logits = chunks.logits(hidden, kernel)
        values = losses.cross_entropy(logits, targets).reshape(chunk[1].shape)
        return {name: metric(logits, targets, mask) for name, metric in metrics.items()}, values

    shapes, _ = jax.eval_shape(measured, jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add_up(sums, chunk):
        more, values = measured(chunk)
        return add(sums, more), values

    sums, values = jax.lax.scan(add_up, zeros, cut)
    return chunks.joined(values, targets.size).reshape(targets.shape), sums


def _check_vocabulary(outputs: Any, wanted: int) -> None:
    last = outputs[1] if isinstance(outputs, tuple) else outputs
    if last.shape[-1] < wanted:
        raise ValueError(
            f"vocabulary: came a model of {last.shape[-1]} tokens for data of {wanted}; is the vocabulary_size of"
            " config.model that of the tokenizer in config.data?"
        )
