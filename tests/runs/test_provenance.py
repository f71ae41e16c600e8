"""Provenance: what the commit does not say is a patch that git takes back; nothing secret or huge is in it."""

import os
import subprocess

import pytest

from jaxkit.runs import provenance


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, "-C", tmp_path, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "gone.py").write_text("b = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path, git


def test_the_patch_brings_a_clean_checkout_to_the_same_files(repository):
    top, git = repository
    (top / "code.py").write_text("a = 2\n")
    (top / "gone.py").unlink()
    (top / "new file.bin").write_bytes(bytes(range(256)))
    (top / "runs").mkdir()
    (top / "runs/large").write_text("not part of it")
    (top / "out").mkdir()
    (top / "out/metrics.jsonl").write_text("nor this")
    patch = provenance.patch(top, leave_out=top / "out")
    state = provenance.git_state(top)
    assert state["dirty"]
    git("stash", "-q", "--include-untracked")
    subprocess.run(["git", "-C", top, "apply", "-"], input=patch, check=True)
    assert (top / "code.py").read_text() == "a = 2\n"
    assert not (top / "gone.py").exists()
    assert (top / "new file.bin").read_bytes() == bytes(range(256))
    assert b"not part of it" not in patch
    assert b"nor this" not in patch


def test_the_staging_area_is_left_alone(repository):
    top, _ = repository
    (top / "code.py").write_text("a = 3\n")
    provenance.patch(top, leave_out=top / "out")
    staged = subprocess.run(["git", "-C", top, "diff", "--cached", "--name-only"], capture_output=True, check=True)
    assert staged.stdout == b""


def test_what_is_huge_is_left_out_and_said_so_without_reading_it(repository):
    top, _ = repository
    (top / "code.py").write_text("a = 5\n")
    with (top / "huge").open("wb") as file:
        file.truncate(2**40)
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch.startswith(b"# left out: huge, more than 10485760 bytes\n")
    assert b"a = 5" in patch
    assert len(patch) < 1000


KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"  # in two, so that no scanner takes it for one


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "TOKEN=1"),
        ("server.pem", "hidden"),
        ("id_ed25519", "hidden"),
        ("gcp-credentials.json", "{}"),
        ("notes.txt", KEY),
    ],
)
def test_what_looks_like_a_key_is_left_out_and_said_so(repository, name, content):
    top, _ = repository
    (top / "code.py").write_text("a = 6\n")
    (top / name).write_text(content)
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch.startswith(f"# left out: {name}, it looks like a key".encode())
    assert content.encode() not in patch
    assert b"a = 6" in patch


def test_names_that_only_sound_like_keys_are_kept(repository):
    top, _ = repository
    for name in ("tokenizers.py", "keys.py", "secretary.py", "monkey.txt"):
        (top / name).write_text("c = 1\n")
    assert b"left out" not in provenance.patch(top, leave_out=top / "out")


def test_a_patch_that_is_huge_in_all_is_left_out(repository, monkeypatch):
    top, _ = repository
    monkeypatch.setattr(provenance, "MAX_PATCH_BYTES", 2000)
    for number in range(4):
        (top / f"part_{number}.txt").write_text("".join(f"{number} {line}\n" for line in range(200)))
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch.startswith(b"# left out: all of the patch, ")
    assert len(patch) < 100


def test_a_pipe_is_no_file(repository):
    top, _ = repository
    os.mkfifo(top / "pipe")
    (top / "code.py").write_text("a = 4\n")
    assert b"a = 4" in provenance.patch(top, leave_out=top / "out")


def test_without_git_there_is_nothing_to_say(tmp_path):
    assert provenance.patch(tmp_path, leave_out=tmp_path) == b""
    assert provenance.git_state(tmp_path) == {}


def test_a_clean_checkout_has_no_patch(repository):
    assert provenance.patch(repository[0], leave_out=repository[0] / "out") == b""


def test_the_environment_is_a_short_list(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "SECRET")
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    found = provenance.collect(fingerprint="f", seed=0, manifests={})
    assert set(found["environment"]) <= set(provenance.ENVIRONMENT)
    assert "SECRET" not in str(found)
