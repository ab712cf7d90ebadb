"""Segmenting a list of inputs: read ahead, in batches, one failing input not stopping the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blosam.dicom.codes import SegmentCode, segment_codes
from blosam.dicom.derived import Algorithm
from blosam.dicom.frames import Frames, open_frames
from blosam.dicom.suitability import cautions_about, reasons_against
from blosam.errors import BlosamError
from blosam.inference import privacy
from blosam.inference.inputs import Item
from blosam.inference.outputs import DICOM_ONLY
from blosam.inference.reading import Job, Reader, Step, failing
from blosam.inference.record import Earlier, Record, RunFolder
from blosam.inference.studies import Studies
from blosam.inference.work import Work
from blosam.predictor import Prediction, Predictor, blank_prediction

Listener = Callable[[Record, str], None]
_AHEAD = 2  # frames that wait for the network beyond those of the next batch


@dataclass(frozen=True)
class Options:
    """How inputs are segmented.

    Args:
        formats: among ``blosam.inference.outputs.FORMATS``.
        axis: along which volumes are cut: 0, 1, 2 or None for the one the file suggests.
        force: whether files of others are replaced, and images segmented that the bundle was not made for.
        deidentified: refuse DICOM files that hold identifiers.
        keep_uids: whether UIDs are recorded as they are.
        hashed_names: whether files of PNG and NIfTI inputs are named as those of DICOM inputs are.
        min_confidence: results below it are marked "needs review"; None marks none.
        thumbnails: whether small pictures are kept for a report.
        batch: images that go through the network at once.
        workers: threads that read ahead.
    """

    formats: tuple[str, ...] = ("png",)
    axis: int | None = None
    force: bool = False
    deidentified: bool = False
    keep_uids: bool = False
    hashed_names: bool = False
    min_confidence: float | None = None
    thumbnails: bool = False
    batch: int = 1
    workers: int = 0

    def settings(self) -> dict[str, Any]:
        """Those that decide what the results of an input are."""
        return {
            "formats": sorted(self.formats),
            "axis": "auto" if self.axis is None else self.axis,
            "names": "hash" if self.hashed_names else "stem",
            "uids": "kept" if self.keep_uids else "hashed",
            "min_confidence": self.min_confidence,
            "deidentified": self.deidentified,
        }


class Segmentation:
    """One process's part of a run.

    Args:
        predictor: the network.
        folder: of the results; its journal has been started.
        options: how.
        stems: bases of output names by position.
        earlier: what an earlier run left.
        inputs: all input files of the run; none of them is ever replaced.
        uid: turns UIDs into what is recorded.
    """

    def __init__(
        self,
        predictor: Predictor,
        folder: RunFolder,
        options: Options,
        stems: dict[int, str],
        earlier: Earlier,
        inputs: Iterable[Path],
        uid: privacy.UidHasher,
    ) -> None:
        self.predictor, self.folder, self.options = predictor, folder, options
        self.stems = {} if options.hashed_names else stems
        self.earlier = earlier
        self.keep = frozenset(key for path in inputs if (key := _identity(path)) is not None)
        self.uid = uid
        self.records: list[Record] = []
        self.repeated = 0
        self.studies: list[Record] = []
        self._working: dict[int, Work] = {}
        self._reports: Studies | None = None
        self._listener: Listener | None = None
        self._lock = threading.Lock()

    @cached_property
    def codes(self) -> list[SegmentCode]:
        """What the classes mean in DICOM."""
        return segment_codes(self.predictor.metadata, self.predictor.labels)

    @cached_property
    def algorithm(self) -> Algorithm:
        """The bundle, as DICOM objects name it."""
        return Algorithm.from_metadata(self.predictor.metadata, sha256=self.predictor.sha256)

    def run(self, items: Sequence[Item], listener: Listener | None = None) -> list[Record]:
        """Segment ``items``.

        Args:
            items: this process's share.
            listener: called with each record and, when the input failed, the full message with its path, which is
                for the eyes of the user alone.

        Returns:
            One record for each, in the order of their positions.
        """
        self._listener = listener
        self._reports = Studies(self, items) if "dicom-sr" in self.options.formats else None
        reader = Reader(self.predictor, self._open, self._begin, self._check)
        batch: list[Step] = []
        for step in reader.steps(items, self.options.workers, self.options.batch + _AHEAD):
            if step.picture is None:
                self._work(step.job).ended = True
                self._close_if_complete(step.job)
            elif step.prepared is None:
                self._keep(step, blank_prediction(step.picture, len(self.predictor.labels), step.job.item.path))
            elif step.job.error is None:
                batch.append(step)
            if len(batch) == self.options.batch:
                self._predict(batch)
                batch = []
        self._predict(batch)
        self.studies = self._reports.records if self._reports is not None else []
        return sorted(self.records, key=lambda record: record["position"])

    def _open(self, path: Path) -> Frames:
        return open_frames(path, self.options.axis)

    def _begin(self, job: Job) -> bool:
        """Whether an input has to be segmented; it has not when it is no image or was finished earlier."""
        if job.item.ignored:
            return False
        with self._lock:
            job.earlier = self.earlier.take(job.sha256, self.stems.get(job.item.position, ""), self.folder.folder)
        return job.earlier is None

    def _check(self, job: Job) -> None:
        """Refuse an open file that must not be segmented, or not in these formats."""
        dicom = job.frames.kind == "dicom"
        wanted = [name for name in self.options.formats if name in DICOM_ONLY]
        if wanted and not dicom:
            raise BlosamError(
                f"{job.name}: {', '.join(wanted)} can only be written for DICOM images. Choose png, nifti or overlay."
            )
        if dicom:
            if self.options.deidentified:
                privacy.refuse_identified(job.frames.header, job.name)
            self._check_suitability(job)
        self._work(job).plan()

    def _check_suitability(self, job: Job) -> None:
        accepts = self.predictor.metadata.get("accepted_images")
        against = reasons_against(job.frames.header, accepts)
        if against and not self.options.force:
            raise BlosamError(
                f"{job.name}: not the kind of image the bundle was made for. {' '.join(against)} "
                "Use another bundle, or --force if you know better."
            )
        job.warnings += against + cautions_about(job.frames.header, accepts)

    def _work(self, job: Job) -> Work:
        return self._working.setdefault(job.item.position, Work(self, job))

    def _predict(self, batch: Sequence[Step]) -> None:
        """Segment a batch; when it does not fit into the memory, one image at a time."""
        batch = [step for step in batch if step.job.error is None]
        if not batch:
            return
        try:
            predictions = self.predictor.predict_batch([step.prepared for step in batch if step.prepared])
        except (MemoryError, torch.OutOfMemoryError):
            if len(batch) > 1:
                for step in batch:
                    self._predict([step])
            else:
                batch[0].job.error = BlosamError(
                    f"{batch[0].job.name}: there is not enough memory on {self.predictor.device}. Give --device cpu."
                )
                self._close_if_complete(batch[0].job)
            return
        for step, prediction in zip(batch, predictions, strict=True):
            self._keep(step, prediction)

    def _keep(self, step: Step, prediction: Prediction) -> None:
        job = step.job
        if job.error is None:
            with privacy.listening(job.scrubber) as heard, failing(job):
                self._work(job).add(step, prediction)
            job.warnings += heard
        self._close_if_complete(job)

    def _close_if_complete(self, job: Job) -> None:
        """Write what belongs to the whole input and its record, once all its frames are there or it failed."""
        work = self._work(job)
        if not work.complete:
            return
        if job.error is None and job.earlier is None and not job.item.ignored:
            with privacy.listening(job.scrubber) as heard, failing(job):
                work.finish()
            job.warnings += heard
        del self._working[job.item.position]
        record = work.record()
        self.repeated += job.earlier is not None
        self.records.append(record)
        self.folder.append(record)
        if self._reports is not None:
            self._reports.finished(job.item, record)
        if self._listener is not None:
            self._listener(record, "" if job.error is None else f"{job.item.path}: {job.error}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
