"""The runs that remain, handed out one by one, with what other processes do in the same folder in mind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from blosam.atomicio import atomic_write
from blosam.compare.claims import Claims, Ticket
from blosam.compare.options import Job

CLAIMS = ".claims"  # folder in that of the results
POLL = 1.0  # seconds between two looks at runs that other processes carry out


class Ended(NamedTuple):
    """A run that is over.

    Args:
        job: the run.
        error: why it failed; empty when it succeeded.
    """

    job: Job
    error: str = ""


class Turn(NamedTuple):
    """A run that may be tried now.

    Args:
        job: the run.
        ticket: the right to claim it.
        note: state of its failure note when the command began.
    """

    job: Job
    ticket: Ticket
    note: int | None = None


class Queue:
    """Runs of one command that are not over.

    Args:
        out: folder of the comparison.
        jobs: the runs, in order.
        settings: for each method, text that changes with anything its runs depend on.
    """

    def __init__(self, out: Path, jobs: Iterable[Job], settings: Mapping[str, str]) -> None:
        self.out = out
        self.claims = Claims(out / CLAIMS)
        self._settings = settings
        self._waiting = list(jobs)
        # A note that is new or changed was written by another process, which tried that run in our place.
        self._notes = {job: _changed(failure_path(out, job)) for job in self._waiting}
        self._ended: list[Ended] = []

    def __bool__(self) -> bool:
        """Whether runs wait, free or in the hands of other processes."""
        return bool(self._waiting)

    def next(self) -> Turn | None:
        """The first run that nobody carries out, taken from the queue; None when there is none at the moment."""
        for job in list(self._waiting):
            if self._ended_elsewhere(job):
                continue
            ticket = self.claims.look(job.name, self._settings[job.method])
            if ticket is not None:
                self._waiting.remove(job)
                return Turn(job, ticket, self._notes[job])
        return None

    def put_back(self, job: Job, last: bool = False) -> None:
        """Let a run wait again, before or after all others."""
        self._waiting.insert(len(self._waiting) if last else 0, job)

    def ended_elsewhere(self) -> Iterator[Ended]:
        """Runs that other processes were found to have ended."""
        while self._ended:
            yield self._ended.pop(0)

    def _ended_elsewhere(self, job: Job) -> bool:
        if not _is_over(self.out, job, self._notes[job]):
            return False
        self._waiting.remove(job)
        error = "" if run_path(self.out, job).is_file() else _note(failure_path(self.out, job))
        self._ended.append(Ended(job, error))
        return True


def attempt(out: Path, turn: Turn, run: Callable[[Job], str]) -> Ended | None:
    """Claim a run and carry it out in this process.

    Args:
        out: folder of the comparison.
        turn: from :meth:`Queue.next`.
        run: carries it out; gives the reason when it failed, else an empty text.

    Returns:
        None when another process was faster.
    """
    claim = Claims(out / CLAIMS).take(turn.ticket)
    if claim is None:
        return None
    with claim:
        if _is_over(out, turn.job, turn.note):
            return None
        return Ended(turn.job, run(turn.job))


def _is_over(out: Path, job: Job, note: int | None) -> bool:
    """Whether a process has ended the run since the failure note was in that state."""
    now = _changed(failure_path(out, job))
    return run_path(out, job).is_file() or (now is not None and now != note)


def run_path(out: Path, job: Job) -> Path:
    """File of a finished run."""
    return out / "runs" / f"{job.name}.json"


def failure_path(out: Path, job: Job) -> Path:
    """Note that a run failed."""
    return out / "runs" / f"{job.name}.failed.txt"


def note_failure(out: Path, job: Job, reason: str) -> str:
    """Write the note; returns the reason in one line."""
    reason = " ".join(reason.split())
    with atomic_write(failure_path(out, job), "w") as file:
        file.write(reason + "\n")
    return reason


def _note(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "another process noted a failure and removed the note"


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
