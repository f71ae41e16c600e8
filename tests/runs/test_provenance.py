"""Provenance: what the commit does not say is a patch that git takes back; nothing secret or huge is in it."""

import os
import subprocess
from pathlib import Path

import pytest

from jaxkit.proofs import worktrees
from jaxkit.runs import directory, files, provenance


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
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
    git("mv", "gone.py", "renamed.py")
    (top / "new file.bin").write_bytes(bytes(range(256)))
    (top / "runs").mkdir()
    (top / "runs/large").write_text("not part of it")
    (top / "out").mkdir()
    (top / "out/metrics.jsonl").write_text("nor this")
    patch = provenance.patch(top, leave_out=top / "out")
    git("stash", "-q", "--include-untracked")
    subprocess.run(["git", "-C", top, "apply", "-"], input=patch, check=True)
    assert (top / "code.py").read_text() == "a = 2\n"
    assert not (top / "gone.py").exists()
    assert (top / "renamed.py").read_text() == "b = 1\n"
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
        (".git-credentials", "https://a:hidden@b"),
        ("notes.txt", KEY),
        ("ring.asc", KEY.replace("KEY-", "KEY BLOCK-")),
        ("upload.py", "login('hf_" + "abcdefGHIJ" * 4 + "')"),
        ("ask.py", "key = 'sk-" + "proj-" + "a_B-9" * 10 + "'"),
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


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        (".env", "TOKEN=hidden\n", None),
        ("id_rsa", "hidden\n", None),
        ("notes.txt", KEY + "hidden\n", None),
        ("settings.py", "b = 1\ntoken = 'AKIA" + "HIDDEN0HIDDEN0HI'\n", "b = 1\n"),
        ("binary", "\0\1\udcff" + "AKIA" + "HIDDEN0HIDDEN0HI\0", "\0\1"),
    ],
)
def test_what_looked_like_a_key_in_the_commit_is_left_out_and_said_so(repository, name, before, now):
    top, git = repository
    (top / name).write_bytes(os.fsencode(before))
    git("add", ".")
    git("commit", "-qm", "second")
    (top / "code.py").write_text("a = 14\n")
    (top / "gone.py").unlink()
    (top / name).unlink() if now is None else (top / name).write_text(now)
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch.startswith(f"# left out: {name}, it looks like a key".encode())
    assert patch.count(name.encode()) == 1
    assert b"hidden" not in patch.lower()
    assert b"a = 14" in patch
    assert b"-b = 1" in patch


def test_names_that_only_sound_like_keys_are_kept(repository):
    top, _ = repository
    for name in ("tokenizers.py", "keys.py", "secretary.py", "monkey.txt"):
        (top / name).write_text("c = 1\n")
    assert b"left out" not in provenance.patch(top, leave_out=top / "out")


def test_a_link_is_kept_as_one_and_nothing_of_what_it_leads_to(repository):
    top, git = repository
    (top / "data").mkdir()
    (top / "data/key.pem").write_text("hidden")
    (top / "to a file").symlink_to("code.py")
    git("add", "to a file", "data")
    git("commit", "-qm", "second")
    (top / "to a file").unlink()
    (top / "to a file").symlink_to("data")
    (top / "large").symlink_to("huge")
    with (top / "huge").open("wb") as file:
        file.truncate(2**40)
    (top / ".gitignore").write_text("huge")
    patch = provenance.patch(top, leave_out=top / "out")
    git("stash", "-q", "--include-untracked")
    subprocess.run(["git", "-C", top, "apply", "-"], input=patch, check=True)
    assert [os.readlink(top / name) for name in ("to a file", "large")] == ["data", "huge"]
    assert b"left out" not in patch
    assert b"hidden" not in patch


def test_a_repository_within_is_said_to_be_left_out_and_linked_into_a_worktree(repository, tmp_path_factory):
    top, git = repository
    inner = top / "inner"
    for step in (["init", "-q", inner], ["-C", inner, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *step], check=True)
    said = b"# left out: inner, it is a repository of its own\n"
    assert provenance.patch(top, leave_out=top / "out") == said
    git("add", "inner")
    git("commit", "-qm", "second")
    assert provenance.patch(top, leave_out=top / "out") == b""
    commit = provenance.git_state(top)["commit"]

    def filled(patch):
        with worktrees.checkout(top, commit, patch, tmp_path_factory.mktemp("room")) as code:
            notes = worktrees.fill(top, code, patch)
            assert (code / "inner").resolve() == inner
        assert inner.is_dir()
        return notes

    assert filled(b"") == []
    (inner / "new.py").write_text("a = 1\n")
    assert provenance.patch(top, leave_out=top / "out") == said
    assert filled(said) == ["inner was left out of the patch; it is taken as it is now"]
    # As it stands now it is not what that commit names, whatever the run has noted.
    assert filled(b"") == ["inner is a repository of its own; it is taken as it is now"]


def test_of_a_patch_that_is_huge_in_all_the_largest_files_are_left_out(repository, monkeypatch):
    top, git = repository
    monkeypatch.setattr(provenance, "MAX_PATCH_BYTES", 2000)
    for number in range(4):
        (top / f"part_{number}.txt").write_text("".join(f"{number} {line}\n" for line in range(200)))
    (top / "code.py").write_text("a = 3\n")
    patch = provenance.patch(top, leave_out=top / "out")
    assert len(worktrees.left_out_of(patch)) == 3
    assert "part_" in worktrees.left_out_of(patch)[0]
    assert len(patch) < 2400
    # What is small is what somebody wrote.
    git("stash", "-q", "--include-untracked")
    subprocess.run(["git", "-C", top, "apply", "-"], input=patch, check=True)
    assert (top / "code.py").read_text() == "a = 3\n"


def test_what_is_in_a_run_directory_is_no_code(repository):
    top, _ = repository
    for name in ("out/first", "out/second", "other"):
        (top / name / "checkpoints").mkdir(parents=True)
        (top / name / "checkpoints/state").write_text("large")
    for name in ("out/first", "out/second"):
        (top / name / directory.CONFIG).write_text("{}")
        (top / name / directory.STATUS).write_text("{}")
    assert provenance.patch(top, leave_out=top / "out/third").count(b"diff --git") == 1
    assert b"other/checkpoints/state" in provenance.patch(top, leave_out=top / "out/third")


def test_whether_the_tree_is_the_commit_is_said_without_what_the_run_leaves(repository, monkeypatch):
    top, git = repository
    git("config", "status.showUntrackedFiles", "no")
    monkeypatch.chdir(top)
    for name, dirty in (("clean", False), ("changed", True)):
        (top / name).mkdir()
        (top / name / directory.STATUS).write_text("{}")
        provenance.note(top / name, provenance.collect(fingerprint="", seed=0, manifests={}))
        assert files.read_json(top / name / directory.PROVENANCE)["git"]["dirty"] is dirty
        (top / name / directory.CONFIG).write_text("{}")
        (top / "new.py").write_text("a = 1\n")


def test_what_no_commit_says_is_named(repository, tmp_path_factory, monkeypatch):
    top, _ = repository
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.py").write_text("")
    # Our own code is that of another repository here.
    found = provenance.unrecorded(top, top / "code.py")
    assert [line.startswith("jaxkit itself is that of ") for line in found] == [True]
    assert provenance.unrecorded(top, elsewhere / "mine.py")[0].startswith(
        f"{elsewhere / 'mine.py'} is not in {top}"
    )
    assert provenance.unrecorded(elsewhere, elsewhere / "mine.py") == []
    ours = Path(provenance.__file__).parents[2]
    assert provenance.unrecorded(ours, ours / "experiments/image_classification.py") == []
    # One that git does not look into.
    (elsewhere / ".git").mkdir()
    said = provenance.unrecorded(elsewhere, elsewhere / "mine.py")
    assert said[0].startswith("the code of this run is not recorded, git says: fatal: not a git repository")
    empty = tmp_path_factory.mktemp("empty")
    subprocess.run(["git", "init", "-q", empty], check=True)
    assert provenance.git_state(empty) == {"error": "there is no commit yet"}


def test_what_cannot_be_read_is_left_out_and_said_so(repository, monkeypatch):
    top, _ = repository
    (top / "code.py").write_text("a = 7\n")
    (top / "closed").write_text("hidden")
    read = provenance.Path.read_bytes
    # For root, too.
    closed = lambda path: read(Path("/proc/self/mem") if path.name == "closed" else path)
    monkeypatch.setattr(provenance.Path, "read_bytes", closed)
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch.startswith(b"# left out: closed, it cannot be read\n")
    assert b"a = 7" in patch


def test_a_file_that_goes_away_meanwhile_takes_nothing_with_it(repository, monkeypatch):
    top, _ = repository
    (top / "code.py").write_text("a = 8\n")
    (top / ".code.py.swp").write_text("of an editor")
    whole = provenance._changed

    def changed(*arguments):
        found = whole(*arguments)
        (top / ".code.py.swp").unlink()
        return found

    monkeypatch.setattr(provenance, "_changed", changed)
    patch = provenance.patch(top, leave_out=top / "out")
    assert b"a = 8" in patch
    assert b"swp" not in patch


def test_a_file_in_the_place_of_a_directory_and_the_other_way_round(repository):
    top, git = repository
    (top / "code.py").unlink()
    (top / "code.py").mkdir()
    (top / "code.py/part.py").write_text("a = 9\n")
    patch = provenance.patch(top, leave_out=top / "out")
    git("stash", "-q", "--include-untracked")
    subprocess.run(["git", "-C", top, "apply", "-"], input=patch, check=True)
    assert (top / "code.py/part.py").read_text() == "a = 9\n"


def test_a_patch_that_git_cannot_make_is_said_to_be_missing(repository):
    top, git = repository
    (top / ".gitattributes").write_text("new.py filter=gone\n")
    git("config", "filter.gone.clean", "false")
    git("config", "filter.gone.required", "true")
    (top / "code.py").write_text("a = 10\n")
    (top / "new.py").write_text("a = 11\n")
    patch = provenance.patch(top, leave_out=top / "out")
    assert patch == b"# left out: all of the patch, git could not make it\n"
    assert worktrees.left_out_of(patch) == ["all of the patch"]


def test_how_a_user_likes_to_see_patches_is_no_part_of_them(repository):
    top, git = repository
    git("config", "diff.noprefix", "true")
    git("config", "diff.external", "false")
    (top / "code.py").write_text("a = 12\n")
    patch = provenance.patch(top, leave_out=top / "out")
    git("stash", "-q")
    subprocess.run(["git", "-C", top, "apply", "-p1", "-"], input=patch, check=True)
    assert (top / "code.py").read_text() == "a = 12\n"


def test_nothing_is_written_into_the_repository(repository):
    top, _ = repository
    objects = lambda: sorted(path for path in (top / ".git/objects").rglob("*") if path.is_file())
    before = objects()
    (top / "code.py").write_text("a = 13\n")
    assert b"a = 13" in provenance.patch(top, leave_out=top / "out")
    assert objects() == before


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
