"""Two real processes of jax.distributed: signals, locks and damaged checkpoints reach both of them."""

import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import processes

PROGRAM = pathlib.Path(__file__).with_name("program.py")


def start(workdir, steps, count=2):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = processes.environment() | {"PYTHONPATH": str(PROGRAM.parents[2])}
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(i), str(count), str(port), str(workdir), str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for i in range(count)
    ]


def finish(children):
    said = [c.communicate(timeout=200) for c in children]
    return [out for out, _ in said], [err for _, err in said]


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(r["run"], r["step"], r["loss"]) for r in map(json.loads, lines)]


def wait_for_row(workdir, run, step):
    for _ in range(1000):
        if (workdir / "metrics.jsonl").exists() and any(
            (r, s) == (run, step) for r, s, _ in rows(workdir)
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} did not come to step {step}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    children = start(workdir, 120)
    finish(children)
    assert [c.returncode for c in children] == [0, 0]
    return rows(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "who"), [("first", (0, 1)), ("first", (1,)), ("second", (0,))])
def test_sigterm_stops_all_at_one_step(tmp_path, straight, who, run):
    children = start(tmp_path, 120)
    wait_for_row(tmp_path, run, 20)
    for i in who:
        children[i].send_signal(signal.SIGTERM)
    out, err = finish(children)
    assert [c.returncode for c in children] == [0, 0], err
    steps = {re.search(rf"^{run}: SIGTERM, saved step (\d+)$", text, re.M).group(1) for text in out}
    assert len(steps) == 1, out
    step = steps.pop()
    assert 20 < int(step) < 120
    assert (tmp_path / "checkpoints" / run / step).is_dir()
    again = start(tmp_path, 120)
    _, err = finish(again)
    assert [c.returncode for c in again] == [0, 0], err
    assert rows(tmp_path) == straight


@pytest.mark.slow
def test_a_second_launch_is_told_in_every_process(tmp_path):
    first = start(tmp_path, 400)
    wait_for_row(tmp_path, "first", 3)
    second = start(tmp_path, 400)
    out, _ = finish(second)
    assert [c.returncode for c in second] == [2, 2]
    assert all("a workdir that no other launch uses" in text for text in out), out
    for c in first:
        c.kill()
    finish(first)
    third = start(tmp_path, 10)  # not blocked by what the killed one left
    _, err = finish(third)
    assert [c.returncode for c in third] == [0, 0], err


@pytest.mark.slow
def test_a_damaged_step_is_passed_over_by_all(tmp_path):
    finish(start(tmp_path, 100))
    for file in (tmp_path / "checkpoints" / "first" / "100").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    again = start(tmp_path, 110)
    _, err = finish(again)
    assert [c.returncode for c in again] == [0, 0], err
    assert (tmp_path / "checkpoints" / "first" / "unreadable-100").is_dir()
    assert [s for r, s, _ in rows(tmp_path) if r == "first"] == list(range(1, 111))
