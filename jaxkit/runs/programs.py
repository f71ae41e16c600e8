"""The cache of compiled programs, which all processes of a user share."""

import contextlib
import os
import sys
import threading
from typing import Any

from jaxkit import homes
from jaxkit.errors import UsageError


def keep() -> None:
    """Compiled programs are kept between processes, under the user's cache directory, if it can be written."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            folder = homes.cache() / "programs"
            folder.mkdir(parents=True, exist_ok=True)
            # jax would say so of each program, in several lines.
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise UsageError(f"no permission in {folder}")
        except (UsageError, OSError) as error:
            print(
                f"warning: compiled programs are not kept for the next start: {error}; XDG_CACHE_HOME names"
                " another place for them",
                file=sys.stderr,
            )
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    keep_whole()


def keep_whole() -> None:
    """From now on a compiled program gets its name in jax's cache when all of it is there.

    jax writes it in place: who reads it meanwhile finds a part of it, warns and compiles again. So does each start
    after a kill in the midst of it, or on a damaged disk, for what is there by its name jax does not write again.
    """
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:  # a jax that has moved it: as that one does it
        return
    if getattr(LRUCache.put, "keeps_whole", False):
        return
    jaxs = LRUCache.put

    def put(cache: Any, key: str, value: bytes) -> None:
        path = f"{cache.path}/{key}-cache"
        # A cache of bounded size is locked, and what is no directory has its own ways.
        if not key or cache.eviction_enabled or "://" in path:
            return jaxs(cache, key, value)
        part = f"{path}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            with open(part, "wb") as file:
                file.write(value)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise

    put.keeps_whole = True  # type: ignore[attr-defined]
    LRUCache.put = put  # type: ignore[method-assign, assignment]
