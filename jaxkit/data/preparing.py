"""Preparing TFDS data sets once, and saying in one line why one cannot be."""

import contextlib
import difflib
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkit import errors
from jaxkit.data import schema
from jaxkit.types import Field

# What a missing package comes with; everything else that preparing may need is in "tensorflow".
_EXTRAS = {"sklearn": "examples", "PIL": "examples"}
# What is prepared in an instant.
_QUIET = ("digits", "stdlib")


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"


def _needs(error: BaseException | None) -> str:
    """Which package could not be imported; TFDS wraps the error in others that do not say."""
    package = "tensorflow"
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            package = error.name.partition(".")[0]
            break
        error = error.__cause__ or error.__context__
    return f"needs the package {package}: pip install 'jaxkit[{_EXTRAS.get(package, 'tensorflow')}]'"


_MAKING = threading.RLock()


@contextlib.contextmanager
def no_folder_left() -> Iterator[None]:
    """TFDS builders are made in it without a trace.

    For each data set that is not prepared TFDS makes a folder, for what its bucket says of it; it asks no bucket
    any more, and leaves the folder.
    """
    import tensorflow_datasets as tfds

    with _MAKING:
        asks = tfds.core.DatasetInfo.initialize_from_bucket
        tfds.core.DatasetInfo.initialize_from_bucket = lambda info: None
        try:
            yield
        finally:
            tfds.core.DatasetInfo.initialize_from_bucket = asks


@no_folder_left()
def named(name: str, directory: Path) -> Any:
    """The TFDS builder of that name; nothing is prepared.

    Raises:
        UsageError: there is none.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=str(directory), file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "import the module that defines its builder first"
        raise errors.UsageError(f"data set {name!r}: neither known to TFDS nor in {directory}; {hint}") from error
    except ImportError as error:
        raise errors.UsageError(f"data set {name!r}: it {_needs(error)}") from error
    except Exception as error:
        raise errors.UsageError(f"data set {name!r}: {_line(error)}") from error


def fields_of(builder: Any, fields: Sequence[str] | None, *, where: str) -> dict[str, Field]:
    """{name: Field} of the wanted fields, before anything is prepared.

    Raises:
        UsageError: there is no such field, or it is not numbers of a fixed shape.
    """
    features = builder.info.features
    if not hasattr(features, "items"):
        raise errors.UsageError(f"{where}: its examples are {features}, wanted named fields")
    found = {name: _field(feature) for name, feature in features.items()}
    good = tuple(name for name, field in found.items() if isinstance(field, Field))
    wanted = {}
    for name in features if fields is None else fields:
        if name not in found:
            raise errors.UsageError(f"{where}: fields: came {name!r}, wanted some of {', '.join(found)}")
        field = found[name]
        if not isinstance(field, Field):
            raise errors.UsageError(
                f"{where}: {name}: is {field}; a batch needs numbers of a fixed shape: say fields={good!r}"
            )
        wanted[name] = field
    return wanted


def _field(feature: Any) -> Field | str:
    """The field, or in words why it is none."""
    kind, shape = type(feature).__name__, feature.shape
    if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
        return f"{kind} of shape {shape if isinstance(shape, tuple) else 'nested'}"
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind not in "biufc":
        return f"{kind} of dtype {dtype}"
    num_classes = getattr(feature, "num_classes", None)
    return Field(shape, np.dtype(np.int32) if num_classes else schema.narrow(dtype), num_classes)


def prepared(make: Callable[[], Any], *, name: str, directory: Path) -> Any:
    """The builder of `make`, its data set prepared; by one process while the others wait.

    Raises:
        UsageError: it is not prepared and cannot be; says why and what to do.
    """
    builder = make()
    if builder.data_path.exists():
        return builder
    offline = _offline()
    try:
        with locked(directory, name):
            builder = make()  # another process may have prepared it by now
            if not builder.data_path.exists():
                # Without a network there is little to wait for, and what comes of it is one line.
                with _patience(offline), _progress(quiet=offline or name in _QUIET):
                    _prepare(builder)
            return builder
    except ImportError as error:
        why = _needs(error)
    except Exception as error:
        why = f"failed: {_line(error)}; mend that, or name the directory that it is prepared in"
        if offline and type(error).__name__ == "ConnectionError":
            why = "needs a network: prepare it where there is one, and copy the directory"
    raise errors.UsageError(
        f"data set {name!r}: it is not in {directory} (data_dir, JAXKIT_DATA, TFDS_DATA_DIR), "
        f"and preparing it {why}"
    )


def _prepare(builder: Any) -> None:
    import tensorflow_datasets as tfds

    # The files that TFDS itself hosts are tfrecord, which has no random access.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(file_format="array_record", download_config=config)


@contextlib.contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """Only one process at a time is in it, for each name; the others wait."""
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    words = "-".join("".join(c if c.isalnum() else " " for c in name).split())
    with open(directory / f".{words}.lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: as if alone
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _offline() -> bool:
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError:
        # Behind a proxy no name resolves either, and downloads work.
        return not any(os.environ.get(v) for v in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
    return False


@contextlib.contextmanager
def _patience(offline: bool) -> Iterator[None]:
    """Without a network TFDS would try for 3 minutes; what it has on disk it still finds."""
    from tensorflow_datasets.core.download import downloader

    tries = getattr(downloader, "MAX_RETRIES", None)
    if not offline or tries is None:
        yield
        return
    downloader.MAX_RETRIES = 0
    try:
        yield
    finally:
        downloader.MAX_RETRIES = tries


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[None]:
    """TFDS talks on stdout, which belongs to whoever runs us; what takes an instant says nothing."""
    with contextlib.redirect_stdout(sys.stderr):
        if quiet:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        else:
            yield
