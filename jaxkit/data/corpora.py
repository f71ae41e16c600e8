"""Corpora: documents of text, split so that no module is in two splits. Python's own library is one.

Every machine has it, in its own version: so what is read is named by its content, and says which Python it is of.
"""

import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import errors
from jaxkit.data import prepared, preparing

# A part of the name of what is prepared, so it must be known without importing the builder.
STDLIB_VERSION = "1.0.0"
# Tests; what pip installs; and lib2to3, which holds copies of other modules and is gone since Python 3.13.
LEFT_OUT = frozenset({"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "__pycache__"})
# Written when Python was built: it tells of the machine.
_GENERATED = "_sysconfigdata"


class Corpus(NamedTuple):
    """Documents of text; nothing is read before a function of it is called.

    name:      what to call it in messages: "stdlib"
    version:   which one it is: "1.0.0 of Python 3.11.7"
    directory: where what is made of it is kept
    identity:  () -> SHA-256 of all that would be read
    documents: split -> the documents of that split, in an order that is fixed
    """

    name: str
    version: str
    directory: Path
    identity: Callable[[], str]
    documents: Callable[[str], Iterator[str]]


class Module(NamedTuple):
    """One file: its path below the root, "email/message.py", and its text."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """As one imports it: "email.message"."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def stdlib(*, root: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None) -> Corpus:
    """The Python standard library's own source files, without its tests: some 11 MB in about 650 modules.

    A tenth of it (by bytes: 10.0 % for Python 3.11.7, 10.4 % for 3.12.1, 10.3 % for 3.13.0) is "test", the rest
    "train"; all of a package is in one of them. Prepared on first use, without TensorFlow.

    Args:
        root: another directory of Python modules; otherwise the library of this interpreter.
        data_dir: where data sets are; otherwise JAXKIT_DATA, TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        UsageError: by its functions: there is no module below the root; there is no such split.

    Example:
        >>> corpus = stdlib()
        >>> corpus.name
        'stdlib'
    """
    root = Path(root or sysconfig.get_path("stdlib")).expanduser().absolute()
    directory = prepared.data_directory(data_dir)
    return Corpus(
        name="stdlib",
        version=f"{STDLIB_VERSION} of Python {platform.python_version()}",
        directory=directory,
        identity=partial(identity, root),
        documents=partial(_documents, root, directory),
    )


def modules(root: Path) -> Iterator[Module]:
    """The modules below a directory, by path; no tests, no empty files, nothing that cannot be imported.

    Raises:
        UsageError: there is none.

    Example:
        >>> next(modules(Path(sysconfig.get_path("stdlib")))).path
        '__future__.py'
    """
    found = 0
    for path in sorted(_paths(root)):
        text = _text(root / path)
        if text:
            found += 1
            yield Module(path, text)
    if not found:
        raise errors.UsageError(
            f"stdlib: there is no Python module in {root}; is this a Python without its source files?"
            " Name a directory of modules by root="
        )


def _paths(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        # What is no identifier cannot be imported: "config-3.11-x86_64-linux-gnu".
        folders[:] = [name for name in folders if name not in LEFT_OUT and name.isidentifier()]
        for name in files:
            stem, ending = os.path.splitext(name)
            if ending == ".py" and stem.isidentifier() and not stem.startswith(_GENERATED):
                yield Path(folder, name).relative_to(root).as_posix()


def _text(path: Path) -> str:
    """The text as Python reads it; none where the file is not in the encoding that it declares."""
    raw = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return raw.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        return ""


def split_of(path: str) -> str:
    """ "train" or "test", by the top-level name alone; `_pyio` goes where a `pyio` would.

    Example:
        >>> split_of("unittest/mock.py"), split_of("email/message.py")
        ('test', 'train')
    """
    top = path.partition("/")[0].removesuffix(".py").lstrip("_")
    # The number was chosen so that a tenth of the bytes is held out, for Python 3.11 to 3.13.
    digest = hashlib.sha256(f"stdlib 353 {top}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


def identity(root: Path) -> str:
    """SHA-256 over paths and texts of all modules below a directory.

    Raises:
        UsageError: there is none.
    """
    return _identity(root, tuple(_stamps(root)))


def _stamps(root: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(_paths(root)):
        found = (root / path).stat()
        yield path, found.st_size, found.st_mtime_ns


# A memo, not a state: reading all of it takes a third of a second, and it is asked for more than once.
@lru_cache(maxsize=4)
def _identity(root: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for module in modules(root):
        for part in (module.path.encode(), module.text.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _documents(root: Path, directory: Path, split: str) -> Iterator[str]:
    version = platform.python_version()
    # The content too: what a distribution patches is another library of the same version.
    config = f"{version}-{identity(root)[:12]}"

    @preparing.no_folder_left()
    def builder() -> Any:
        from jaxkit.data import stdlib_builder

        library = stdlib_builder.Library(name=config, root=str(root), python=version)
        return stdlib_builder.builder(library, directory)

    made = preparing.prepared(builder, name="stdlib", directory=directory)
    for record in prepared.records(made, split, where=f"stdlib/{split}"):
        yield record["text"].decode()
