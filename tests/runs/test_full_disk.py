"""A disk that is really full, or may not be written: a small file system in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A file system of 4 MiB in memory, in a mount namespace of the process that runs in it."""
    disk = tmp_path_factory.mktemp("disk")
    alone = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    mount = ["sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"', str(disk)]
    # As root, but what the modes of files refuse is refused.
    mount += ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    try:
        subprocess.run([*alone, *mount, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    order = [*alone, *mount, sys.executable, "-m", "tests.runs.full_disk", str(disk)]
    done = subprocess.run(order, check=True, cwd=TOP, stdout=subprocess.PIPE, text=True)
    assert list(disk.iterdir()) == []
    return json.loads(done.stdout)


def test_a_disk_that_is_really_full_leaves_the_older_checkpoint_and_the_run_goes_on(found):
    code, error = found["full"]
    assert code == 2
    assert error.startswith("error: ")
    assert "the disk is full" in error
    assert "free some room and start the same command again" in error
    assert error.count("\n") == 1
    assert found["left"] == {"8": None}
    assert found["names"] == ["8"]
    assert found["again"] == [0, ""]
    assert found["steps"] == list(range(1, 17))


@pytest.mark.parametrize("closed", ["read-only", "folders", "files"])
def test_a_run_that_may_not_be_written_is_refused_in_one_line_and_nothing_is_lost(found, closed):
    """Also to root; the full disk's test sees that it goes on afterwards."""
    code, error, unchanged = found["closed"][closed]
    assert code == 2
    assert error.startswith("error: ")
    assert "no permission (/" in error
    assert error.endswith("; change that, or choose another place\n")
    assert error.count("\n") == 1
    assert unchanged
