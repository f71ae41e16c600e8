"""The command line: what a mistake prints, what help says, and the exit codes."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxkit import backends
from jaxkit.cli import planning
from jaxkit.errors import UsageError
from jaxkit.proofs import children
from jaxkit.runs import checkpoints, cursors, directory, record

TOP = Path(__file__).parent.parent.parent
EXPERIMENT = "experiments/image_classification.py"
# As small as the real thing gets: the digits, an mlp, no picture.
SMALL = [
    "--config=configs/digits.py:model=mlp",
    "--config.model.features=(16,)",
    "--config.num_steps=40",
    "--config.log_every=10",
    "--config.eval_every=20",
    "--config.checkpoint_every=20",
    "--config.picture=False",
]
# What is refused before data is read is refused with data that nobody may read.
UNOPENED = "--config.data.train.call=tests.runs.sources.unopened"


def main(*flags: str, capsys) -> tuple[int, str, str]:
    """The experiment in this process: exit code, output, errors."""
    import importlib.util

    from jaxkit import runs

    spec = importlib.util.spec_from_file_location("image_classification", TOP / EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as caught:
        runs.main(module.recipe, [EXPERIMENT, *flags])
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


MISTAKES = {
    "no config": ([], "there is no --config; write --config=configs/NAME.py (see --help)"),
    "unknown flag": (
        ["--config=configs/digits.py", "--workdri=x"],
        "there is no flag --workdri; did you mean '--workdir'? (see --help)",
    ),
    "flag without a value": (["--config=configs/digits.py", "--workdir="], "--workdir: has no value"),
    "a flag in the place of a value": (
        ["--config=configs/digits.py", "--workdir", "--allow-config-change=layout"],
        "--workdir: has no value; write --workdir=VALUE",
    ),
    "a switch with a value": (
        ["--config=configs/digits.py", "--debug=false"],
        "--debug: came 'false', but it takes no value; leave it out to turn it off",
    ),
    "a word too much": (["--config=configs/digits.py", "more"], "there is no place for more (see --help)"),
    "no such file": (["--config=configs/digit.py"], "there is no such file; did you mean"),
    "unknown key": ([*SMALL, "--config.optimizer.weight_decy=0"], "did you mean 'weight_decay'"),
    "wrong type": ([*SMALL, "--config.num_steps=ten"], "config.num_steps: came 'ten', wanted an int"),
    "unknown variant": (["--config=configs/digits.py:model=vgg"], "variant model: came 'vgg'"),
    "no such function": (
        [*SMALL, "--config.model.call=jaxkit.models.cnnn"],
        "did you mean 'cnn'",
    ),
    "unknown argument": (
        [*SMALL, "--config.model={'call': 'jaxkit.models.cnn', 'feature': 3, 'num_classes': 10}"],
        "config.model: jaxkit.models.cnn takes no argument 'feature'; did you mean 'features'?",
    ),
    "other classes than the data": (
        [*SMALL, "--config.model.num_classes=7"],
        "logits: came float32[128,7], wanted shape [batch, 10]",
    ),
    "batch over devices": (
        [*SMALL, "--config.batch_size=30", "--config.layout={'call': 'jaxkit.parallel.pmap', 'num_devices': 4}"],
        "config.batch_size: 30 does not divide over the 4 parts of config.layout; use a multiple of 4",
    ),
    "microbatches": (
        [*SMALL, "--config.microbatches=3"],
        "microbatches: 3 do not divide the batch of 128 that each device is given; change config.batch_size, or"
        " config.microbatches where the recipe has them from there",
    ),
    "more devices than there are": (
        [*SMALL, "--config.layout={'call': 'jaxkit.parallel.pmap', 'num_devices': 9}"],
        "num_devices: came 9, but there are 4 cpu devices",
    ),
    "no such split": (
        [*SMALL, "--config.data.test.split=tset"],
        "error: config.data.test: digits/tset: Unknown split",
    ),
    "label outside the classes": (
        [*SMALL, "--config.data.train.call=tests.runs.sources.mislabelled"],
        "error: config.data.train: mine/train: label: came 12 at example 7, wanted 0..9 (10 classes); correct the"
        " data, or the number of classes",
    ),
    "data that cannot be prepared": (
        ["--config=configs/mnist.py:model=mlp"],
        "(data_dir, JAXKIT_DATA, TFDS_DATA_DIR), and preparing it needs ",
    ),
    "an optimizer that is not called": (
        [*SMALL, "--config.optimizer={'function': 'optax.adamw', 'learning_rate': 0.1}"],
        "'functools.partial' object has no attribute 'init'; is a 'function' of the config meant as a 'call'?"
        " (in `optimizer = optax.chain(`)",
    ),
    "an augmentation that is not called": (
        [*SMALL, "--config.augment={'function': 'jaxkit.data.affine'}"],
        "error: update: affine() takes 0 positional arguments but 2 were given; is a 'function' of the config",
    ),
    "a loss of other shapes": (
        [*SMALL, "--config.loss={'function': 'optax.sigmoid_binary_cross_entropy'}"],
        "error: update: loss(float32[128,10], int32[128]): ",
    ),
    "an option that XLA has not": (
        [
            *SMALL,
            "--config.layout={'call': 'jaxkit.parallel.jit', 'compiler_options': {'xla_there_is_none': True}}",
        ],
        "error: compiler_options: came {'xla_there_is_none': True}: ",
    ),
    "the config of another experiment": (
        ["--config=configs/stdlib_gpt.py"],
        "'tokens'], but the experiment reads 'image'; is it the right experiment for this config?",
    ),
    "no steps a call": (
        [*SMALL, "--config.steps_per_call=0"],
        "config.steps_per_call: came 0, wanted an int >= 1, or None to choose",
    ),
    "half a step a call": ([*SMALL, "--config.steps_per_call=0.5"], "config.steps_per_call: came 0.5"),
    "negative steps": (
        [*SMALL, "--config.num_steps=-1"],
        "config.num_steps: came -1, wanted an int from 1 to",
    ),
}


def without_a_network(monkeypatch):
    def unresolved(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    if "prepared" in name:
        monkeypatch.setenv("JAXKIT_DATA", str(tmp_path / "data"))
        without_a_network(monkeypatch)
    flags, message = MISTAKES[name]
    flags = flags if "flag" in name else [*flags, f"--workdir={tmp_path / 'run'}"]
    code, out, err = main(*flags, capsys=capsys)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["JAXKIT_STEP_SECONDS", "JAXKIT_STOP_SECONDS"])
def test_a_setting_that_is_no_time_is_seen_before_anything_is_made(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    monkeypatch.setenv(name, "soon")
    code, out, err = main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)
    assert (code, out) == (2, "")
    assert err == f"error: {name}: came 'soon', wanted a number of seconds above 0\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(backends._accelerators(), reason="of a machine without one")
@pytest.mark.parametrize("platform", ["cuda", "nosuch"])
def test_devices_that_are_not_there_are_one_line(platform, tmp_path):
    told = subprocess.run(
        [sys.executable, EXPERIMENT, *SMALL, f"--workdir={tmp_path / 'run'}"],
        cwd=TOP,
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2
    assert f"error: JAX_PLATFORMS: came '{platform}', but jax finds no such device here" in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(capsys, monkeypatch):
    from jaxkit import runs

    monkeypatch.chdir(TOP)
    with pytest.raises(UsageError, match="there is no flag"):
        runs.main(lambda config: None, [EXPERIMENT, "--config=configs/digits.py", "--nothing", "--debug"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["shwo", "RUN"],
            "there is no verb 'shwo'; did you mean 'show'? There are: plan, data, sync, runs, show, ",
        ),
        (["plan", "X"], "jaxkit plan: the following arguments are required: --config (see jaxkit plan --help)"),
        (["plan", "X", "--cofnig=c.py"], "there is no flag --cofnig; did you mean '--config'? (see jaxkit plan"),
        (["show"], "jaxkit show: the following arguments are required: run (see jaxkit show --help)"),
        (["show", "a", "b"], "there is no place for b (see jaxkit show --help)"),
        (["show", "a", "-x"], "there is no flag -x (see jaxkit show --help)"),
        (["runs", "--jsn"], "there is no flag --jsn; did you mean '--json'? (see jaxkit runs --help)"),
        (["runs", "--limit=x"], "jaxkit runs: argument --limit: invalid int value: 'x' (see jaxkit runs --help)"),
        (["plan", "X", "--config=c.py", "--devices=0"], "--devices: came 0, wanted at least 1"),
        (
            ["show", "nowhere"],
            "nowhere: is no run directory (it has no config.json); `jaxkit runs DIR` lists those",
        ),
        (["--json", "runs"], "there is no flag --json (see jaxkit --help)"),
        ([], "jaxkit: the following arguments are required: VERB (see jaxkit --help)"),
    ],
)
def test_a_command_line_that_is_off_is_one_line(arguments, message, capsys):
    from jaxkit import cli

    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_the_nearest_experiment_is_named():
    with pytest.raises(UsageError, match=r"no such experiment; did you mean 'experiments/text_generation\.py'\?"):
        planning.recipe_of(Path("experiments/text_generatoin.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def recipe(:\n", "mine.py:1: SyntaxError: invalid syntax"),
        ("import nosuch\n", "mine.py: ModuleNotFoundError: No module named 'nosuch'"),
    ],
)
def test_an_experiment_that_cannot_be_imported_is_one_line(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        planning.recipe_of(tmp_path / "mine.py")


def test_debug_shows_the_traceback_of_the_tools_command_line_too():
    from jaxkit import cli

    with pytest.raises(UsageError, match="there is no verb 'shwo'"):
        cli.main(["shwo", "--debug"])


def test_help_lists_the_verbs_and_the_beginning_of_a_flag_will_do(tmp_path, capsys):
    from jaxkit import cli

    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for verb in ("plan", "data", "runs", "show", "compare", "report", "reproduce", "verify-resume", "replay"):
        assert f"\n    {verb}" in out
    (tmp_path / "--odd").mkdir()
    assert cli.main(["runs", "--js", "--", str(tmp_path / "--odd")]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_directory_without_permission_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    if os.getuid() == 0:
        # root may write anywhere: a file in the way is refused to root too.
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "run"
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        folder = tmp_path / "closed" / "run"
    code, _, err = main(*SMALL, UNOPENED, f"--workdir={folder}", capsys=capsys)
    assert code == 2
    assert err.startswith("error: workdir: ")
    assert err.count("\n") == 1


def test_a_link_to_nowhere_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    code, out, err = main(*SMALL, UNOPENED, f"--workdir={tmp_path / 'link'}", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: workdir: {tmp_path / 'link'} is a link to {tmp_path / 'nowhere'}, which is not")
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_that_may_not_be_written_is_one_line_to_whoever_may_not(tmp_path, capsys, monkeypatch):
    """Root may write anywhere, and is told here that it may not."""
    monkeypatch.chdir(TOP)
    whole = os.access
    monkeypatch.setattr(os, "access", lambda path, *mode: Path(path) != tmp_path and whole(path, *mode))
    code, out, err = main(*SMALL, UNOPENED, f"--workdir={tmp_path / 'deep/run'}", capsys=capsys)
    assert (code, out) == (2, "")
    assert err == f"error: workdir: no permission to write in {tmp_path}; choose another with --workdir=DIR\n"
    assert list(tmp_path.iterdir()) == []


def test_no_room_on_the_disk_is_seen_before_any_work(tmp_path, capsys, monkeypatch):
    import shutil

    monkeypatch.chdir(TOP)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("jaxkit.runs.checkpoints.shutil.disk_usage", lambda path: usage._replace(free=2**20))
    code, _, err = main(*SMALL, UNOPENED, f"--workdir={tmp_path / 'run'}", capsys=capsys)
    assert code == 2
    assert "the disk has 1.0 MiB free" in err
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_while_saving_leaves_the_older_checkpoint(tmp_path, capsys, monkeypatch):
    import errno

    from jaxkit.runs import checkpoints, files

    monkeypatch.chdir(TOP)
    whole = files.write_json

    def full(path, value):
        if path.name == checkpoints.MANIFEST and path.parent.name == "40":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, value)

    monkeypatch.setattr(files, "write_json", full)
    code, _, err = main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)
    assert code == 2
    assert "the disk is full" in err
    assert err.count("\n") == 1
    assert checkpoints.steps(tmp_path / "run/checkpoints") == [20]
    assert not (tmp_path / "run/checkpoints/40").exists()
    monkeypatch.setattr(files, "write_json", whole)
    code, _out, _ = main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)
    assert code == 0


def table(out: str) -> dict[str, str]:
    """What stands behind each name in the table of results."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return dict(rows)


def test_the_last_line_names_the_run_and_show_reads_it(tmp_path, capsys, monkeypatch):
    from jaxkit import cli

    monkeypatch.chdir(TOP)
    code, out, _ = main(*SMALL, f"--workdir={tmp_path / 'runs/one'}", capsys=capsys)
    assert code == 0
    run = out.rstrip().splitlines()[-1]
    assert run == str(tmp_path / "runs/one")
    assert cli.main(["show", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "finished"
    assert found["step"] == 40
    assert 0 <= found["evaluation"]["test"]["accuracy"] <= 1
    assert found["timing"]["to_first_step"] > 0
    assert len(found["fingerprint"]) == len(found["params_sha256"]) == 64
    of_test, timing = found["evaluation"]["test"], found["timing"]
    wanted = {
        "loss": f"{of_test['loss']:.4f}",
        "accuracy": f"{of_test['accuracy']:.4f}",
        "calibration ece": f"{of_test['calibration']['ece']:.4f}",
        "steps/s": f"{timing['steps_per_second']:,.1f}",
        "time to first step, s": f"{timing['to_first_step']:,.1f}",
    }
    assert table(out).items() >= wanted.items()
    assert cli.main(["show", run]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert cli.main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == [run]
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0
    assert "finished" in capsys.readouterr().out


def test_without_a_workdir_a_run_is_named_after_its_experiment_its_config_and_what_is_in_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config, *rest = SMALL
    flags = [config.replace("configs/", f"{TOP}/configs/"), *rest, "--config.num_steps=20"]
    code, out, _ = main(*flags, capsys=capsys)
    assert code == 0
    (run,) = Path("runs").iterdir()
    fingerprint = json.loads((run / "provenance.json").read_text())["fingerprint"]
    assert str(run) == out.splitlines()[-1] == f"runs/image_classification-digits-{fingerprint[:8]}"
    # The same command finds it.
    assert "This run is finished." in main(*flags, capsys=capsys)[1]


def test_provenance_says_what_was_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    assert main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)[0] == 0
    found = json.loads((tmp_path / "run/provenance.json").read_text())
    assert found["packages"]["jax"]
    assert found["seed"] == 0
    assert found["devices"][0] == "cpu:cpu"
    assert len(found["data"]["train"]["sha256"]) == 64
    assert found["data"]["train"]["size"] == 1437
    assert found["form"]["steps_per_call"] == 10
    assert "SECRET" not in json.dumps(found)
    assert found["fingerprint"] == json.loads((tmp_path / "run/provenance.json").read_text())["fingerprint"]


@pytest.mark.parametrize(
    "arguments", [["show", "/nowhere"], ["runs", "/nowhere"], ["plan", "/nowhere.py", "--config=x.py"]]
)
def test_the_verbs_explain_mistakes_in_one_line(arguments, capsys):
    from jaxkit import cli

    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_plan_counts_what_can_be_counted_by_hand():
    # An mlp from 64 pixels over 16 to 10: 64*16 + 16 + 16*10 + 10 = 1210 parameters of 4 bytes.
    command = [sys.executable, "-m", "jaxkit.cli", "plan", EXPERIMENT, *SMALL, "--json"]
    done = subprocess.run(command, check=True, cwd=TOP, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["parameters"] == 1210
    assert found["parameter_bytes"] == 4840
    # 128 images of 64 bytes, and their labels of 4 bytes each.
    assert found["batch_bytes"] == 128 * 64 + 128 * 4
    # Forward 2 FLOPs a weight and example; backward the same for the weights, and for the hidden layer's inputs.
    products = 2 * 128 * (2 * 64 * 16 + 3 * 16 * 10)
    assert products <= found["flops_per_step"] <= 3 * products


TINY_GPT = [
    "--config=configs/gpt2_124m.py",
    "--config.batch_size=4",
    "--config.model.model={'call': 'jaxkit.models.transformer', 'vocabulary_size': 32, 'max_length': 16,"
    " 'num_layers': 1, 'num_heads': 2, 'features': 8, 'attention': 'auto'}",
    "--config.loss={'function': 'jaxkit.losses.cross_entropy'}",
    *(
        f"--config.data.{split}.{name}"
        for split in ("train", "test")
        for name in ("vocabulary_size=32", "length=16")
    ),
]


def test_plan_says_for_which_backend_its_numbers_and_notes_are(capsys, monkeypatch):
    import jax

    from jaxkit import cli

    monkeypatch.chdir(TOP)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "path", [*sys.path])
    # As many devices as this process has had from its start.
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    arguments = ["plan", "experiments/text_generation.py", *TINY_GPT, "--device=h200"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == "cpu"
    assert found["notes"] == ["attention by xla: the backend is cpu: cuDNN needs a GPU"]
    # By cuDNN the scores would not be held, so it may take less than that.
    assert found["memory_per_device"]["upper_bound"] is found["floor_seconds"]["fits"] is True
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out
    for words in (
        "FLOPs in matmuls and convolutions, as traced for a CPU",
        "(as compiled for a CPU)",
        "an upper bound: attention holds its scores in this program, and by cuDNN on a GPU it would not",
        "its memory: fits (both by the program for a CPU)",
        "cuDNN needs a GPU (for a CPU; a run says what holds for its own devices)",
    ):
        assert words in lines
    # Where it was asked for by name it would be the same on a GPU.
    assert cli.main([*arguments, "--config.model.model.attention=xla"]) == 0
    assert "upper bound" not in capsys.readouterr().out


@pytest.mark.slow
def test_plan_says_of_a_billion_parameters_what_a_device_keeps_and_does_without_them():
    command = """
import resource, sys
from jaxkit import cli
code = cli.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
    experiment = ["experiments/text_generation.py", "--config=configs/llama_1b.py:layout=fsdp"]
    flags = ["--devices=8", "--shardings", "--device=h200", "--json"]
    arguments = [sys.executable, "-c", command, "plan", *experiment, *flags]
    done = subprocess.run(arguments, check=True, cwd=TOP, capture_output=True, text=True)
    found = json.loads(done.stdout)
    # Parameters, both moments of AdamW and what is compiled, on one device 15 GB. In KiB.
    assert int(done.stderr.splitlines()[-1]) < 4 * 2**20
    assert (found["parameters"], found["num_devices"]) == (1_235_814_400, 8)
    rows = {row["path"]: row for row in found["shardings"]}
    # 16 layers of 2048 x 8192 float32, of which each of 8 devices keeps an eighth of the longest axis.
    up = {
        "dtype": "float32",
        "shape": [16, 2048, 8192],
        "sharding": "- - fsdp",
        "bytes_per_device": 16 * 2**21 * 4,
    }
    assert rows["params.blocks.mlp.up.kernel"] == {"path": "params.blocks.mlp.up.kernel", **up}
    scale = rows["params.norm.scale"]
    assert (scale["shape"], scale["sharding"], scale["bytes_per_device"]) == ([2048], "whole", 8192)
    # Of 8 sequences one, 4,096 positions of 2,048 bfloat16: what a block hands to the next.
    [handed] = [row for row in found["activations"] if row["path"] == "batch length features"]
    assert (handed["sharding"], handed["bytes_per_device"]) == ("data+fsdp - -", 4096 * 2048 * 2)
    memory = found["memory_per_device"]
    # Beside the state: of 8 sequences one, of 4,097 tokens. Without dropout there is no use for the key.
    assert memory["arguments"] == sum(row["bytes_per_device"] for row in rows.values()) + 4097 * 4
    assert memory["total"] == (memory["arguments"] + memory["outputs"] - memory["aliases"] + memory["temporaries"])
    # An H200 does 989e12 operations a second and moves 4.8e12 bytes.
    work, traffic = found["flops_per_step"] / 8 / 989e12, (memory["arguments"] + memory["outputs"]) / 4.8e12
    floor = found["floor_seconds"]
    assert (floor["device"], floor["fits"]) == ("h200", memory["total"] <= 141e9)
    assert floor["seconds"] == pytest.approx(max(work, traffic), rel=1e-12)


@pytest.mark.slow
def test_compiled_programs_are_kept_for_the_next_start_by_what_they_are_compiled_with(tmp_path):
    """Without the settings of conftest.py: as a user has it."""
    unset = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(TOP)}

    code = """
from jaxkit import runs
from tests.runs import blobs
runs.main(lambda config: blobs.recipe(config)._replace(picture=None))
"""

    def kept(run: str, flag: str) -> set[str]:
        """The programs that are there after a new run, started with a flag of XLA."""
        short = ["--config.layout={'call': 'jaxkit.parallel.jit'}", "--config.num_steps=1"]
        flags = ["--config=tests/runs/blobs_config.py", f"--workdir={tmp_path / run}", *short]
        command = [sys.executable, "-c", code, *flags]
        subprocess.run(command, check=True, cwd=TOP, env={**environment, "XLA_FLAGS": flag}, capture_output=True)
        programs = (tmp_path / "cache/jaxkit/programs").iterdir()
        return {path.name for path in programs if path.name.endswith("-cache")}

    first = kept("a", "--xla_backend_optimization_level=0")
    assert len(first) > 1
    assert kept("b", "--xla_backend_optimization_level=0") == first
    others = kept("c", "--xla_backend_optimization_level=1") - first
    assert len(others) == len(first)


STOPS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def unharmed():
    """A signal that nobody handles is a failure, and not the end of all tests."""
    before = {number: signal.signal(number, lambda *_: pytest.fail("came through")) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_who_is_asked_to_stop_before_the_first_step_says_try_again(number, capsys, monkeypatch, unharmed):
    from jaxkit import runs

    monkeypatch.chdir(TOP)
    with pytest.raises(SystemExit) as caught:
        runs.main(lambda config: os.kill(os.getpid(), number), [EXPERIMENT, *SMALL])
    assert caught.value.code == 75
    assert capsys.readouterr().err == "interrupted; start the same command again\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [*STOPS, signal.SIGINT])
@pytest.mark.parametrize("where", ["recipe", "begins"])
def test_what_python_drops_of_being_asked_to_stop_is_noted(where, number, tmp_path, capsys, monkeypatch, unharmed):
    """An exception in a callback of the garbage collector goes nowhere; jax has such a callback."""
    from jaxkit.data import opening
    from jaxkit.runs import leading

    def ask(phase, info):
        os.kill(os.getpid(), number)

    def asked(*arguments, **named):
        gc.callbacks.append(ask)
        gc.collect()
        gc.callbacks.remove(ask)
        return whole(*arguments, **named)

    monkeypatch.chdir(TOP)
    place, name = (opening, "opened") if where == "recipe" else (leading.feeding, "choose_form")
    whole = getattr(place, name)
    monkeypatch.setattr(place, name, asked)
    code, _, err = main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)
    assert code == 75
    assert "Traceback" not in err
    monkeypatch.undo()
    monkeypatch.chdir(TOP)
    assert main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)[0] == 0


def test_who_is_asked_to_stop_after_the_last_step_says_try_again(tmp_path, capsys, monkeypatch, unharmed):
    from jaxkit.runs import digest, directory

    monkeypatch.chdir(TOP)
    with monkeypatch.context() as patch:
        patch.setattr(digest, "sha256", lambda params: os.kill(os.getpid(), signal.SIGTERM))
        assert main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)[0] == 75
    assert directory.status(tmp_path / "run")["status"] == "interrupted"
    assert main(*SMALL, f"--workdir={tmp_path / 'run'}", capsys=capsys)[0] == 0


def test_ctrl_c_saves_and_spares_the_writers_until_all_rows_are_sent(tmp_path):
    """A terminal sends it to the whole group, once; the process of the writers is in another."""
    run, sent = tmp_path / "run", tmp_path / "sent"
    command = [sys.executable, "tests/runs/blobs.py", "--config=tests/runs/blobs_config.py", f"--workdir={run}"]
    command += [f"--config.{name}=1000000" for name in ("num_steps", "eval_every", "checkpoint_every")]
    command += ["--config.layout={'call': 'jaxkit.parallel.jit'}", "--config.log_every=10"]
    # Behind some 30 steps it waits for the writer: of a million it would have many rows to send.
    command += ["--config.in_memory=False"]
    command += [f"--config.writers=({{'call': 'reporting.lines', 'path': '{sent}'}},)"]
    # Where the signal is ignored, as in the background of a shell, a child would ignore it too.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    log = tmp_path / "log"
    try:
        waits = {"BLOBS_HANG_AFTER": "30", "BLOBS_HANG_UNTIL": str(sent)}
        environment = children.environment() | {"BLOBS_ALONE": "0.1"} | waits
        with children.started(command, log=log, environment=environment, directory=TOP) as process:
            while not sent.exists():
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(120) == 75, log.read_text()
    finally:
        signal.signal(signal.SIGINT, ignored)
    stands, steps = directory.status(run), [row["step"] for row in record.read(run / directory.METRICS)]
    assert stands["status"] == "interrupted"
    # The rows of whole intervals, and a checkpoint of the step that it was in.
    assert steps == list(range(10, stands["step"] + 1, 10))
    assert checkpoints.steps(run / directory.CHECKPOINTS) == [stands["step"]]
    assert "the same command goes on from there" in log.read_text()
    assert "warning" not in log.read_text()
    assert [json.loads(line)[0] for line in sent.read_text().splitlines()] == steps
    (task,) = cursors.tasks(directory.read_config(run).writers)
    cursor = cursors.read(run, task)
    assert (cursor.step, cursor.closed, cursor.error) == (steps[-1], True, None)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, EXPERIMENT, *SMALL, f"--workdir={tmp_path / 'run'}"]
    command += ["--config.num_steps=100000000", "--config.checkpoint_every=100000000"]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True)
    record = tmp_path / "run/metrics.jsonl"
    try:
        while not record.exists() or not record.read_text():
            assert process.poll() is None
            signal.sigtimedwait([], 0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    finally:
        children.kill(process)
    assert process.returncode == 75
    assert "the same command goes on" in out
    command = [sys.executable, "-m", "jaxkit.cli", "show", str(tmp_path / "run"), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["status"] == "interrupted"
    assert found["step"] > 0
