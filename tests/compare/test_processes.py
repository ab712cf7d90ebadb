"""`blosam compare` as several processes on one folder: kills, Ctrl-C, and no run done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from blosam.compare.results import read_runs
from blosam.data.phantoms.write import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NAMES = [f"unet_k2_s{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "phantoms_chest"
    write_dataset("chest", folder, 6, size=64)
    return folder


def start(data: Path, out: Path, *more: str, seconds: str = "2") -> subprocess.Popen:
    words = [sys.executable, "-m", "blosam.cli", "compare", "--data", str(data), "--out", str(out)]
    words += ["--methods", "unet", "--shots", "2", "--seeds", "3", "--views", "2", "--image-size", "64"]
    words += ["--budget", seconds, "--max-steps", "1000000", "--device", "cpu", *more]
    # In a group of its own, as a shell starts it: Ctrl-C goes to the group.
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def claims(out: Path) -> list[str]:
    try:
        return sorted(os.listdir(out / ".claims"))
    except FileNotFoundError:
        return []


def living(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ends while we look
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def until(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def end(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code and the runs that it says it finished."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, re.findall(r"(unet_k2_s\d): test Dice", errors)


def stop(*processes: subprocess.Popen) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_two_commands_share_the_runs_and_one_finishes_what_a_killed_one_began(phantoms, tmp_path):
    first, second = start(phantoms, tmp_path), start(phantoms, tmp_path)
    try:
        until(lambda: len(claims(tmp_path)) == 2)  # both train
        first.kill()
        assert end(first) == (-signal.SIGKILL, [])
        code, done = end(second)
    finally:
        stop(first, second)
    assert code == 0 and sorted(done) == NAMES
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 3 * 6
    assert claims(tmp_path) == [] and (tmp_path / "report.html").is_file()


def test_two_commands_do_no_run_twice_and_both_leave_complete_tables(phantoms, tmp_path):
    processes = [start(phantoms, tmp_path, seconds="1"), start(phantoms, tmp_path, "--workers", "2", seconds="1")]
    try:
        ended = [end(process) for process in processes]
    finally:
        stop(*processes)
    assert [code for code, _ in ended] == [0, 0]
    assert sorted(ended[0][1] + ended[1][1]) == NAMES
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 3 * 6 and claims(tmp_path) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_everything_keeps_finished_runs_and_the_command_goes_on(phantoms, tmp_path, workers):
    process = start(phantoms, tmp_path, "--workers", workers)
    try:
        until(lambda: len(read_runs(tmp_path)) >= 1 and len(claims(tmp_path)) >= 1)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=200)
    finally:
        stop(process)
    assert process.returncode == 130
    assert "the same command goes on" in errors and "Traceback" not in errors
    kept = {f"unet_k2_s{run['seed']}" for run in read_runs(tmp_path)}
    assert claims(tmp_path) == [] and 1 <= len(kept) < 3
    until(lambda: not living(group=process.pid), 20)
    code, done = end(start(phantoms, tmp_path, "--workers", workers))
    assert code == 0 and sorted(done) == sorted(set(NAMES) - kept)


def test_a_killed_worker_costs_no_run(phantoms, tmp_path):
    process = start(phantoms, tmp_path, "--workers", "2")
    try:
        until(lambda: len(claims(tmp_path)) == 2)
        victim = json.loads((tmp_path / ".claims" / claims(tmp_path)[0]).read_text())["pid"]
        assert victim != process.pid and victim in living(group=process.pid)
        os.kill(victim, signal.SIGKILL)
        code, done = end(process)
    finally:
        stop(process)
    assert code == 0 and sorted(done) == NAMES and claims(tmp_path) == []
