"""Corpora, tokenizers, windows: every token once, no module in two splits, nothing lost on the way."""

import importlib.util
import platform
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxkit import data
from jaxkit.data import corpora, tokenizers, tokens
from jaxkit.errors import UsageError

STDLIB = Path(sysconfig.get_path("stdlib"))
# What is in "test" by its name: zipfile, unittest; in "train": abc, email.
FILES = {
    "abc.py": b"import email\n\n\ndef first(values):\n    return values[0]\n",
    "email/__init__.py": b'"""Mail."""\n',
    "email/message.py": "name = 'Zoë'\n".encode(),
    "email/old.py": "# -*- coding: latin-1 -*-\nname = 'Zoë'\n".encode("latin-1"),
    "zipfile.py": b"def first(values):\n    return values[1]\n\n\nend = '<|endoftext|>'\n",
    "unittest/mock.py": b"class Mock:\n    pass\n",
}
LEFT_OUT = {
    "email/empty.py": b"",
    "email/broken.py": b"name = '\xff'\n",
    "email/message.txt": b"text\n",
    "test/test_abc.py": b"assert True\n",
    "email/tests/test_message.py": b"assert True\n",
    "site-packages/numpy/core.py": b"x = 1\n",
    "config-3.11-x86_64/build.py": b"x = 1\n",
    "lib2to3/pgen2/token.py": b"x = 1\n",
    "_sysconfigdata__linux_.py": b"build_time_vars = {}\n",
    "two words.py": b"x = 1\n",
}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A small library, and where it is prepared: by the real builder, once."""
    root = tmp_path_factory.mktemp("library")
    write(root, FILES | LEFT_OUT)
    return data.stdlib(root=root, data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bpe(library):
    return data.bpe(vocabulary_size=300).fit(library)


def documents(corpus, split):
    return sorted(corpus.documents(split))


def test_the_documents_are_the_modules_text_and_nothing_else(library):
    def text(name):
        return FILES[name].decode("latin-1" if name == "email/old.py" else "utf-8")

    assert documents(library, "test") == sorted(map(text, ("zipfile.py", "unittest/mock.py")))
    train = ("abc.py", "email/__init__.py", "email/message.py", "email/old.py")
    assert documents(library, "train") == sorted(map(text, train))


def test_a_module_is_named_as_it_is_imported():
    names = {"abc.py": "abc", "email/__init__.py": "email", "email/message.py": "email.message"}
    assert {path: corpora.Module(path, "").name for path in names} == names


def test_no_package_of_the_real_library_is_in_two_splits_and_a_tenth_is_held_out():
    sizes = {"train": {}, "test": {}}
    for path in corpora._paths(STDLIB):
        top = path.partition("/")[0].removesuffix(".py").lstrip("_")
        found = sizes[corpora.split_of(path)]
        found[top] = found.get(top, 0) + (STDLIB / path).stat().st_size
    assert not sizes["train"].keys() & sizes["test"].keys()
    held_out = sum(sizes["test"].values())
    assert 0.09 < held_out / (held_out + sum(sizes["train"].values())) < 0.11


def test_the_split_is_by_a_hash_of_the_name_alone():
    # sha256("stdlib 353 zipfile") begins with eight bytes that are a number divisible by ten.
    assert corpora.split_of("zipfile.py") == corpora.split_of("zipfile/_path/glob.py") == "test"
    assert corpora.split_of("_zipfile.py") == "test"  # the part of a module that is written in Python, or in C
    assert corpora.split_of("email/zipfile.py") == "train"


def test_the_manifest_says_which_python_and_which_tokenizer(library):
    manifest = source(library, "test").open().manifest
    assert platform.python_version() in manifest["version"]
    assert manifest["tokenizer"]["name"] == "bytes"
    [config] = (library.directory / "stdlib").iterdir()
    assert config.name.startswith(platform.python_version() + "-")


def test_another_content_is_another_prepared_set(tmp_path):
    opened = []
    for number, changed in enumerate((b"x = 1\n", b"x = 2\n")):
        write(tmp_path / str(number), FILES | {"abc.py": changed})
        corpus = data.stdlib(root=tmp_path / str(number), data_dir=tmp_path / "data")
        opened.append(source(corpus, "train").open())
    assert opened[0].manifest["sha256"] != opened[1].manifest["sha256"]
    assert len(list((tmp_path / "data/stdlib").iterdir())) == 2


def test_a_file_that_changes_is_seen(tmp_path):
    write(tmp_path, FILES)
    before = corpora.identity(tmp_path)
    assert corpora.identity(tmp_path) == before
    write(tmp_path, {"abc.py": b"x = 12345\n"})
    assert corpora.identity(tmp_path) != before


def source(corpus, split, length=8, tokenizer=None):
    return data.text(corpus=corpus, split=split, tokenizer=tokenizer or data.byte_level(), length=length)


def test_every_byte_is_a_target_once(library):
    for split in ("train", "test"):
        arrays = source(library, split).open().arrays
        counted = arrays["token_mask"][:, 1:]
        targets = arrays["tokens"][:, 1:][counted]
        texts = list(library.documents(split))
        assert bytes(targets[targets < 256].astype(np.uint8)) == "".join(texts).encode()
        # And the end of each document, which is no byte.
        assert np.sum(targets == 256) == len(texts)
        assert arrays["token_bytes"][:, 1:][counted].sum() == len("".join(texts).encode())


@given(st.integers(2, 40), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_windows_cover_all_tokens_exactly_once(size, length):
    stream = np.arange(size, dtype=np.int32)
    cut = tokens.windows(stream, tokenizers.bytes_codec(), length=length)
    counted = cut["token_mask"][:, 1:]
    np.testing.assert_array_equal(cut["tokens"][:, 1:][counted], stream[1:])
    np.testing.assert_array_equal(cut["tokens"][:, :-1][counted], stream[:-1])
    assert counted[:-1].all()
    assert counted[-1].any()


def test_the_schema_is_known_before_and_held_to(library):
    found = source(library, "test", length=8)
    assert found.schema["tokens"].num_classes == 257
    assert {name: field.shape for name, field in found.schema.items()} == dict.fromkeys(found.schema, (9,))
    opened = found.open()
    data.schema.check(opened.read(np.array([1, 0])), found.schema, where="test")
    assert opened.size == len(opened.arrays["tokens"])


def test_opened_again_it_is_read_from_the_cache(library, monkeypatch):
    first = source(library, "test", length=5).open()
    again = library._replace(documents=lambda split: pytest.fail("was read again"))
    second = source(again, "test", length=5).open()
    assert second.manifest == first.manifest
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)
        assert not second.arrays[name].flags.writeable


TEXTS = st.one_of(st.text(), st.sampled_from(["<|endoftext|>", "    return x\n", "Zoë 漢字 🙂", "\r\n\t\x00"]))


@given(TEXTS)
@settings(deadline=None)
def test_bytes_lose_nothing(text):
    codec = tokenizers.bytes_codec()
    check_lossless(codec, text)


def check_lossless(codec, text):
    numbers = codec.encode(text)
    assert numbers.dtype == np.int32
    assert codec.end_of_text not in numbers
    assert codec.decode(numbers) == text
    assert codec.num_bytes[numbers].sum() == len(text.encode())


def test_byte_pairs_lose_nothing(bpe):
    @given(TEXTS)
    @settings(deadline=None)
    def check(text):
        check_lossless(bpe, text)

    check()


def test_byte_pairs_are_fewer_and_the_same_when_trained_again(library, bpe):
    text = FILES["abc.py"].decode()
    assert len(bpe.encode(text)) < len(text) / 2
    assert tokenizers._train(300, library) == bpe.asset
    assert bpe.num_bytes[bpe.end_of_text] == 0
    assert tokenizers.bpe_codec(bpe.asset).encode(text).tolist() == bpe.encode(text).tolist()


def test_byte_pairs_are_trained_on_the_training_documents_alone(library):
    alone = library._replace(documents=lambda split: iter([text for text in library.documents(split)]))
    seen = []
    spy = library._replace(documents=lambda split: seen.append(split) or alone.documents(split))
    tokenizers._train(300, spy)
    assert seen == ["train"]


def test_one_trains_and_the_others_wait(library, tmp_path, monkeypatch):
    corpus = library._replace(directory=tmp_path)
    calls, train = [], tokenizers._train
    monkeypatch.setattr(tokenizers, "_train", lambda *args: calls.append(args) or train(*args))
    assets = []
    fit = lambda: assets.append(data.bpe(vocabulary_size=300).fit(corpus).asset)
    threads = [threading.Thread(target=fit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(assets) == 4
    assert len(set(assets)) == 1


def test_a_tokenizer_that_is_damaged_is_trained_again(library, tmp_path):
    corpus = library._replace(directory=tmp_path)
    asset = data.bpe(vocabulary_size=300).fit(corpus).asset
    [path] = tmp_path.rglob("*.json")
    path.write_bytes(asset[: len(asset) // 2])
    assert data.bpe(vocabulary_size=300).fit(corpus).asset == asset
    assert path.read_bytes() == asset


def test_synthetic_tokens_are_the_same_everywhere():
    examples = data.synthetic_tokens(vocabulary_size=1000, length=8, size=50, seed=3).open()
    found = examples.arrays["tokens"]
    # The raw stream of Philox, which numpy promises to keep.
    assert found[0, :4].tolist() == (np.random.Philox(key=3).random_raw(4) % 1000).tolist()
    assert found.shape == (50, 9)
    assert found.min() >= 0
    assert found.max() < 1000
    other = data.synthetic_tokens(vocabulary_size=1000, length=8, size=50, seed=4).open()
    assert other.manifest["sha256"] != examples.manifest["sha256"]


def test_prompts_begin_documents_and_a_document_ends_where_it_ends():
    codec = tokenizers.bytes_codec()
    numbers, lengths = tokenizers.encode_prompts(codec, ("é", "abcd"))
    assert numbers.tolist() == [[256, 195, 169, 256, 256], [256, 97, 98, 99, 100]]
    assert lengths.tolist() == [3, 5]
    assert tokenizers.decode_document(codec, np.array([97, 98])) == "ab"
    assert tokenizers.decode_document(codec, np.array([256, 98])) == ""


@pytest.mark.parametrize("prompts", [(), "import", ("a", ""), (3,)])
def test_prompts_must_be_texts(prompts):
    with pytest.raises(UsageError, match=r"prompts(\[.\])?: came .*, wanted"):
        tokenizers.encode_prompts(tokenizers.bytes_codec(), prompts)


def test_bad_input_is_explained(library, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"there is no Python module in .*root="):
        source(data.stdlib(root=tmp_path), "train").open()
    with pytest.raises(ValueError, match="length: came 0, wanted a number >= 1"):
        source(library, "train", length=0)
    with pytest.raises(UsageError, match=r"stdlib/valid: .*valid"):
        source(library, "valid").open()
    with pytest.raises(ValueError, match="vocabulary_size: came 256"):
        data.bpe(vocabulary_size=256)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        tokenizers.bpe_codec(b"{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package tokenizers: pip install 'jaxkit\[text\]'"):
        data.bpe(vocabulary_size=300)


def test_a_library_without_a_held_out_module_is_explained(tmp_path):
    write(tmp_path, {"abc.py": b"x = 1\n"})
    with pytest.raises(UsageError, match="stdlib"):
        source(data.stdlib(root=tmp_path, data_dir=tmp_path / "data"), "test").open()
