"""Going through the runs that remain: alone, or with worker processes on several devices."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from blosam.compare.jobqueue import POLL, Ended, Queue, Turn, note_failure
from blosam.compare.options import Job
from blosam.compare.pool import Lost, Pool

logger = logging.getLogger(__name__)

Work = Callable[[Turn, str], Ended | None]
_LOST = "its process was ended from outside, twice, usually for lack of memory. Give fewer --workers."


def carry_out(queue: Queue, slots: Sequence[str], work: Work) -> Iterator[Ended]:
    """Every run of the queue when it is over, whoever carried it out, in the order in which they end.

    Args:
        queue: the runs.
        slots: the device of each run that may take place at the same time; a single one needs no other process.
        work: carries out a turn on a device; None when another process is doing so. Importable in a new process.

    Raises:
        BlosamError: when the folder cannot be written to, or is used by another process with other settings.
    """
    try:
        yield from _alone(queue, slots[0], work) if len(slots) == 1 else _together(queue, slots, work)
    finally:
        queue.claims.tidy()


def _alone(queue: Queue, device: str, work: Work) -> Iterator[Ended]:
    """One run after the other, in this process."""
    while queue:
        turn = queue.next()
        yield from queue.ended_elsewhere()
        if turn is None:
            time.sleep(POLL if queue else 0.0)  # other processes carry out what remains
            continue
        ended = work(turn, device)
        if ended is None:
            queue.put_back(turn.job)
        else:
            yield ended


def _together(queue: Queue, slots: Sequence[str], work: Work) -> Iterator[Ended]:
    """Runs in worker processes, one for each slot."""
    lost: set[Job] = set()
    pool = Pool(work, slots)
    try:
        while queue or pool.busy:
            while pool.idle and (turn := queue.next()) is not None:
                pool.start(turn)
            yield from queue.ended_elsewhere()
            if not pool.busy:
                time.sleep(POLL if queue else 0.0)
                continue
            for turn, ended in pool.done(POLL if queue and pool.idle else None):
                if isinstance(ended, Lost):
                    queue.claims.drop(turn.ticket)
                    if turn.job in lost:
                        yield Ended(turn.job, note_failure(queue.out, turn.job, _LOST))
                    else:  # once more when the others are done, and their memory is free
                        logger.warning("%s: its process was ended from outside. It is tried again.", turn.job.name)
                        lost.add(turn.job)
                        queue.put_back(turn.job, last=True)
                elif ended is None:
                    queue.put_back(turn.job)
                else:
                    yield ended
    finally:
        for turn in pool.close():
            queue.claims.drop(turn.ticket)  # a worker that had to be killed could not release it
