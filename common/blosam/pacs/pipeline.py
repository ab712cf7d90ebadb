"""One study: find its images, retrieve those not done yet, segment them, store the results, note that.

The order of the steps makes it safe to stop anywhere. Images that belong to one report are noted as a batch before
anything is stored; each result is looked for in the archive before it is sent; an image counts as done only when all
results of its batch are there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset

from blosam.atomicio import atomic_path
from blosam.errors import BlosamError

from .client import Archive, Instance, Study
from .errors import ArchiveError
from .identity import read_results, stamp
from .journal import DONE, FAILED, FINISHED, PLANNED, REFUSED, Journal, SourceState

KINDS = ("seg", "seg-fractional", "sr")  # of results


@dataclass
class Segmented:
    """What segmenting a batch gave.

    Args:
        files: SEG and SR objects.
        refused: images of the wrong kind, with the reason; they are not tried again.
        failed: images that could not be segmented, with the reason.
    """

    files: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


class Segment(Protocol):
    """Segments DICOM files into a folder that only this process can enter."""

    def __call__(self, files: list[Path], out: Path) -> Segmented: ...


@dataclass
class Report:
    """What happened to a study: numbers of images and objects, and reasons without identifiers."""

    images: int = 0
    known: int = 0
    stored: int = 0
    present: int = 0
    refused: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Images that are segmented together and share one report.

    Args:
        name: of the batch, from its images.
        generation: 0 for the first results of these images, 1 after ``--again``, and so on.
        images: the source images.
        begun: whether an earlier run may have stored some of the results.
    """

    name: str
    generation: int
    images: tuple[Instance, ...]
    begun: bool = False


class Pipeline:
    """Takes studies of one archive through one bundle.

    Args:
        archive: where images come from and results go.
        journal: what is done.
        segment: files in, SEG and SR files out.
        bundle: SHA-256 of the weights.
        modalities: of the images to segment; empty for all.
        work: private folder for images in transit; each study's part is removed.
        keep: folder for copies of the results, or None.
        again: segment and store what is done already, too, under new identifiers.
    """

    def __init__(
        self,
        archive: Archive,
        journal: Journal,
        segment: Segment,
        bundle: str,
        modalities: Sequence[str],
        work: Path,
        keep: Path | None = None,
        again: bool = False,
    ) -> None:
        self.archive, self.journal, self.segment = archive, journal, segment
        self.bundle, self.modalities = bundle, tuple(modalities)
        self.work, self.keep, self.again = work, keep, again

    def look(self, study: Study) -> tuple[list[Batch], Report]:
        """What is to be done for a study; nothing is retrieved or noted."""
        images = self.archive.images(study.uid, self.modalities)
        states = self.journal.sources(image.uid for image in images)
        batches = self._batches(images, states)
        waiting = sum(len(batch.images) for batch in batches)
        return batches, Report(images=len(images), known=len(images) - waiting)

    def process(self, study: Study) -> Report:
        """Do what is to be done for a study.

        Raises:
            ArchiveError: when the archive does not play along; running again goes on where this stopped.
        """
        batches, report = self.look(study)
        for batch in batches:
            self._process_batch(study, batch, report)
        return report

    def _batches(self, images: list[Instance], states: dict[str, SourceState]) -> list[Batch]:
        begun: dict[tuple[str, int], list[Instance]] = {}
        new: list[Instance] = []
        for image in images:
            state = states.get(image.uid)
            if state is None or state.state == FAILED or (self.again and state.state in FINISHED):
                new.append(image)
            elif state.state == PLANNED:
                begun.setdefault((state.batch, state.generation), []).append(image)
        batches = [Batch(name, generation, tuple(part), begun=True) for (name, generation), part in begun.items()]
        if new:
            known = [states[image.uid].generation for image in new if image.uid in states]
            generation = max(known, default=0) + int(self.again and bool(known))
            name = hashlib.sha256("\n".join(self.journal.hashed(image.uid) for image in new).encode()).hexdigest()
            batches.append(Batch(name[:16], generation, tuple(new)))
        return batches

    def _process_batch(self, study: Study, batch: Batch, report: Report) -> None:
        folder = self.work / batch.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            files: dict[Path, Instance] = {}
            for number, image in enumerate(batch.images, 1):
                path = folder / f"image-{number:04d}.dcm"
                self.archive.retrieve(image, path)
                files[path] = image
            out = folder / "results"
            out.mkdir(mode=0o700)
            outcome = self.segment(list(files), out)
            results, generation = self._stamped(study, outcome, files, batch)
            self.journal.plan([image.uid for image in batch.images], batch.name, generation)
            self._store(study, results, report)
            self._copy(study, results)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        states = {image.uid: DONE for image in batch.images}
        states |= {files[path].uid: REFUSED for path in outcome.refused}
        states |= {files[path].uid: FAILED for path in outcome.failed}
        self.journal.finish(states, batch.name, generation)
        report.refused += len(outcome.refused)
        report.failed += len(outcome.failed)
        report.reasons += [*outcome.refused.values(), *outcome.failed.values()]

    def _stamped(
        self, study: Study, outcome: Segmented, files: dict[Path, Instance], batch: Batch
    ) -> tuple[list[Dataset], int]:
        """The results with their fixed UIDs, and the generation these stand for."""
        bad = {*outcome.refused, *outcome.failed}
        good = [image.uid for path, image in files.items() if path not in bad]
        if not good:
            return [], batch.generation
        results = read_results(outcome.files)
        if not results:
            raise BlosamError("no result was written. Run `blosam predict` on such an image to see why.")
        generation = batch.generation
        stamp(results, good, self.bundle, generation)
        # Asked for once more, on a machine whose journal does not know the earlier rounds: the archive knows them.
        while self.again and not batch.begun and self._any_held(results, study):
            generation += 1
            stamp(results, good, self.bundle, generation)
        return results, generation

    def _any_held(self, results: list[Dataset], study: Study) -> bool:
        return any(self.archive.holds(str(result.SOPInstanceUID), study.uid) for result in results)

    def _store(self, study: Study, results: list[Dataset], report: Report) -> None:
        for result in results:
            if result.get("StudyInstanceUID") != study.uid:
                raise ArchiveError("a result belongs to another study than its image; it was not stored.")
            if self.archive.holds(str(result.SOPInstanceUID), study.uid):
                report.present += 1
                continue
            self.archive.store(result)
            report.stored += 1

    def _copy(self, study: Study, results: list[Dataset]) -> None:
        """Keep copies under names that give nobody away."""
        if self.keep is None:
            return
        folder = self.keep / self.journal.hashed(study.uid)[:16]
        for result in results:
            name = self.journal.hashed(str(result.SOPInstanceUID))[:16]
            with atomic_path(folder / f"{str(result.Modality).lower()}-{name}.dcm") as path:
                result.save_as(path, enforce_file_format=True)
