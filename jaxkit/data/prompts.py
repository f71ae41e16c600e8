"""Prompts: what a language model goes on from, and the text that comes of it."""

from collections.abc import Sequence

import numpy as np

from jaxkit import checks, errors
from jaxkit.data.tokenizers import Codec


def encode_prompts(codec: Codec, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as the beginnings of documents: tokens i32[batch, length], padded, and their lengths i32[batch].

    Raises:
        UsageError: there is none, or an empty one.

    Example:
        >>> from jaxkit.data.tokenizers import bytes_codec
        >>> tokens, lengths = encode_prompts(bytes_codec(), ["a", "bc"])
        >>> tokens.tolist(), lengths.tolist()
        ([[256, 97, 256], [256, 98, 99]], [2, 3])
    """
    _check_texts(prompts)
    rows = [np.concatenate([[codec.end_of_text], codec.encode(prompt)]) for prompt in prompts]
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.full((len(rows), lengths.max()), codec.end_of_text, np.int32)
    for row, filled in zip(tokens, rows):
        row[: len(filled)] = filled
    return tokens, lengths


def check_prompts(prompts: Sequence[str], *, num_tokens: int, max_length: int) -> None:
    """Checks, before anything is read, that each prompt is some text and that there is room to go on from it.

    Args:
        prompts: as in a config.
        num_tokens: how many are to be written.
        max_length: of a sequence of the model.

    Raises:
        UsageError: there is none, or an empty one; there is no room for any prompt.

    Example:
        >>> check_prompts(["import "], num_tokens=100, max_length=128)
    """
    _check_texts(prompts)
    checks.sizes(num_tokens=num_tokens)
    # One for the beginning of the document, and one at least of the prompt.
    if num_tokens + 2 > max_length:
        raise errors.UsageError(
            f"config.samples: num_tokens: came {num_tokens}, wanted at most {max_length - 2}: prompt and all"
            f" have the model's max_length of {max_length}"
        )


def _check_texts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str) or not prompts:
        raise errors.UsageError(f"prompts: came {prompts!r}, wanted one or more texts, such as ('import ',)")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise errors.UsageError(f"prompts[{number}]: came {prompt!r}, wanted a text of at least one character")


def decode_document(codec: Codec, tokens: np.ndarray) -> str:
    """The text of tokens i32[n] up to the first end_of_text.

    Example:
        >>> from jaxkit.data.tokenizers import bytes_codec
        >>> decode_document(bytes_codec(), np.array([104, 105, 256, 33]))
        'hi'
    """
    ends = np.flatnonzero(np.asarray(tokens) == codec.end_of_text)
    return codec.decode(tokens[: ends[0]] if len(ends) else tokens)
