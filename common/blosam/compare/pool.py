"""Worker processes for the runs of a comparison, each on its own device.

``concurrent.futures`` ends every worker when one is killed, and leaves workers behind when their parent is. Here a
killed worker is replaced, and one without a parent finishes its run, which is then there for the next command.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, NamedTuple

from blosam.errors import BlosamError

TALKATIVE = ("blosam.data", "blosam.evaluation", "blosam.engines", "blosam.networks", "blosam.weights")
_PATIENCE = 10.0  # seconds for a worker to end by itself
Work = Callable[[Any, str], Any]


class Lost(NamedTuple):
    """Comes instead of a result when the worker was ended from outside.

    Args:
        code: its exit code; negative for a signal.
    """

    code: int | None


class Pool:
    """A worker process for each slot; starts them when they are first needed.

    Args:
        work: gets a task and the device of the slot, in the worker process; must be importable there.
        slots: name of a device for each worker.
    """

    def __init__(self, work: Work, slots: Sequence[str]) -> None:
        self._work = work
        self._slots = list(slots)
        self._workers: list[_Worker | None] = [None] * len(self._slots)
        self._tasks: dict[int, Any] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def busy(self) -> int:
        """Number of workers that carry out a task."""
        return len(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether a task would start at once."""
        return self.busy < len(self._slots)

    def start(self, task: Any) -> None:
        """Give a task to an idle worker."""
        number = next(number for number in range(len(self._slots)) if number not in self._tasks)
        worker = self._workers[number] or _Worker(self._work, self._slots[number])
        self._workers[number] = worker
        self._tasks[number] = task
        with suppress(OSError):  # it was ended while it waited: its end of the pipe says so to done()
            worker.connection.send(task)

    def done(self, seconds: float | None) -> list[tuple[Any, Any]]:
        """Tasks that are over, with their result, or with :class:`Lost`.

        Args:
            seconds: to wait at most; None waits until one is over.

        Raises:
            BlosamError: what the work raised.
            RuntimeError: when a mistake in the program ended a worker, which has printed it.
        """
        connections = {self._workers[number].connection: number for number in self._tasks}
        found = []
        for connection in wait(list(connections), seconds):
            number = connections[connection]
            task = self._tasks.pop(number)
            try:
                result = connection.recv()
            except (EOFError, OSError):
                result = Lost(self._workers[number].end())
                self._workers[number] = None
            if isinstance(result, BlosamError):
                raise result
            if isinstance(result, Lost) and result.code == 1:
                raise RuntimeError("a worker process met an error in the program; its message is above")
            found.append((task, result))
        return found

    def close(self) -> list[Any]:
        """End all workers; those that carry out a task stop in the middle of it. Returns these tasks."""
        workers = [(number, worker) for number, worker in enumerate(self._workers) if worker is not None]
        for number, worker in workers:
            worker.connection.close()
            if number in self._tasks:
                worker.process.terminate()
        for _, worker in workers:
            worker.end()
        stopped = list(self._tasks.values())
        self._workers = [None] * len(self._slots)
        self._tasks = {}
        return stopped


class _Worker:
    """One process and our end of the pipe to it."""

    def __init__(self, work: Work, device: str) -> None:
        context = multiprocessing.get_context("spawn")  # a forked PyTorch may hang in its thread pool
        self.connection, theirs = context.Pipe()
        level = logging.getLogger("blosam").getEffectiveLevel()
        self.process = context.Process(target=_serve, args=(theirs, work, device, level))
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def end(self) -> int | None:
        """Wait for the process to end, and see that it does; returns its exit code."""
        self.connection.close()
        self.process.join(_PATIENCE)
        for stop in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                stop()
                self.process.join(_PATIENCE)
        return self.process.exitcode


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; a worker that starts now inherits that it is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, work: Work, device: str, level: int) -> None:
    """A worker's life: tasks until the pipe ends, which it does with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, _leave)
    _quieten(level)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = work(task, device)
        except BlosamError as error:
            result = error
        with suppress(OSError):  # the parent is gone: the result is on the disk, and the next recv() ends this
            connection.send(result)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unlike the signal's default, this lets the claim of the run be released


def _quieten(level: int) -> None:
    """The command's way of logging, which a new process does not know."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("blosam").setLevel(level)
    for name in ("ignite", "monai"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning, DeprecationWarning):  # of the libraries, while they are imported
        warnings.filterwarnings("ignore", category=category)
