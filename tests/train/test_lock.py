import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from jaxgen.errors import ConfigError
from jaxgen.train import lock

ROOT = pathlib.Path(__file__).parents[2]
HOLDS = textwrap.dedent(
    """
    import pathlib, sys, time
    from jaxgen.train import lock
    with lock.hold(pathlib.Path(sys.argv[1])):
        print("holds", flush=True)
        time.sleep(300)
    """
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path / "w"."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", HOLDS, str(tmp_path / "w")]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout.readline() == "holds\n"
    yield child
    child.kill()
    child.communicate()


def test_another_process_is_told_who_holds_it(tmp_path, other):
    with pytest.raises(lock.WorkdirInUse, match=f"process {other.pid} on .* since 2"):
        lock.hold(tmp_path / "w").__enter__()
    assert issubclass(lock.WorkdirInUse, ConfigError)  # exit code 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_blocks_nobody(tmp_path, other, number):
    other.send_signal(number)
    other.wait()
    with lock.hold(tmp_path / "w"):
        pass


def test_it_is_held_again_within_a_process_and_leaves_nothing(tmp_path):
    workdir = tmp_path / "new"
    with lock.hold(workdir):
        with lock.hold(workdir):
            assert (workdir / lock.NAME).exists()
        assert (workdir / lock.NAME).exists()
    assert not workdir.exists()


def test_a_script_ends_in_one_line(tmp_path, other):
    code = HOLDS.replace("time.sleep(300)", "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w")],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: workdir is")


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    import fcntl

    def none(file, kind):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock.hold(tmp_path):
        assert "no locks here" in caplog.text


def test_a_workdir_below_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a folder that can be made"):
        lock.hold(tmp_path / "file" / "below").__enter__()
