"""`jaxkit compare`: what two runs, and two groups of runs, differ in."""

import math
import re
import subprocess

import pytest

from jaxkit.runs import groups

DATA = {"train": {"name": "digits", "size": 3, "sha256": "aa"}}


def test_two_equal_runs_differ_in_nothing(tmp_path, made, asked, command):
    for name in "ab":
        made(tmp_path / name, provenance={"data": DATA, "python": "3.11"})
    found = asked("compare", tmp_path / "a", tmp_path / "b")
    assert found["config"] == []
    assert found["data"] == found["packages"] == found["environment"] == {}
    assert found["record"] == {"identical_rows": 4, "rows": [4, 4], "up_to": 40, "first": None}
    assert found["metrics"]["test/accuracy"] == [0.9, 0.9]
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "identical: 4 of 4 rows" in out


def test_every_difference_is_named_with_both_values(tmp_path, made, asked, command):
    a = {"data": DATA, "packages": {"jax": "0.10"}, "devices": ["cpu:cpu"], "environment": {}}
    b = {
        "data": {"train": {**DATA["train"], "size": 4, "sha256": "bb"}},
        "packages": {"jax": "0.11", "new": "1"},
        "devices": ["gpu:x", "gpu:x"],
        "environment": {"XLA_FLAGS": "--x"},
    }
    made(tmp_path / "a", provenance=a)
    losses = {10: 0.1, 20: 0.05, 30: 0.04, 40: 0.01}
    made(tmp_path / "b", provenance=b, changes={"optimizer.learning_rate": 1.0}, losses=losses, accuracy=0.9)
    found = asked("compare", tmp_path / "a", tmp_path / "b")
    assert found["config"] == [{"path": "optimizer.learning_rate", "a": "0.01", "b": "1.0"}]
    assert found["data"] == {"train": {"size": [3, 4], "sha256": ["aa", "bb"]}}
    assert found["packages"] == {"jax": ["0.10", "0.11"], "new": [None, "1"]}
    assert found["environment"] == {"devices": [["cpu:cpu"], ["gpu:x", "gpu:x"]], "$XLA_FLAGS": [None, "--x"]}
    assert found["record"]["up_to"] == 20
    assert found["record"]["first"] == {"steps": [30, 30], "values": {"loss": [1 / 30, 0.04]}}
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    for words in (
        "identical up to step 20, different at step 30: loss 0.03333 and 0.04",
        "0.11",
        "gpu:x",
        "sha256",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({20: 0.1, 40: 0.2}, "at other steps: 10 and 20"),
        ({10: 0.1, 20: 0.05}, "identical as far as both go, to step 20"),
        ({}, "one has no rows yet"),
    ],
)
def test_records_of_other_lengths_and_steps(tmp_path, made, command, losses, words):
    made(tmp_path / "a")
    made(tmp_path / "b", losses=losses)
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert words in out


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two commits, and a subdirectory that the command is given in."""
    top = tmp_path / "code"
    (top / "sub").mkdir(parents=True)
    git(top, "init", "-q")
    commits = []
    for text in ("one\n", "two\n"):
        (top / "model.py").write_text(text)
        git(top, "add", "model.py")
        git(top, "commit", "-qm", text)
        commits.append(git(top, "rev-parse", "HEAD"))
    monkeypatch.chdir(top / "sub")
    return top, commits


def state_of(top):
    return sorted(str(path) for path in top.rglob("*"))


def test_code_is_compared_as_it_ran_with_patches(tmp_path, made, asked, repository):
    top, (one, two) = repository
    git(top, "checkout", "-q", one)
    patches = []
    for text in ("two\n", "three\n"):
        (top / "model.py").write_text(text)
        patches.append(git(top, "diff") + "\n")
        git(top, "checkout", "-q", "--", "model.py")
    code = lambda commit, dirty: {"git": {"commit": commit, "dirty": dirty}}
    made(tmp_path / "one", provenance=code(one, False))
    made(tmp_path / "two", provenance=code(two, False))
    for name, patch in zip(("patched", "third"), patches):
        made(tmp_path / name, provenance=code(one, True))
        (tmp_path / name / "dirty.patch").write_text(patch)
    before = state_of(top)
    found = asked("compare", tmp_path / "one", tmp_path / "two")["code"]
    assert found["same"] is False
    assert "-one\n+two\n" in found["diff"]
    assert "model.py" in found["stat"]
    # The first commit with the patch on it is the second.
    assert asked("compare", tmp_path / "patched", tmp_path / "two")["code"]["same"] is True
    assert asked("compare", tmp_path / "patched", tmp_path / "one")["code"]["same"] is False
    # What git has never seen: the repository does not get it either.
    assert "-two\n+three\n" in asked("compare", tmp_path / "two", tmp_path / "third")["code"]["diff"]
    assert state_of(top) == before


@pytest.mark.parametrize("commit", [None, "--output=/tmp/x", "0" * 40])
def test_code_that_git_does_not_have_is_said(tmp_path, made, asked, command, repository, commit):
    made(tmp_path / "a", provenance={"git": {"commit": repository[1][0], "dirty": False}})
    made(tmp_path / "b", provenance={"git": {"commit": commit, "dirty": False}})
    found = asked("compare", tmp_path / "a", tmp_path / "b")["code"]
    assert found["same"] is None
    assert found["reason"]
    _, out, _ = command("compare", tmp_path / "a", tmp_path / "b")
    assert "None" not in next(line for line in out.splitlines() if line.startswith("code"))


def test_groups_with_the_same_seeds_are_paired(tmp_path, made, asked, command):
    accuracies = {"a": [0.90, 0.91, 0.92], "b": [0.93, 0.95, 0.94]}
    for group, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            changes = {"seed": seed, "optimizer.learning_rate": 0.1 if group == "b" else 0.01}
            made(tmp_path / f"{group}{seed}", changes=changes, accuracy=accuracy)
    # In another order: pairs are found by the seed.
    arguments = [
        tmp_path / "a0",
        tmp_path / "a1",
        tmp_path / "a2",
        "--with",
        *(tmp_path / f"b{n}" for n in (1, 0, 2)),
    ]
    found = asked("compare", *arguments)
    assert found["paired"] is True
    row = found["metrics"]["test/accuracy"]
    # The differences are 0.03, 0.04, 0.02: mean 0.03, standard error 0.01/sqrt(3), and t(2) at 97.5 % is 4.3027.
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert row["difference"] == pytest.approx(0.03)
    assert row["interval"] == pytest.approx([0.03 - half, 0.03 + half], abs=1e-6)
    # p of t = 0.03 / (0.01 / sqrt(3)) = 5.196 with 2 degrees: 1 - t / sqrt(t^2 + 2).
    t = 0.03 / (0.01 / math.sqrt(3))
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert [r["path"] for r in found["config"] if r["between"]] == ["optimizer.learning_rate"]
    assert [r["path"] for r in found["config"] if not r["between"]] == ["seed"]
    code, out, _ = command("compare", *arguments)
    assert code == 0
    for words in ("paired by seed", "too few to rely on", "config.optimizer.learning_rate"):
        assert words in out


def test_groups_that_were_made_with_other_things_are_told(tmp_path, made, asked, command):
    def origin(commit, jax, data):
        return {
            "git": {"commit": commit * 40},
            "packages": {"jax": jax, "numpy": "2.4"},
            "data": {"train": {"sha256": data * 64}},
        }

    for seed in (0, 1):
        made(tmp_path / f"a{seed}", changes={"seed": seed}, provenance=origin("a", "0.10.2", "c"))
        made(tmp_path / f"b{seed}", changes={"seed": seed}, provenance=origin("b", f"0.1{seed}.0", "c"))
    runs = [tmp_path / "a0", tmp_path / "a1", "--with", tmp_path / "b0", tmp_path / "b1"]
    found = {row["path"]: row for row in asked("compare", *runs)["origin"]}
    assert set(found) == {"code", "jax"}
    assert (found["code"]["a"], found["code"]["b"]) == (["a" * 12] * 2, ["b" * 12] * 2)
    assert found["jax"]["b"] == ["0.10.0", "0.11.0"]
    _, out, _ = command("compare", *runs)
    assert re.search(r"^jax +0\.10\.2 +0\.10\.0, 0\.11\.0$", out, re.MULTILINE)
    _, out, _ = command("compare", *runs[:3], *runs[:2])
    assert "all have the same code, data, packages and environment" in out


def test_code_of_a_run_that_was_resumed_with_other_code_is_not_compared(tmp_path, made, asked, repository):
    one, two = repository[1]
    start = lambda commit: {"git": {"commit": commit, "dirty": False}, "patch": {"sha256": "0", "bytes": 0}}
    made(tmp_path / "a", provenance={**start(one), "resumed": [start(one)]})
    made(tmp_path / "b", provenance={**start(one), "resumed": [start(two)]})
    assert asked("compare", tmp_path / "a", tmp_path / "a")["code"]["same"] is True
    found = asked("compare", tmp_path / "a", tmp_path / "b")["code"]
    assert (found["same"], found["reason"]) == (None, f"{tmp_path / 'b'} was resumed with other code")


def test_of_each_run_is_shown_what_it_has(three_rates, asked, command):
    (a, b, c), wanted = three_rates
    # Whichever comes first.
    for runs, order in (((a, b, "--with", c), (0, 1, 2)), ((c, "--with", b, a), (2, 1, 0))):
        found = {row["path"]: [*row["a"], *row["b"]] for row in asked("compare", *runs)["config"]}
        assert found == {path: [values[n] for n in order] for path, values in wanted.items()}
    assert "0.003, 0.001 absent" in " ".join(command("compare", a, b, "--with", c)[1].split())


def test_other_seeds_are_not_paired_and_welch_is_used():
    assert not groups.pairs([0, 1], [2, 3])
    found = groups.difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0], paired=False)
    # Variances 1 and 20/3: the squared error is 1/3 + 5/3 = 2; Welch's degrees 4 / ((1/9)/2 + (25/9)/3) = 4.0754.
    assert found["difference"] == 3.0
    low, high = found["interval"]
    assert (low + high) / 2 == pytest.approx(3.0)
    # t(4.0754) at 97.5 % lies between those of 4 and 5 degrees, 2.7764 and 2.5706.
    assert 2.5706 < (high - low) / 2 / math.sqrt(2) < 2.7764
    assert found["test"] == "Welch t"


@pytest.mark.parametrize(
    ("a", "b", "paired", "note"),
    [
        ([1.0], [2.0], True, "one run a side"),
        ([1.0, 1.0], [2.0, 2.0], False, "without any spread"),
        ([1.0, 2.0], [2.0, 3.0], True, "without any spread"),
        ([1.0, None], [None, 2.0], True, "only one side has it"),
        ([1.0, math.nan], [2.0, 3.0], False, "not finite in some run"),
        ([1.0, 2.0], [2.0, 4.0], True, "few runs"),
    ],
)
def test_what_so_few_runs_cannot_say_is_not_said(a, b, paired, note):
    found = groups.difference(a, b, paired=paired)
    assert note in found["note"]
    assert (found["p"] is None) == (note != "few runs")


@pytest.mark.parametrize("number", [1, 3])
def test_compare_wants_two_runs_or_two_groups(tmp_path, made, fails, number):
    runs = [made(tmp_path / str(n)) for n in range(number)]
    assert "--with" in fails("compare", *runs)


def test_a_group_with_a_run_that_is_not_finished_is_noted(tmp_path, made, asked):
    runs = [
        made(tmp_path / str(n), changes={"seed": n}, status="failed" if n == 3 else "finished") for n in range(4)
    ]
    found = asked("compare", *runs[:2], "--with", *runs[2:])
    assert found["paired"] is False
    assert any("3 is failed: step 40 of 40" in note for note in found["notes"])


def test_nan_is_compared_as_json_can_say_it(tmp_path, made, asked):
    a, b = (made(tmp_path / name, changes={"seed": n}, losses={10: math.nan}) for n, name in enumerate("ab"))
    for run in (a, b):
        (run / "evaluation/test.json").unlink()
    assert asked("compare", a, b)["metrics"]["loss"] == ["nan", "nan"]
    c, d = (made(tmp_path / name, changes={"seed": n}, losses={10: math.inf}) for n, name in enumerate("cd"))
    for run in (c, d):
        (run / "evaluation/test.json").unlink()
    found = asked("compare", a, b, "--with", c, d)
    assert found["metrics"]["loss"]["note"] == "not finite in some run"
