"""Tables: whole in a window that is wide enough, never with a number that is cut off in one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxkit import cli
from jaxkit.cli import tables

COLUMNS = ("metric", "A", "B", "B - A", "95 % interval", "p", "")
ROWS = [
    (
        "test/accuracy",
        "0.3032 ± 0.0091",
        "0.3026 ± 0.0093",
        "-0.0006053",
        "-0.0006625 to -0.000548",
        "0.00048",
        "",
    ),
    ("test/calibration.ece", "0.003923 ± 0.01", "0.001876 ± 0.002", "-0.002047", "", "", "without any spread"),
]


@pytest.mark.parametrize("width", [50, 80, 110, 130, 200])
def test_no_number_is_cut_off_whatever_the_window(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    tables.show(tables.table(COLUMNS, ROWS))
    out = capsys.readouterr().out
    for row in ROWS:
        for cell in row[1:-1]:
            assert cell in out
    # By rows where there is no room for columns.
    assert ("  B - A          -0.0006053" in out) == (width < 120)
    if width < 120:
        assert "metric: test/accuracy\n" in out


@pytest.mark.parametrize("how", ["PYTHONIOENCODING=ascii", "closed"])
def test_a_listing_survives_what_it_prints_to(how, tmp_path, made):
    made(tmp_path / "one")
    command = [sys.executable, "-m", "jaxkit.cli", "runs", str(tmp_path)]
    if how == "closed":
        command = ["sh", "-c", f"exec {' '.join(command)} >&-"]
    environment = {**os.environ, **(dict([how.split("=")]) if "=" in how else {})}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("one" in done.stdout) == (how != "closed")


def test_an_argument_may_be_below_the_home_directory(tmp_path, made, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "runs/one")
    assert cli.main(["report", "~/runs/one", "--output=~/page.html"]) == 0
    assert (tmp_path / "page.html").is_file()
    assert not Path("~").exists()
    with pytest.raises(SystemExit):
        cli.main(["show", "~nobody_of_this_name/one"])
    assert capsys.readouterr().err.startswith("error: ~nobody_of_this_name/one: ")
