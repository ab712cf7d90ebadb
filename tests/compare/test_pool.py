"""Worker processes: results, devices, deaths, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blosam.compare.pool import Lost, Pool
from blosam.errors import BlosamError


def work(task, device):
    """What the tests let workers do; imported by name in the worker."""
    kind, value = task
    if kind == "wait":
        Path(value).with_suffix(".begun").write_text(str(os.getpid()))
        try:
            while not Path(value).exists():
                time.sleep(0.01)
        finally:
            Path(value).with_suffix(".left").write_text("")
    if kind == "refuse":
        raise BlosamError("no")
    if kind == "bug":
        raise ZeroDivisionError
    return value, device, os.getpid()


def all_done(pool: Pool, count: int) -> list:
    found = []
    while len(found) < count:
        found += pool.done(60)
    return found


def appears(path: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and not (path.exists() and path.read_text()):
        time.sleep(0.01)
    return path.read_text()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")  # a container may have nobody who collects orphans that ended
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_tasks_go_to_the_device_of_a_free_worker_which_is_used_again(tmp_path):
    with Pool(work, ["cuda:0", "cuda:1"]) as pool:
        pool.start(("wait", str(tmp_path / "go")))
        pool.start(("give", 2))
        assert pool.busy == 2 and not pool.idle
        [(task, (value, device, pid))] = all_done(pool, 1)
        assert task == ("give", 2) and value == 2 and device == "cuda:1" and pool.idle
        pool.start(("give", 3))
        assert all_done(pool, 1) == [(("give", 3), (3, "cuda:1", pid))]
        (tmp_path / "go").write_text("")
        assert all_done(pool, 1)[0][1][1] == "cuda:0" and pool.busy == 0
    assert not is_alive(pid)


def test_a_killed_worker_is_told_and_replaced(tmp_path):
    with Pool(work, ["cpu"]) as pool:
        pool.start(("wait", str(tmp_path / "never")))
        os.kill(int(appears(tmp_path / "never.begun")), signal.SIGKILL)
        assert all_done(pool, 1) == [(("wait", str(tmp_path / "never")), Lost(-signal.SIGKILL))]
        pool.start(("give", 1))
        assert all_done(pool, 1)[0][1][0] == 1


def test_errors_for_the_user_are_raised_here_and_mistakes_stop_everything(capfd):
    with Pool(work, ["cpu"]) as pool:
        pool.start(("refuse", 0))
        with pytest.raises(BlosamError, match="no"):
            pool.done(60)
        pool.start(("bug", 0))
        with pytest.raises(RuntimeError, match="message is above"):
            pool.done(60)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_closing_ends_a_worker_in_the_middle_and_lets_it_clean_up(tmp_path):
    with Pool(work, ["cpu"]) as pool:
        pool.start(("wait", str(tmp_path / "never")))
        pid = int(appears(tmp_path / "never.begun"))
        assert pool.close() == [("wait", str(tmp_path / "never"))]
    assert not is_alive(pid) and (tmp_path / "never.left").exists()


def test_a_worker_without_its_parent_finishes_its_task_and_ends(tmp_path):
    program = "import sys, time; sys.path.insert(0, sys.argv[1]); import test_pool\n"
    program += "if __name__ == '__main__':\n    pool = test_pool.Pool(test_pool.work, ['cpu'])\n"
    program += "    pool.start(('wait', sys.argv[2]))\n    time.sleep(60)\n"
    script = tmp_path / "parent.py"
    script.write_text(program)
    words = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path / "go")]
    parent = subprocess.Popen(words)
    try:
        pid = int(appears(tmp_path / "go.begun"))
    finally:
        parent.kill()
        parent.wait()
    assert is_alive(pid) and not (tmp_path / "go.left").exists()
    (tmp_path / "go").write_text("")
    until = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(pid) and (tmp_path / "go.left").exists()
