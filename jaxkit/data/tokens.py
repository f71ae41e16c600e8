"""Sources of tokens: documents, tokenized, end to end, cut into windows."""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxkit import checks, errors
from jaxkit.data import cache, manifests, schema, sources
from jaxkit.data.corpora import Corpus
from jaxkit.data.tokenizers import Codec, Tokenizer
from jaxkit.types import Examples, Field, Source

# Part of the name of what is cached: another way to cut gives other windows.
_FORMAT = 1


class TextSource(NamedTuple):
    """A `Source` that also knows its tokenizer.

    codec: () -> the tokenizer, trained where that is still to do
    """

    name: str
    schema: dict[str, Field]
    open: Callable[[], Examples]
    codec: Callable[[], Codec]


def text(*, corpus: Corpus, split: str, tokenizer: Tokenizer, length: int) -> TextSource:
    """Windows of text: all documents end to end, end_of_text before, between and after them, cut to a length.

    tokens int32[length + 1]: a window and the token after it, which the next window begins with. So
    `tokens[:-1]` and `tokens[1:]` are inputs and targets, and every token of the split is a target exactly
    once, the end of each document too. token_mask bool[length + 1] is False where the last window is padded;
    token_bytes uint8[length + 1] says for how many bytes of text each token stands.

    Args:
        corpus: the documents, such as `stdlib()`.
        split: "train", "test", or a part such as "test[:10%]", a tenth of its documents.
        tokenizer: `byte_level()` or `bpe(vocabulary_size=...)`.
        length: tokens of a window.

    Raises:
        ValueError: the length is below 1.
        UsageError: by `open`: the corpus cannot be read; there is no such split.

    Example:
        >>> from jaxkit import data
        >>> source = text(corpus=data.stdlib(), split="train", tokenizer=data.byte_level(), length=8)
        >>> source.schema["tokens"]
        Field(shape=(9,), dtype=dtype('int32'), num_classes=257)
    """
    checks.sizes(length=length)
    wanted = {
        "tokens": Field((length + 1,), np.dtype(np.int32), tokenizer.vocabulary_size),
        "token_mask": Field((length + 1,), np.dtype(np.bool_)),
        "token_bytes": Field((length + 1,), np.dtype(np.uint8)),
    }
    return TextSource(
        name=f"{corpus.name}/{split}",
        schema=wanted,
        open=partial(_open, corpus, split, tokenizer, wanted),
        codec=partial(tokenizer.fit, corpus),
    )


def _open(corpus: Corpus, split: str, tokenizer: Tokenizer, wanted: dict[str, Field]) -> Examples:
    where, length = f"{corpus.name}/{split}", wanted["tokens"].shape[0] - 1
    codec = tokenizer.fit(corpus)
    # All that the windows are a function of.
    key = [_FORMAT, corpus.version, corpus.identity(), _sha256(codec.asset), length]
    path = cache.location(corpus.directory, title=f"{where} {tokenizer.name}", key=key)
    header = cache.read_header(path)
    arrays = header and cache.read_arrays(path, header)
    if header and arrays:
        return sources.in_memory(arrays, manifest=header["manifest"])
    arrays = windows(stream(corpus, split, codec), codec, length=length)
    schema.check(arrays, wanted, where=where)
    manifest = manifests.manifest(
        name=corpus.name,
        version=corpus.version,
        split=split,
        size=len(arrays["tokens"]),
        schema=wanted,
        sha256=manifests.content_hash([arrays], schema=wanted),
    )
    manifest["tokenizer"] = {"name": tokenizer.name, "sha256": _sha256(codec.asset)}
    cache.write(path, {"manifest": manifest, "prepared": str(corpus.directory), "stamp": None}, arrays)
    for array in arrays.values():
        array.flags.writeable = False
    return sources.in_memory(arrays, manifest=manifest)


def stream(corpus: Corpus, split: str, codec: Codec) -> np.ndarray:
    """All documents of a split as tokens, end to end, with end_of_text before, between and after them: i32[n]."""
    end = np.array([codec.end_of_text], np.int32)
    parts = [end]
    for document in corpus.documents(split):
        parts += [codec.encode(document), end]
    return np.concatenate(parts)


def windows(tokens: np.ndarray, codec: Codec, *, length: int) -> dict[str, np.ndarray]:
    """Cuts i32[n] into {"tokens", "token_mask", "token_bytes"}, each [size, length + 1]; the last is padded.

    Example:
        >>> from jaxkit.data import tokenizers
        >>> cut = windows(np.arange(4, dtype=np.int32), tokenizers.bytes_codec(), length=2)
        >>> cut["tokens"].tolist(), cut["token_mask"].tolist()
        ([[0, 1, 2], [2, 3, 256]], [[True, True, True], [True, True, False]])
    """
    size = max(1, math.ceil((len(tokens) - 1) / length))
    missing = size * length + 1 - len(tokens)
    padded = np.concatenate([tokens, np.full(missing, codec.end_of_text, tokens.dtype)])
    positions = np.arange(size)[:, None] * length + np.arange(length + 1)[None]
    cut = padded[positions]
    return {"tokens": cut, "token_mask": positions < len(tokens), "token_bytes": codec.num_bytes[cut]}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def synthetic_tokens(*, vocabulary_size: int, length: int, size: int, seed: int) -> Source:
    """Tokens drawn evenly, to measure throughput: nothing is read, nothing can be learned.

    tokens int32[length + 1]. The best loss there is is log(vocabulary_size).

    Args:
        vocabulary_size: 1 or more.
        length: tokens of a window, which has one more.
        size: the number of windows.
        seed: 0 or more; the same numbers on every machine.

    Raises:
        ValueError: a number is below that.

    Example:
        >>> examples = synthetic_tokens(vocabulary_size=50257, length=8, size=3, seed=0).open()
        >>> examples.arrays["tokens"].shape
        (3, 9)
    """
    checks.sizes(vocabulary_size=vocabulary_size, length=length, size=size)
    checks.whole(0, seed=seed)
    where = f"synthetic/{seed}"
    wanted = {"tokens": Field((length + 1,), np.dtype(np.int32), vocabulary_size)}

    def open_() -> Examples:
        if size * (length + 1) > 2**31:
            raise errors.UsageError(f"{where}: came {size} x {length + 1} tokens, wanted at most 2**31")
        draws = np.random.Philox(key=seed).random_raw(size * (length + 1))
        tokens = (draws % np.uint64(vocabulary_size)).astype(np.int32).reshape(size, length + 1)
        tokens.flags.writeable = False
        sha256 = manifests.content_hash([{"tokens": tokens}], schema=wanted)
        manifest = manifests.manifest(
            name="synthetic", version="1", split=str(seed), size=size, schema=wanted, sha256=sha256
        )
        return sources.in_memory({"tokens": tokens}, manifest=manifest)

    return Source(name=where, schema=wanted, open=open_)
