"""Tokenizers: text to numbers and back, without loss. Made from the training documents of a corpus, if at all."""

import contextlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkit import checks, errors
from jaxkit.data import cache, preparing
from jaxkit.data.corpora import Corpus

END_OF_TEXT = "<|endoftext|>"
# So that the bytes of a token fit into uint8, with room to spare.
_MAX_TOKEN_BYTES = 128


class Codec(NamedTuple):
    """A tokenizer that is ready.

    end_of_text: the token that stands between documents, and for no text
    encode:    text -> i32[n], without end_of_text; decode(encode(text)) is the text
    decode:    tokens -> text; end_of_text is left out, bytes that are no UTF-8 become U+FFFD
    num_bytes: u8[vocabulary], for how many bytes of UTF-8 each token stands; 0 for end_of_text
    asset:     all that is needed to make it again, as it is saved with a run
    """

    end_of_text: int
    encode: Callable[[str], np.ndarray]
    decode: Callable[[Sequence[int] | np.ndarray], str]
    num_bytes: np.ndarray
    asset: bytes


class Tokenizer(NamedTuple):
    """A tokenizer of which only the size is known, until it is fitted to a corpus.

    fit: Corpus -> Codec; reads the training documents where it has to, once
    """

    name: str
    vocabulary_size: int
    fit: Callable[[Corpus], Codec]


def byte_level() -> Tokenizer:
    """One token for each byte of UTF-8, and 256 for the end of a text: 257 in all.

    Example:
        >>> byte_level().vocabulary_size
        257
    """
    return Tokenizer("bytes", 257, lambda corpus: bytes_codec())


def bytes_codec() -> Codec:
    """Bytes of UTF-8 as tokens; no corpus is asked.

    Example:
        >>> codec = bytes_codec()
        >>> codec.encode("é!").tolist(), codec.decode([195, 169, 33, 256])
        ([195, 169, 33], 'é!')
    """
    num_bytes = np.ones(257, np.uint8)
    num_bytes[256] = 0
    return Codec(
        end_of_text=256,
        encode=lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32),
        decode=lambda tokens: bytes(int(t) for t in tokens if t < 256).decode(errors="replace"),
        num_bytes=num_bytes,
        asset=json.dumps({"type": "bytes", "end_of_text": 256}).encode() + b"\n",
    )


def bpe(*, vocabulary_size: int) -> Tokenizer:
    """Byte-pair encoding over bytes, as GPT-2 has it, trained on the corpus by the `tokenizers` library.

    The file is kept beside the data, named by the corpus's content and the size. Token 0 ends a text.
    Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners".

    Args:
        vocabulary_size: with the 256 bytes and the end of a text; a small corpus may not use all of it.

    Raises:
        ValueError: fewer than 257.
        UsageError: the package tokenizers is not installed.

    Example:
        >>> bpe(vocabulary_size=2048).name
        'bpe-2048'
    """
    checks.whole(257, vocabulary_size=vocabulary_size)
    if importlib.util.find_spec("tokenizers") is None:
        raise errors.UsageError(
            "tokenizer 'bpe': needs the package tokenizers: pip install 'jaxkit[text]', or read bytes:"
            " jaxkit.data.byte_level"
        )
    return Tokenizer(f"bpe-{vocabulary_size}", vocabulary_size, partial(_fit, vocabulary_size))


def _fit(vocabulary_size: int, corpus: Corpus) -> Codec:
    title = f"{corpus.name}-bpe-{vocabulary_size}"
    path = cache.location(corpus.directory, title=title, key=[corpus.identity(), vocabulary_size])
    path = path.with_name(path.name + ".json")
    found = _read(path, vocabulary_size)
    if found is None:
        with _alone(path):
            # Another process may have trained it by now.
            found = _read(path, vocabulary_size) or bpe_codec(_train(vocabulary_size, corpus))
            _write(path, found.asset)
    return found


def _train(vocabulary_size: int, corpus: Corpus) -> bytes:
    from tokenizers import Tokenizer as Trained
    from tokenizers import decoders, models, pre_tokenizers, trainers

    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_MAX_TOKEN_BYTES,
        show_progress=False,
    )
    trained.train_from_iterator(corpus.documents("train"), trainer)
    return trained.to_str().encode()


def bpe_codec(asset: bytes) -> Codec:
    """A byte-pair encoding from its file, `tokenizer.json` of the `tokenizers` library.

    Raises:
        ValueError: it is not such a file.
    """
    from tokenizers import Tokenizer as Trained

    try:
        trained: Any = Trained.from_str(asset.decode())
    except Exception as error:  # it raises nothing more special
        raise ValueError(f"asset: came {len(asset)} bytes that are no tokenizer.json ({error})") from error
    # Else "<|endoftext|>" in a document would end it.
    trained.encode_special_tokens = True
    vocabulary = trained.get_vocab()
    # Each character of a token stands for one byte.
    sizes = {number: len(token) for token, number in vocabulary.items() if token != END_OF_TEXT}
    return Codec(
        end_of_text=vocabulary[END_OF_TEXT],
        encode=lambda text: np.asarray(trained.encode(text).ids, np.int32),
        decode=lambda tokens: trained.decode([int(token) for token in tokens], skip_special_tokens=True),
        num_bytes=np.array([sizes.get(number, 0) for number in range(len(vocabulary))], np.uint8),
        asset=asset,
    )


def _read(path: Path, vocabulary_size: int) -> Codec | None:
    """What an earlier process trained, if it is whole."""
    try:
        found = bpe_codec(path.read_bytes())
    except (OSError, ValueError, KeyError):
        return None
    return found if len(found.num_bytes) <= vocabulary_size else None


@contextlib.contextmanager
def _alone(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # it is trained, and not kept
        yield
        return
    with preparing.locked(path.parent, path.name):
        yield


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; does nothing where it cannot."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
