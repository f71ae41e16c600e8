"""requirements.lock pins every version by its hash, and names no place to take it from."""

import re
from pathlib import Path

LOCK = (Path(__file__).parent.parent / "requirements.lock").read_text()
# Lines that end in a backslash go on.
LINES = [line for line in LOCK.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
PINNED = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[0-9][\w.+!-]*( ;[^#@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")


def test_every_requirement_is_a_version_with_hashes():
    assert len(LINES) > 50
    assert [line for line in LINES if not PINNED.fullmatch(line.strip())] == []


def test_no_index_is_named():
    # Not in a comment either: what is written there was the command.
    assert re.findall(r"--(?:extra-)?index-url|--find-links|--trusted-host|^-[if]\b|://", LOCK, re.MULTILINE) == []
