"""`jaxkit reproduce`: a run is run again from its directory alone; what was changed since is found and named."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jaxkit import cli, configs
from jaxkit.proofs import children, comparing, reproducing, worktrees
from jaxkit.runs import directory, files

HERE = Path(__file__).parent
FLAGS = ["--config=configs/crash_config.py", "--config.num_steps=8", "--config.eval_every=8"]


def git(top: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-C", str(top), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with an experiment that reads an ignored file, and a run of it with an uncommitted change."""
    top = tmp_path_factory.mktemp("repository").resolve()
    git(top, "init", "-q")
    (top / "work/configs").mkdir(parents=True)
    text = (HERE / "crash.py").read_text()
    seed = "rng = np.random.default_rng(0)"
    assert seed in text
    text = text.replace(seed, 'rng = np.random.default_rng(int(open("data/seed").read()))')
    (top / "work/crash.py").write_text(text)
    shutil.copy(HERE / "crash_config.py", top / "work/configs")
    (top / ".gitignore").write_text("/work/data/\n/work/runs/\n__pycache__/\n")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    (top / "work/data").mkdir()
    (top / "work/data/seed").write_text("0")
    # What the commit does not say.
    (top / "work/crash.py").write_text(text.replace("nn.Dropout(0.3", "nn.Dropout(0.25"))
    command = [sys.executable, "crash.py", *FLAGS, "--workdir=runs/one"]
    start = functools.partial(
        subprocess.run, check=True, cwd=top / "work", capture_output=True, env=children.environment()
    )
    start(command)
    # One that was made longer: its first end is at a step of which it would not have a row.
    longer = [*command[:-1], "--workdir=runs/longer"]
    start([*longer, "--config.num_steps=7"])
    start([*longer, "--config.num_steps=10", "--allow-config-change=num_steps"])
    # The tree goes on; the run is what it was.
    (top / "work/crash.py").write_text("raise SystemExit('this is no experiment any more')\n")
    return top


@pytest.fixture
def run(repository, tmp_path, monkeypatch):
    """A copy of the run, to be changed behind its back; the command is given in its repository."""
    monkeypatch.chdir(repository / "work")
    return shutil.copytree(repository / "work/runs/one", tmp_path / "one")


def change(run: Path, **changes) -> None:
    noted = files.read_json(run / directory.PROVENANCE)
    files.write_json(run / directory.PROVENANCE, {**noted, **changes})


def refused(run: Path, capsys, *flags: str) -> str:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as caught:
        cli.main(["reproduce", str(run), "--allow=crash", *flags])
    assert caught.value.code == 2
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_the_recorded_code_config_and_data_give_the_same_bits(run, repository, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    noted = files.read_json(run / directory.PROVENANCE)
    # Four pretended devices for this process, and two for what is run again.
    assert "device_count=4" in noted["environment"]["XLA_FLAGS"]
    flags = noted["environment"]["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    change(
        run,
        packages={**noted["packages"], "jax": "0.1.2"},
        python="3.99",
        platform="another",
        devices=["cpu:cpu"] * 4,
        driver="7",
        environment={**noted["environment"], "XLA_FLAGS": flags, "CUDA_VISIBLE_DEVICES": "5"},
    )
    assert cli.main(["reproduce", str(run), "--allow=crash", f"--keep={tmp_path / 'again'}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "runs work/crash.py with" in out[0]
    assert f"code of commit {git(repository, 'rev-parse', 'HEAD')[:12]} and" in out[0]
    assert "dirty.patch (work/crash.py)" in out[0]
    # What is here is not what was recorded, and that is said first; flags are set as they were.
    beginnings = ("jax: recorded 0.1.2", "python: recorded 3.99", "platform: recorded another")
    for line, beginning in zip(out[1:4], beginnings):
        assert line.startswith(f"environment: {beginning}, here ")
    assert out[4] == f"environment: devices: recorded {['cpu:cpu'] * 4}, here {['cpu:cpu'] * 2}"
    assert out[5].startswith("environment: driver: recorded 7, here ")
    assert out[6] == "environment: CUDA_VISIBLE_DEVICES: recorded 5, here none"
    assert len([line for line in out if line.startswith("environment: ")]) == 6
    again = files.read_json(tmp_path / "again" / directory.PROVENANCE)
    assert again["environment"]["XLA_FLAGS"] == flags
    assert again["devices"] == ["cpu:cpu"] * 2
    assert out[-1].startswith("identical: 8 of 8 steps, bit for bit (4 rows, ")
    assert comparing.compare(run, tmp_path / "again").identical
    assert git(repository, "worktree", "list").count("\n") == 1


def test_a_run_that_was_made_longer_is_run_in_the_same_pieces(repository, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(repository / "work")
    run = shutil.copytree(repository / "work/runs/longer", tmp_path / "longer")
    assert cli.main(["reproduce", str(run), "--allow=crash"]) == 0
    out = capsys.readouterr().out
    assert "config: the run had come to its end at step 7 and was made longer" in out
    assert out.splitlines()[-1].startswith("identical: 10 of 10 steps, bit for bit (6 rows, ")
    # A quick look ends in the first piece.
    assert cli.main(["reproduce", str(run), "--allow=crash", "--steps=4"]) == 0
    assert "identical: 4 of 4 steps" in capsys.readouterr().out
    # Of a config that was changed before an end, the last one is run, and that is said.
    first = files.read_json(run / directory.PROVENANCE)["config_changes"][0]
    change(run, config_changes=[{**first, "before": {**first["before"], "num_steps": 9}}])
    assert cli.main(["reproduce", str(run), "--allow=crash"]) == 1
    assert "config: it was changed while the run was under way" in capsys.readouterr().out
    change(run, config_changes=[{**first, "before": {**first["before"], "seed": 9}}])
    assert "before step 7 stands a config that the run was never started with" in refused(run, capsys)
    change(run, config_changes=[{**first, "before": {**first["before"], "loss": {"call": "os.system"}}}])
    refused(run, capsys)


def test_changed_code_is_named_with_the_step_and_the_array_after_a_quick_look(run, repository, capsys):
    patch = run / "dirty.patch"
    patch.write_text(patch.read_text().replace("Dropout(0.25", "Dropout(0.20"))
    assert cli.main(["reproduce", str(run), "--allow=crash", "--steps=5", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "different"
    assert "dirty.patch is not the patch that was recorded" in found["notes"][0]
    # Every second step is recorded, so the first row that has seen step 5 is that of step 6.
    assert (found["agreed"], found["steps"], found["rows"]) == (0, 6, 3)
    assert found["differences"][0].startswith("step 2: ")
    arrays = [line for line in found["differences"] if line.startswith("checkpoint 4: state.params.")]
    assert arrays
    assert "(relative " in arrays[0]
    assert git(repository, "worktree", "list").count("\n") == 1


def test_other_data_is_refused_and_named(run, repository, capsys):
    (repository / "work/data/seed").write_text("1")
    try:
        error = refused(run, capsys)
    finally:
        (repository / "work/data/seed").write_text("0")
    assert "config.data.train: is not the data that this run was started with: sha256: recorded" in error
    assert git(repository, "worktree", "list").count("\n") == 1


def test_a_changed_config_is_refused(run, capsys):
    config = configs.replace(directory.read_config(run), {"optimizer.learning_rate": 0.02})
    files.write_text(run / directory.CONFIG, configs.to_json(config))
    assert "is not the config that the run was run with: fingerprint recorded" in refused(run, capsys)


def test_a_changed_record_is_refused(run, capsys):
    rows = [json.loads(line) for line in (run / directory.METRICS).read_text().splitlines()]
    rows[1]["loss"] *= 0.9
    (run / directory.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "metrics.jsonl: rows up to step 8 are missing or changed" in refused(run, capsys)


def test_a_config_that_calls_elsewhere_is_refused(run, capsys):
    config = configs.freeze({**directory.read_config(run), "loss": {"function": "os.system"}})
    files.write_text(run / directory.CONFIG, configs.to_json(config))
    change(run, fingerprint=configs.fingerprint(config))
    assert "config.loss.function: 'os.system' is outside what this config may call" in refused(run, capsys)


CHANGES = {
    "no such commit": ({"git": {"commit": "0" * 40}}, "has no commit 0000"),
    "a flag for a commit": ({"git": {"commit": "--upload-pack=x"}}, "has no commit --upload-pack=x"),
    "a file elsewhere": ({"experiment": "/etc/../tmp/x.py"}, "x.py is no file of the recorded code"),
    "a directory elsewhere": (
        {"git": {"directory": "../.."}},
        "was started in ../.., which the recorded code does not have",
    ),
    "a file elsewhere, without a commit": ({"git": {}, "experiment": __file__}, "and the run noted no commit"),
    "a command that is none": ({"command": 5}, "command: came 5, wanted list"),
    "an experiment that is none": ({"experiment": ["x.py"]}, "experiment: came ['x.py'], wanted str"),
    "no experiment": ({"experiment": "elsewhere.py"}, "experiment: elsewhere.py is no file of the recorded code"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_run_again_is_one_line(run, capsys, name):
    changes, message = CHANGES[name]
    noted = files.read_json(run / directory.PROVENANCE)
    merged = {key: {**noted[key], **value} if key == "git" and value else value for key, value in changes.items()}
    change(run, **merged)
    assert message in refused(run, capsys)


def test_a_patch_that_does_not_fit_is_one_line(run, capsys, repository):
    text = (run / "dirty.patch").read_text()
    (run / "dirty.patch").write_text(text.replace("Dense(2)", "Dense(3)"))
    assert "the patch of the run does not fit its commit" in refused(run, capsys)
    assert git(repository, "worktree", "list").count("\n") == 1


def test_flags_and_directories_that_make_no_sense_are_one_line(run, capsys, tmp_path):
    assert "--steps: came 0, wanted at least 1" in refused(run, capsys, "--steps=0")
    assert "is there already" in refused(run, capsys, f"--keep={tmp_path}")
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl: rows up to step " in refused(run, capsys)
    shutil.rmtree(run / "checkpoints")
    assert "has recorded no step yet" in refused(run, capsys)
    (run / directory.PROVENANCE).unlink()
    assert "has no provenance.json" in refused(run, capsys)
    (run / directory.CONFIG).unlink()
    assert "is no run directory" in refused(run, capsys)


def test_what_a_killed_reproduction_left_behind_is_removed_by_the_next(repository):
    script = (
        "import subprocess, sys, time; from pathlib import Path; from jaxkit.proofs import worktrees as w\n"
        "with w.room() as top, w.checkout(Path('.'), sys.argv[1], b'', top) as code:\n"
        "    child = subprocess.Popen(['sleep', '3600'], process_group=0); w.note_child(top, child.pid)\n"
        "    print(code, child.pid, flush=True); time.sleep(3600)\n"
    )
    commit = git(repository, "rev-parse", "HEAD").strip()
    command = [sys.executable, "-c", script, commit]
    environment = children.environment()
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline().split()
        code, child = Path(line[0]), psutil.Process(int(line[1]))
        try:
            # It lives, so its worktree is left alone; data that git ignores is there.
            worktrees.sweep(repository)
            assert (code / "work/crash.py").is_file()
            assert (code / "work/data/seed").read_text() == "0"
        finally:
            process.kill()
    assert code.exists()
    assert child.is_running()
    worktrees.sweep(repository)
    assert not code.parent.exists()
    # Nobody is left to wait for it but the first process of all.
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE or not child.wait(60)
    assert git(repository, "worktree", "list").count("\n") == 1
    assert (repository / "work/data/seed").read_text() == "0"


def test_what_was_too_large_for_the_patch_is_said():
    patch = b"# left out: big, name.npy, more than 10485760 bytes\ndiff --git a/x y.py b/x y.py\n"
    assert worktrees.left_out_of(patch) == ["big, name.npy"]
    assert worktrees.files_of(patch) == ["x y.py"]


def test_no_more_is_claimed_than_was_seen():
    seen = comparing.Comparison(4, 20, 40, None, 0, (comparing.Difference("step 30", "loss", "", 1e-5),), 1e-5)
    assert reproducing.verdict(seen) == "within tolerance"
    assert reproducing.verdict(seen._replace(largest=2e-3)) == "different"
    assert reproducing.verdict(seen._replace(differences=(), largest=0.0)) == "bits"
    # Nothing was compared: nothing is claimed.
    assert reproducing.verdict(comparing.Comparison(0, 0, 0, None, 0, (), 0.0)) == "different"
