"""The cache of compiled programs, which all processes of a user share: a program is in it whole, or not at all."""

import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache
from jax._src.lru_cache import LRUCache

from jaxkit.runs import programs

PROGRAM = b"program" * 2**16
# The system kills it when it has written so much of a file.
DIES = """
import resource, signal, sys
from jax._src.lru_cache import LRUCache
from jaxkit.runs import programs
programs.keep_whole()
cache = LRUCache(sys.argv[1], max_size=-1)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
cache.put("key", b"program" * 2**16)
"""


def test_a_kill_in_the_midst_of_writing_one_leaves_no_part_under_its_name(tmp_path):
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    cache = LRUCache(str(tmp_path), max_size=-1)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [2**16]
    assert cache.get("key") is None
    cache.put("key", PROGRAM)
    assert cache.get("key") == PROGRAM
    # Who compiles it again could not read what is there.
    (tmp_path / "key-cache").write_bytes(b"damaged")
    cache.put("key", PROGRAM)
    assert cache.get("key") == PROGRAM


def test_on_a_full_disk_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache = LRUCache(str(tmp_path), max_size=-1)
    monkeypatch.setattr(programs.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        cache.put("key", PROGRAM)
    assert list(tmp_path.iterdir()) == []


def test_jax_writes_what_it_compiles_by_it_and_reads_it_again(tmp_path):
    """Where jax has changed the place, this fails, and `programs.keep_whole` has to change too."""
    before = jax.config.jax_compilation_cache_dir
    function = lambda x: jnp.sin(x) * 353
    try:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        kept = []
        with pytest.MonkeyPatch.context() as patch:
            replace = programs.os.replace
            patch.setattr(programs.os, "replace", lambda part, path: kept.append(path) or replace(part, path))
            jax.jit(function)(1.0)
        assert kept
        assert sorted(map(str, tmp_path.glob("*-cache"))) == sorted(kept)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def test_an_empty_name_of_the_cache_directory_is_none(tmp_path, monkeypatch):
    # Else programs are kept wherever a command is given: in the checkout, among the modules of jaxkit.
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        programs.keep()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "jaxkit" / "programs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_where_none_can_be_kept_one_line_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        programs.keep()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    said = capsys.readouterr().err
    assert said.startswith(
        "warning: compiled programs are not kept for the next start: [Errno 20] Not a directory"
    )
    assert said.count("\n") == 1
