"""From a list of inputs to prepared frames: read in threads ahead of the network, a bounded number at a time."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from blosam.dicom.frames import Frames
from blosam.dicom.picture import Picture
from blosam.errors import BlosamError
from blosam.inference.inputs import Item
from blosam.inference.privacy import Scrubber, image_name, listening
from blosam.inference.record import Record
from blosam.predictor import Predictor, Prepared

_PAUSE = 0.2  # seconds between two looks whether the run was stopped


@dataclass
class Job:
    """One input on its way.

    Args:
        item: the input.
        name: what it is called.
        sha256: of the file; empty when it cannot be read.
        scrubber: cleans texts about it.
        warnings: what the reader had to say, cleaned.
        seconds: spent on reading and decoding it.
        frames: the open file; None before it is open.
        error: why it failed; None as long as it has not.
        earlier: its record when an earlier run finished it.
    """

    item: Item
    name: str
    sha256: str
    scrubber: Scrubber
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    frames: Frames | None = None
    error: BlosamError | None = None
    earlier: Record | None = None


@dataclass(frozen=True)
class Step:
    """Something read: one frame, or the end of an input.

    Args:
        job: the input.
        index: of the frame.
        picture: the decoded frame; None at the end of the input.
        prepared: the frame at the network's size; None for a blank one, which holds nothing to segment.
    """

    job: Job
    index: int = 0
    picture: Picture | None = None
    prepared: Prepared | None = None


class Reader:
    """Reads inputs.

    Args:
        predictor: prepares what was read.
        open_file: opens a file as a sequence of pictures.
        begin: called with a job before its file is opened; whether it is to be read.
        check: called with a job whose file is open; raises BlosamError to refuse it.
    """

    def __init__(
        self,
        predictor: Predictor,
        open_file: Callable[[Path], Frames],
        begin: Callable[[Job], bool],
        check: Callable[[Job], None],
    ) -> None:
        self.predictor, self.open_file = predictor, open_file
        self.begin, self.check = begin, check

    def steps(self, items: Iterable[Item], workers: int, ahead: int) -> Iterator[Step]:
        """Everything there is to read, in no particular order when there are several workers.

        Args:
            items: the inputs.
            workers: number of threads; 0 reads in this one.
            ahead: at most this many frames wait to be taken.
        """
        if workers == 0:
            for item in items:
                yield from self.read(item)
            return
        yield from self._in_threads(list(items), workers, ahead)

    def read(self, item: Item) -> Iterator[Step]:
        """The frames of one input, and its end."""
        job = Job(item, *_named(item))
        with listening(job.scrubber) as heard:
            with failing(job):
                if item.problem:
                    raise BlosamError(item.problem)
                if self.begin(job):
                    yield from self._frames(job)
            job.warnings += heard
        yield Step(job)

    def _frames(self, job: Job) -> Iterator[Step]:
        start = time.perf_counter()
        job.frames = self.open_file(job.item.path)
        job.scrubber.add_header(job.frames.header)
        self.check(job)
        for index in range(len(job.frames)):
            picture = job.frames[index]
            job.seconds += time.perf_counter() - start
            # A volume may begin and end with empty slices; a file that is all of one value is refused.
            blank = len(job.frames) > 1 and picture.blank
            yield Step(job, index, picture, None if blank else self.predictor.prepare_picture(picture, job.item.path))
            start = time.perf_counter()

    def _in_threads(self, items: list[Item], workers: int, ahead: int) -> Iterator[Step]:
        waiting: queue.Queue[Step] = queue.Queue(max(ahead, 1))
        stopped = threading.Event()
        left = iter(items)
        lock = threading.Lock()

        def work() -> None:
            while not stopped.is_set():
                with lock:
                    item = next(left, None)
                if item is None:
                    return
                for step in self.read(item):
                    if not _put(waiting, step, stopped):
                        return

        with ThreadPoolExecutor(workers, thread_name_prefix="blosam-read") as pool:
            threads = [pool.submit(work) for _ in range(workers)]
            try:
                # Asked in this order: a thread puts its last step before it is done.
                while not (all(thread.done() for thread in threads) and waiting.empty()):
                    with suppress(queue.Empty):
                        yield waiting.get(timeout=_PAUSE)
                    if any(thread.done() and thread.exception() for thread in threads):
                        break
                for thread in threads:
                    if thread.done():
                        thread.result()  # raises what a thread did not expect
            finally:
                stopped.set()


def _put(waiting: queue.Queue, step: Step, stopped: threading.Event) -> bool:
    """Wait for a place in the queue; False when the run was stopped."""
    while not stopped.is_set():
        with suppress(queue.Full):
            waiting.put(step, timeout=_PAUSE)
            return True
    return False


@contextmanager
def failing(job: Job) -> Iterator[None]:
    """What cannot be used or does not fit into memory fails its own input and no other one."""
    try:
        yield
    except BlosamError as error:
        job.error = error
    except MemoryError:
        job.error = BlosamError(f"{job.name}: there is not enough memory. Give fewer --workers, or a smaller image.")


def _named(item: Item) -> tuple[str, str, Scrubber]:
    """Name, SHA-256 and scrubber of an input; the name has no digits when the file cannot be read."""
    sha256 = ""
    with suppress(OSError):
        with item.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = image_name(item.position, sha256) if sha256 else f"image_{item.position:04d}"
    return name, sha256, Scrubber(name, item.path)
