"""The queue and the two ways through it, with other processes that take, end and lose runs."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import pytest

from blosam.compare import jobqueue, schedule
from blosam.compare.jobqueue import Ended, Queue, attempt, failure_path, note_failure, run_path
from blosam.compare.options import Job
from blosam.compare.schedule import carry_out

JOBS = [Job("blo-sam", 2, 0), Job("unet", 2, 0), Job("ssp", 2, 0)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(jobqueue, "POLL", 0.02)
    monkeypatch.setattr(schedule, "POLL", 0.02)


def queue(out: Path) -> Queue:
    return Queue(out, JOBS, dict.fromkeys(("blo-sam", "unet", "ssp"), "settings"))


def finish(out: Path, job: Job) -> str:
    run_path(out, job).parent.mkdir(parents=True, exist_ok=True)
    with open(run_path(out, job), "a") as file:
        file.write(f"{os.getpid()}\n")
    return ""


def work(out: Path, turn, device: str, deadly: tuple[str, ...] = (), marks: Path | None = None):
    """Writes the result of a run; ends its own process for the methods that are deadly, once or always."""
    method = turn.job.method
    if method in deadly:
        mark = out / f"died-{method}"
        if not mark.exists() or "always" in deadly:
            mark.write_text("")
            with Queue(out, [], {}).claims.take(turn.ticket):
                os.kill(os.getpid(), signal.SIGKILL)
    return attempt(out, turn, functools.partial(finish, out))


@pytest.mark.parametrize("slots", [["cpu"], pytest.param(["cpu", "cpu"], marks=pytest.mark.slow)])
def test_every_run_is_carried_out_once_and_nothing_is_left(tmp_path, slots):
    ended = list(carry_out(queue(tmp_path), slots, functools.partial(work, tmp_path)))
    assert sorted(ended) == sorted(Ended(job) for job in JOBS)
    assert [len(run_path(tmp_path, job).read_text().splitlines()) for job in JOBS] == [1, 1, 1]
    assert not (tmp_path / ".claims").exists()


def test_runs_of_others_are_waited_for_and_counted_as_theirs(tmp_path):
    ours, theirs = queue(tmp_path), queue(tmp_path)
    turns = [theirs.next(), theirs.next()]
    claims = [theirs.claims.take(turn.ticket) for turn in turns]
    going = carry_out(ours, ["cpu"], functools.partial(work, tmp_path))
    assert next(going) == Ended(JOBS[2])
    finish(tmp_path, JOBS[0])
    claims[0].release()
    assert next(going) == Ended(JOBS[0])
    note_failure(tmp_path, JOBS[1], "out of\n memory")
    claims[1].release()
    assert list(going) == [Ended(JOBS[1], "out of memory")]


def test_an_old_failure_is_tried_again_by_one_process_only(tmp_path):
    note_failure(tmp_path, JOBS[0], "an hour ago")
    os.utime(failure_path(tmp_path, JOBS[0]), (1, 1))
    ours, theirs = queue(tmp_path), queue(tmp_path)
    turn, late = ours.next(), theirs.next()
    assert turn.job == late.job == JOBS[0]
    assert attempt(tmp_path, turn, lambda job: note_failure(tmp_path, job, "again")) == Ended(JOBS[0], "again")
    assert attempt(tmp_path, late, lambda job: pytest.fail("tried twice")) is None
    theirs.put_back(late.job)
    assert theirs.next().job == JOBS[1] and list(theirs.ended_elsewhere()) == [Ended(JOBS[0], "again")]


def test_a_run_that_was_claimed_after_the_look_is_left_to_the_other(tmp_path):
    first, second = queue(tmp_path), queue(tmp_path)
    turn, late = first.next(), second.next()
    assert attempt(tmp_path, turn, functools.partial(finish, tmp_path)) == Ended(JOBS[0])
    assert attempt(tmp_path, late, lambda job: pytest.fail("twice")) is None  # the result is there by now


@pytest.mark.slow
def test_a_killed_worker_costs_no_run(tmp_path):
    going = carry_out(queue(tmp_path), ["cpu", "cpu"], functools.partial(work, tmp_path, deadly=("blo-sam",)))
    ended = list(going)
    assert sorted(ended) == sorted(Ended(job) for job in JOBS)
    assert (tmp_path / "died-blo-sam").exists() and not (tmp_path / ".claims").exists()


@pytest.mark.slow
def test_a_run_that_kills_its_process_twice_has_failed(tmp_path):
    deadly = functools.partial(work, tmp_path, deadly=("unet", "always"))
    ended = dict(carry_out(queue(tmp_path), ["cpu", "cpu"], deadly))
    assert ended[JOBS[0]] == ended[JOBS[2]] == "" and "ended from outside" in ended[JOBS[1]]
    assert failure_path(tmp_path, JOBS[1]).read_text() == ended[JOBS[1]] + "\n"


def test_an_error_in_the_middle_releases_the_claim(tmp_path):
    def stopped(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(carry_out(queue(tmp_path), ["cpu"], lambda turn, device: attempt(tmp_path, turn, stopped)))
    assert not (tmp_path / ".claims").exists() and queue(tmp_path).next().job == JOBS[0]
