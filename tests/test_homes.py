"""A user of a container may have no home."""

import os

import pytest

from jaxkit import homes
from jaxkit.data import prepared
from jaxkit.errors import UsageError


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "JAXKIT_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    for find in (homes.cache, lambda: prepared.data_directory(None)):
        with pytest.raises(
            UsageError, match="HOME: is not set, and this user has no home directory; set it to one"
        ):
            find()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(homes.cache()) == "/somewhere/jaxkit"
