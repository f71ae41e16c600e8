"""The index of runs is a cache: whatever happens to it or to the runs, what is listed is what is there."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxkit.runs import directory, index

NUMBER = 3_000


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Run directories by the thousand, without waiting for a disk; settled, as if of an hour ago."""
    top = tmp_path_factory.mktemp("template") / "runs"
    then = 1_700_000_000
    for number in range(NUMBER):
        run = top / (f"group-{number % 7}/run-{number}" if number % 3 else f"run-{number}")
        (run / "evaluation").mkdir(parents=True)
        texts = {
            "config.json": json.dumps({"num_steps": 9, "seed": number}),
            "status.json": json.dumps({"status": "finished", "step": 9, "timing": {}}),
            "metrics.jsonl": json.dumps({"step": 9, "wall": then, "loss": number, "digest": "0"}) + "\n",
            "evaluation/test.json": json.dumps({"metrics": {"accuracy": number / NUMBER}}),
        }
        for name, text in texts.items():
            (run / name).write_text(text)
    return top


@pytest.fixture
def few(tmp_path, made):
    for name in ("a", "b", "group/c"):
        made(tmp_path / name)
    return tmp_path


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """What was written just now counts as long ago, but for the test of that."""
    monkeypatch.setattr(index, "_SECONDS_TO_SETTLE", -3600.0)


@pytest.fixture
def reads(monkeypatch):
    """The runs that were read, not remembered."""
    found: list[str] = []
    whole = index._entry
    monkeypatch.setattr(index, "_entry", lambda place: found.append(place.name) or whole(place))
    return found


def seeds(top: Path) -> dict[str, int]:
    return {entry["name"]: entry["config"]["seed"] for entry in index.runs(top)}


def test_thousands_are_read_once_and_then_only_what_changes(template, reads):
    wanted = seeds(template)
    assert len(wanted) == len(reads) == NUMBER
    assert all(name.endswith(f"run-{seed}") for name, seed in wanted.items())
    reads.clear()
    assert seeds(template) == wanted
    assert reads == []
    (template / "run-0/config.json").write_text(json.dumps({"num_steps": 9, "seed": 12345}))
    shutil.rmtree(template / "run-3")
    shutil.copytree(template / "run-6", template / "group-1/new")
    found = seeds(template)
    assert reads == ["group-1/new", "run-0"]
    assert found == {name: seed for name, seed in wanted.items() if name != "run-3"} | {
        "run-0": 12345,
        "group-1/new": 6,
    }
    with sqlite3.connect(template / index.NAME) as kept:
        assert kept.execute("SELECT count(*) FROM runs").fetchone() == (NUMBER,)
    kept.close()


@pytest.mark.parametrize(
    "name", ["config.json", "status.json", "metrics.jsonl", "provenance.json", "evaluation/test.json"]
)
def test_a_change_of_any_file_is_seen_even_with_its_size_and_time_kept(few, reads, name):
    index.runs(few)
    reads.clear()
    path = few / "a" / name
    stat, text = path.stat(), path.read_text()
    path.write_text(text.replace("0.9", "0.8").replace("fingerprint", "fingerpaint"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    index.runs(few)
    assert reads == ["a"]


def test_what_was_written_a_moment_ago_is_not_remembered(few, reads, monkeypatch):
    monkeypatch.setattr(index, "_SECONDS_TO_SETTLE", 3600.0)
    index.runs(few)
    index.runs(few)
    assert reads == ["a", "b", "group/c"] * 2
    assert not (few / index.NAME).exists()


DAMAGE = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"\x00garbage" * 1000,
    "torn": lambda content: content[: len(content) // 2],
    "a flipped byte in an entry": lambda content: content.replace(b'"seed": 0', b'"seed": 7'),
    "a broken page": lambda content: content[:4096] + b"\xff" * 4096 + content[8192:],
    "another version": lambda content: content[:60] + (77).to_bytes(4, "big") + content[64:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_afresh_without_a_word(few, reads, command, damage):
    listed = lambda: command("runs", few, "--columns=run,status,config.seed")
    wanted = listed()
    path = few / index.NAME
    content = path.read_bytes()
    changed = DAMAGE[damage](content)
    assert changed != content
    path.write_bytes(changed)
    assert listed() == wanted
    reads.clear()
    assert listed() == wanted
    assert reads == []


def test_another_table_under_its_name_is_made_afresh(few, reads):
    wanted = index.runs(few)
    with sqlite3.connect(few / index.NAME) as other:
        other.executescript("DROP TABLE runs; CREATE TABLE runs (x)")
    other.close()
    assert index.runs(few) == wanted
    reads.clear()
    assert index.runs(few) == wanted
    assert reads == []


def test_a_link_under_its_name_leads_to_what_is_left_alone(few, reads, tmp_path_factory):
    """Runs from elsewhere may bring one, and a tracker's database has a table called runs, too."""
    theirs = tmp_path_factory.mktemp("elsewhere") / "tracker.db"
    with contextlib.closing(sqlite3.connect(theirs)) as database, database:
        database.execute("CREATE TABLE runs (mine TEXT)")
    before = theirs.read_bytes()
    (few / index.NAME).symlink_to(theirs)
    assert [list(seeds(few)), list(seeds(few))] == [["a", "b", "group/c"]] * 2
    assert theirs.read_bytes() == before
    assert reads == ["a", "b", "group/c"]


def test_where_none_can_be_written_the_runs_are_listed_without(few, command):
    wanted = command("runs", few)
    (few / index.NAME).unlink()
    (few / index.NAME).mkdir()
    assert command("runs", few) == wanted


@pytest.mark.skipif(os.getuid() != 0, reason="root may become somebody who may not write")
def test_a_directory_that_may_only_be_read_is_listed_and_left_alone(few):
    # Whatever the umask is, everybody may read.
    for path in (few, *few.rglob("*")):
        os.chmod(path, 0o755)
    code = (
        "import os, sys; from pathlib import Path; from jaxkit.runs import index; top = Path(sys.argv[1]);"
        " os.chdir(top); os.setuid(65534); print(len(index.runs(Path('.'))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(few)], check=True, capture_output=True, text=True)
    assert done.stdout == "3\n"
    assert not (few / index.NAME).exists()


def test_many_at_once_agree(few, made):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.runs(few), range(24)))
    assert all(each == found[0] for each in found)
    assert [entry["name"] for entry in index.runs(few)] == ["a", "b", "group/c"]


def test_while_another_process_holds_the_lock_the_runs_are_listed(few, monkeypatch):
    monkeypatch.setattr(index, "_SECONDS_FOR_THE_LOCK", 0.05)
    wanted = index.runs(few)
    holder = sqlite3.connect(few / index.NAME, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert index.runs(few) == wanted
    holder.execute("ROLLBACK")
    holder.close()


def test_one_that_runs_is_seen_to_end_without_a_change_of_its_files(few, made):
    from jaxkit import configs

    status = json.loads((few / "a/status.json").read_text())
    (few / "a/status.json").write_text(json.dumps({**status, "status": "running"}))
    stands = lambda: {entry["name"]: entry["summary"]["status"] for entry in index.runs(few)}["a"]
    assert stands() == "interrupted"
    config = configs.from_json((few / "a/config.json").read_text())
    with directory.claim(few / "a", config, "blobs"):
        assert stands() == "running"
    assert stands() == "interrupted"


def test_a_name_that_is_no_text_is_listed(few, command):
    shutil.copytree(few / "a", os.fsdecode(os.fsencode(few) + b"/\xff"))
    for _ in range(2):
        code, out, _ = command("runs", few)
        assert code == 0
        assert "\ufffd" in out
    assert len(index._load(few / index.NAME)[0]) == 3


def test_what_lies_in_a_run_or_too_deep_or_hidden_is_no_run(few, made):
    # As a hand puts it there.
    made(few / "copy")
    (few / "a/checkpoints").mkdir(exist_ok=True)
    shutil.move(few / "copy", few / "a/checkpoints/copy")
    made(few / ".trash/run")
    made(few / "1/2/3")
    made(few / "1/2/x/4")
    assert [entry["name"] for entry in index.runs(few)] == ["1/2/3", "a", "b", "group/c"]
