"""Bad luck and hostile hands: nothing is lost, nothing half-written is read as whole, a mistake is one line."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jaxkit import cli, configs
from jaxkit.errors import UsageError
from jaxkit.runs import (
    checkpoints,
    compare,
    directory,
    evaluations,
    files,
    leading,
    record,
    saving,
    sending,
    verifying,
)

TOP = Path(__file__).parent.parent.parent
CONFIG = configs.freeze({"num_steps": 30, "seed": 0})
METRICS = {"accuracy": 0.5}


def tree(step: int) -> dict[str, np.ndarray]:
    return {"weights": np.arange(6, dtype=np.float32).reshape(2, 3) + step, "step": np.array(step, np.int32)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has everything a run leaves, written by what writes it, without training."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    with directory.claim(workdir, CONFIG, "blobs"):
        recorder = record.recorder(workdir / directory.METRICS, after=0)
        for step in (10, 20, 30):
            recorder.append(step, {"loss": 1 / step}, step)
            recorder.sync()
            checkpoints.save(workdir / directory.CHECKPOINTS, step, tree(step), noted=recorder.noted())
        recorder.close()
        (workdir / evaluations.EVALUATION).mkdir()
        files.write_json(workdir / "evaluation/test.json", {"split": "test", "step": 30, "metrics": METRICS})
        directory.set_status(workdir, status="finished", step=30, params_sha256="0" * 64, timing={"total": 1.0})
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A copy, to be damaged; beside a whole one."""
    shutil.copytree(finished, tmp_path / "runs/whole")
    return shutil.copytree(finished, tmp_path / "runs/run")


def restore(run: Path) -> tuple[int | None, list[str]]:
    """The step that is gone on from, and the warnings; what is restored is always what was saved."""
    warnings: list[str] = []
    found = checkpoints.restore(run / "checkpoints", tree(0), warnings.append)
    if found is None:
        return None, warnings
    step, values = found
    np.testing.assert_array_equal(values["weights"], tree(step)["weights"])
    return step, warnings


CONTENTS = {
    "empty": b"",
    "garbage": b"\x00\xff\xfe",
    "torn": b'{"status": "run',
    "a list": b"[]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "deep": b"[" * 100_000,
}
EDITS = {
    "status.json": [b'{"status": 7}', b'{"step": "many"}', b'{"step": null}', b'{"timing": null}'],
    "config.json": [b"{}", b'{"num_steps": "x"}'],
    "evaluation/test.json": [b"{}", b'{"metrics": [1]}'],
    "metrics.jsonl": [
        b"3\n",
        b'{"loss": 1}\n',
        b"\xff\n",
        b'{"step": "x", "digest": ""}\n',
        b"[" * 100_000 + b"\n",
    ],
}
DAMAGED = [
    *((name, content) for name in EDITS if name != "metrics.jsonl" for content in CONTENTS.values()),
    *((name, content) for name, contents in EDITS.items() for content in contents),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED, ids=lambda x: str(x)[:24])
def test_a_damaged_file_is_one_line_and_hides_no_other_run(run, capsys, name, content):
    (run / name).write_bytes(content)
    for arguments in (["show", str(run)], ["show", str(run), "--json"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert error.startswith(f"error: {run / name}: ")
        assert error.count("\n") == 1
    assert cli.main(["runs", str(run.parent)]) == 0
    assert "damaged" in capsys.readouterr().out
    assert cli.main(["runs", str(run.parent), "--json"]) == 0
    found = {Path(row["run"]).name: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert found == {"run": "damaged", "whole": "finished"}


@pytest.mark.parametrize("name", ["status.json", "evaluation/test.json", "config.json"])
def test_a_directory_in_the_place_of_a_file_is_one_line(run, capsys, name):
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(SystemExit) as caught:
        cli.main(["show", str(run)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["runs", str(run.parent)]) == 0


def test_a_missing_status_is_made_anew(run):
    (run / "status.json").unlink()
    assert directory.status(run)["status"] == "interrupted"


def test_a_run_that_goes_on_says_no_more_what_its_end_was(run):
    with directory.claim(run, CONFIG, "blobs") as claim:
        leading.begin(run, CONFIG, claim, {}, step=30)
    assert directory.summary(run)["params_sha256"] is None


def missing(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [missing, flipped, truncated])
def test_any_damage_to_any_file_of_a_checkpoint_is_seen(finished, tmp_path, damage):
    for path in sorted((finished / "checkpoints/30").rglob("*")):
        if not path.is_file():
            continue
        copy = tmp_path / "30"
        shutil.copytree(path.parents[len(path.relative_to(finished / "checkpoints/30").parts) - 1], copy)
        name = path.relative_to(finished / "checkpoints/30")
        damage(copy / name)
        # A manifest without its last newline, or with another letter in its digest, says the same.
        if name.name != checkpoints.MANIFEST:
            assert str(name) in (checkpoints.verify(copy) or ""), name
        elif damage is missing:
            assert checkpoints.steps(tmp_path) == []
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"files": [1]}', '{"step": 30, "files": {}}', '{"step": 30, "files": {"a": "b"}}'],
)
def test_a_manifest_of_something_else_is_passed_over(run, manifest):
    (run / "checkpoints/30/manifest.json").write_text(manifest)
    step, warnings = restore(run)
    assert step == 20
    assert "checkpoint 30 is damaged" in warnings[0]


@pytest.mark.parametrize("name", ["25", "300"])
def test_a_checkpoint_under_another_name_is_passed_over(run, name):
    (run / "checkpoints/30").rename(run / "checkpoints" / name)
    step, warnings = restore(run)
    assert step == 20
    assert "it is that of step 30" in warnings[0]


@pytest.mark.parametrize("name", ["030", "²", "30.old", "-1"])
def test_what_is_not_named_like_a_step_is_no_checkpoint(run, name):
    (run / "checkpoints/30").rename(run / "checkpoints" / name)
    assert checkpoints.steps(run / "checkpoints") == [20]
    assert restore(run) == (20, [])


def failing(monkeypatch, module, name: str, code: int, what: str) -> None:
    """Makes a function fail as the file system does, for a path with `what` in it."""
    whole = getattr(module, name)

    def fails(path, *arguments, **named):
        if what in Path(path).parts:
            raise OSError(code, os.strerror(code), str(path))
        return whole(path, *arguments, **named)

    monkeypatch.setattr(module, name, fails)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("where", ["a file", "the manifest", "the directory", "all checkpoints"])
def test_a_checkpoint_that_cannot_be_read_now_ends_the_start_and_nothing_is_lost(run, monkeypatch, code, where):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        module, name, what = {
            "a file": (verifying, "_hash", "30"),
            "the manifest": (os, "open", "manifest.json"),
            "the directory": (os, "stat", "manifest.json"),
            "all checkpoints": (os, "listdir", "checkpoints"),
        }[where]
        failing(patch, module, name, code, what)
        with pytest.raises(UsageError, match=rf"cannot be read \({os.strerror(code)}\), .*start the same command"):
            restore(run)
    assert restore(run) == (30, [])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_of_which_no_checkpoint_is_whole_is_not_started_over(run):
    for step in (20, 30):
        truncated(run / f"checkpoints/{step}/state-0.safetensors")
    with pytest.raises(
        UsageError, match=r"checkpoints: none .* is whole \(30: .*; 20: state-0.*move the directory away"
    ):
        restore(run)
    assert checkpoints.steps(run / "checkpoints") == [20, 30]
    shutil.move(run / "checkpoints", run.parent / "away")
    assert restore(run) == (None, [])


@pytest.mark.parametrize(("lost", "left"), [(30, 20), (20, 30)])
def test_a_checkpoint_that_lost_its_manifest_is_named_and_passed_over(run, lost, left):
    (run / f"checkpoints/{lost}/manifest.json").unlink()
    step, warnings = restore(run)
    assert step == left
    assert [warning.partition(":")[0] for warning in warnings] == [
        f"checkpoint {lost} has no manifest.json and is passed over"
    ]


def test_a_run_that_lost_all_its_manifests_is_not_started_over(run):
    for path in (run / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    missing = r"\(30: manifest.json is missing; 20: manifest.json is missing\)"
    with pytest.raises(UsageError, match=rf"none .* is whole {missing}; .* move the directory away"):
        restore(run)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for step in (20, 30):
        shutil.rmtree(run / f"checkpoints/{step}")
    with pytest.raises(UsageError, match=r"none of the checkpoints is whole \(all are gone\)"):
        restore(run)


DIES = """
import os, pathlib, signal, sys
import numpy as np
from jaxkit.runs import checkpoints, files
files.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(pathlib.Path(sys.argv[1]), 20, {"weights": np.zeros(3)})
"""


def test_a_run_that_was_killed_in_its_first_save_starts_over(tmp_path):
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", DIES, str(folder)], check=False, cwd=TOP)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in folder.rglob("*")] == ["20", "state-0.safetensors"]
    step, warnings = restore(tmp_path)
    assert step is None
    assert [warning[:13] for warning in warnings] == ["checkpoint 20"]
    # It began again, was asked to stop after another step, and killed in that save, too.
    shutil.copytree(folder / "20", folder / "7")
    assert restore(tmp_path)[0] is None
    checkpoints.save(folder, 20, tree(20))
    assert {path.name for path in folder.iterdir()} == {"20", "first"}
    # Killed before the note: the next save makes it.
    (folder / "first").unlink()
    assert restore(tmp_path)[0] == 20
    checkpoints.save(folder, 30, tree(30))
    assert (folder / "first").read_text() == "30\n"
    assert {path.name for path in folder.iterdir()} == {"20", "30", "first"}


def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(run):
    checkpoints.save(run / "checkpoints", 10, tree(10))
    shutil.rmtree(run / "checkpoints/20")
    truncated(run / "checkpoints/30/state-0.safetensors")
    assert restore(run)[0] == 10
    saver = saving.saver(run / "checkpoints", damaged=[30])
    # What was seen by nobody when the run was started is another's.
    shutil.copytree(run / "checkpoints/30", run / "checkpoints/60")
    for step, left in ((40, [10, 40, 60]), (50, [40, 50, 60])):
        saver.save(step, tree(step), {})
        saver.wait()
        assert checkpoints.steps(run / "checkpoints") == left


def test_a_checkpoint_that_was_damaged_counts_again_once_it_is_written_anew(run):
    truncated(run / "checkpoints/30/state-0.safetensors")
    saver = saving.saver(run / "checkpoints", damaged=[30])
    for step in (30, 40):
        saver.save(step, tree(step), {})
    saver.wait()
    assert checkpoints.steps(run / "checkpoints") == [30, 40]
    assert restore(run) == (40, [])


def test_what_a_kill_left_behind_goes_with_the_next_save(run, tmp_path):
    (run / "checkpoints/20/manifest.json").unlink()
    (run / "checkpoints/40").write_text("in the way")
    shutil.move(run / "checkpoints/30", tmp_path / "elsewhere")
    (run / "checkpoints/30").symlink_to(tmp_path / "elsewhere")
    checkpoints.save(run / "checkpoints", 40, tree(40))
    assert checkpoints.steps(run / "checkpoints") == [30, 40]
    checkpoints.save(run / "checkpoints", 50, tree(50))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["40", "50", "first"]
    # Of a link only the link goes.
    assert checkpoints.verify(tmp_path / "elsewhere") is not None
    assert (tmp_path / "elsewhere/state-0.safetensors").is_file()


def test_when_a_checkpoint_is_saved_all_names_on_the_way_to_it_are_on_the_disk(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), sync(file))
    )
    workdir = tmp_path / "run"
    with directory.claim(workdir, CONFIG, "blobs"):
        recorder = record.recorder(workdir / directory.METRICS, after=0)
        recorder.sync()
        synced.clear()
        checkpoints.save(workdir / directory.CHECKPOINTS, 10, tree(10), noted=recorder.noted())
        recorder.close()
    part, manifest = str(workdir / "checkpoints/10/state-0.safetensors"), str(workdir / "checkpoints/10/.manifest")
    assert synced[0] == part
    assert synced[1].startswith(manifest)
    assert synced[2:5] == [str(path) for path in (workdir / "checkpoints/10", workdir / "checkpoints", workdir)]


def test_a_full_disk_is_an_error_of_the_file_system(run, monkeypatch):
    usage = shutil.disk_usage(run)
    with monkeypatch.context() as patch:
        patch.setattr("jaxkit.runs.checkpoints.shutil.disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(OSError, match="No space left") as caught:
            checkpoints.save(run / "checkpoints", 40, tree(40))
        assert caught.value.errno == errno.ENOSPC
    assert restore(run) == (30, [])
    assert not (run / "checkpoints/40").exists()


def test_what_tensorstore_says_of_the_disk_is_an_error_of_the_file_system(run, monkeypatch):
    import orbax.checkpoint as ocp

    def fails(*arguments, **named):
        raise ValueError("RESOURCE_EXHAUSTED: Error opening [os_error_code='28']")

    monkeypatch.setattr(ocp.Checkpointer, "save", fails)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(run / "checkpoints", 40, tree(40), sharded=True)
    assert caught.value.errno == errno.ENOSPC
    assert restore(run) == (30, [])


def test_a_resumed_run_needs_room_only_for_what_is_not_there_yet(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(run)
    free = lambda path: usage._replace(free=2**21 + 2**20)
    monkeypatch.setattr("jaxkit.runs.checkpoints.shutil.disk_usage", free)
    # Room for one checkpoint of 2 MiB: enough beside the two that are kept, not for three.
    checkpoints.check_room(run, 2**21)
    with pytest.raises(UsageError, match=r"the disk has 3\.0 MiB free, .* take 7\.0 MiB"):
        checkpoints.check_room(tmp_path / "new", 2**21)


@pytest.mark.parametrize("left", [".status.json.0a1b2c3d", ".config.json.0a1b2c3d", "status.json", ".lock"])
def test_a_kill_while_the_directory_is_made_leaves_one_that_can_be_claimed(tmp_path, left):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).write_text("" if left == ".lock" else '{"status": "running"}')
    with directory.claim(tmp_path / "run", CONFIG, "blobs"):
        assert directory.is_run(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "status.json", "config.json"}


def test_half_written_files_go_when_the_run_goes_on(run):
    for name in (".metrics.jsonl.0a1b2c3d", "evaluation/.test.json.0a1b2c3d"):
        (run / name).write_text("{")
    with directory.claim(run, CONFIG, "blobs"):
        assert not [path for path in run.rglob("*") if files.is_temporary(path)]


def test_what_a_process_for_the_writers_is_writing_stays(run, monkeypatch):
    (run / "writers").mkdir()
    for name in (".status.json.0a1b2c3d", "writers/.csv.json.0a1b2c3d"):
        (run / name).write_text("{")
    # It was renamed between the look and the deletion.
    whole = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: (whole(path), whole(path, missing_ok)))
    with directory.claim(run, CONFIG, "blobs"):
        assert [path.name for path in run.rglob("*") if files.is_temporary(path)] == [".csv.json.0a1b2c3d"]
        monkeypatch.undo()


def test_looking_at_a_run_does_not_keep_it_from_starting(run, monkeypatch):
    # The timer may be late.
    monkeypatch.setattr(directory, "_SECONDS_FOR_THE_LOCK", 60.0)
    # Whoever asks whether a run is alive holds its lock, shared, for a moment.
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        try:
            with directory.claim(run, CONFIG, "blobs"):
                pass
        finally:
            timer.join()


def test_a_record_that_the_checkpoint_did_not_see_is_refused(run):
    noted = checkpoints.manifest(run / "checkpoints", 20)
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    changes = {
        "missing": "",
        "a row gone": rows[0],
        "the first row gone": rows[1] + rows[2],
        "a line broken": rows[0] + "{\n" + rows[2],
        "a value changed": rows[0].replace("0.1", "0.2") + rows[1] + rows[2],
    }
    for change in changes.values():
        (run / "metrics.jsonl").write_text(change)
        with pytest.raises(UsageError, match="rows up to step 20 are missing or changed"):
            record.beginning(run / "metrics.jsonl", after=20, noted=noted)
    # What an older jaxkit has noted is looked at too.
    del noted["record_sha256"]
    (run / "metrics.jsonl").write_text(changes["a row gone"])
    with pytest.raises(UsageError, match="rows up to step 20 are missing or changed"):
        record.beginning(run / "metrics.jsonl", after=20, noted=noted)
    (run / "metrics.jsonl").write_text("".join(rows))
    assert record.beginning(run / "metrics.jsonl", after=20, noted=noted).content.decode() == rows[0] + rows[1]


def test_what_a_resumed_run_notes_of_its_record_is_that_of_all_of_it(run):
    whole = (run / "metrics.jsonl").read_bytes()
    recorder = record.recorder(run / "metrics.jsonl", after=20)
    recorder.append(30, {"loss": 1 / 30, "é": 1.0}, 30, {"steps": 2.0})
    recorder.close()
    noted = recorder.noted()
    assert (run / "metrics.jsonl").read_bytes() != whole
    assert record.beginning(run / "metrics.jsonl", after=30, noted=noted).digest == noted["digest"]


@pytest.mark.parametrize("tail", ["", '{"step": 25, "lo', "\x00" * 50 + "\n", "null\n3\n"])
def test_what_comes_after_the_checkpoint_is_cut_off_whatever_it_is(run, tail):
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:2]) + tail)
    begun = record.beginning(run / "metrics.jsonl", after=20, noted=checkpoints.manifest(run / "checkpoints", 20))
    recorder = record.recorder(run / "metrics.jsonl", after=20, begun=begun)
    recorder.append(30, {"loss": 1 / 30}, 30)
    recorder.close()
    assert recorder.noted()["digest"] == json.loads(rows[2])["digest"]
    assert [row["step"] for row in record.read(run / "metrics.jsonl")] == [10, 20, 30]


def test_a_row_that_a_hand_has_changed_is_no_identical_one(run):
    rows = record.read(run / "metrics.jsonl")
    changed = [rows[0], {**rows[1], "loss": 0.5}, rows[2]]
    found = compare.record(rows, changed)
    assert (found["identical_rows"], found["up_to"]) == (1, 10)
    assert found["first"] == {"steps": [20, 20], "values": {"loss": [0.05, 0.5]}}
    # When it was written, and how fast it went, is beside it.
    assert compare.record(rows, [{**row, "wall": 0.0} for row in rows])["identical_rows"] == 3


@pytest.mark.parametrize("noted", [{"git": None}, {"git": 3}, {"git": {"commit": None}}, {}])
def test_a_run_without_a_commit_has_a_name_for_trackers_all_the_same(run, noted):
    files.write_json(run / directory.PROVENANCE, noted)
    assert sending.tags(run, CONFIG).keys() == {"experiment", "fingerprint", "directory"}


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x1b[2J"])
def test_a_directory_that_cannot_be_named_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="wanted a name that can be printed"):
        directory.check(tmp_path / name, CONFIG, "blobs")


def test_a_directory_may_be_called_anything_else(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "a b" / "é 雪 [red]x")
    assert cli.main(["show", str(run)]) == 0
    assert str(run) in capsys.readouterr().out
    assert cli.main(["runs", str(run.parent)]) == 0
    assert run.name in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_leaves_is_no_traceback(finished, flags):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "jaxkit.cli", "show", str(finished), *flags]
    done = subprocess.run(command, check=False, cwd=TOP, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert done.returncode == 1
    assert done.stderr == ""
