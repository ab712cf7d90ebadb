"""One input between its first frame and its record: areas, files, warnings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blosam.dicom.nifti_write import save_mask, save_with_affine
from blosam.errors import BlosamError
from blosam.inference.inputs import Item
from blosam.inference.outputs import Outputs, Stack
from blosam.inference.reading import Job, Step
from blosam.inference.record import Record
from blosam.inference.thumbnails import Thumbnail
from blosam.predictor import Prediction

if TYPE_CHECKING:
    from blosam.inference.run import Segmentation

_WHOLE = ("nifti", "dicom-seg", "dicom-seg-fractional")  # formats that need all frames at once


class Work:
    """What is known of one input so far.

    Args:
        run: the run it belongs to.
        job: the input.
    """

    def __init__(self, run: Segmentation, job: Job) -> None:
        self.run, self.job = run, job
        self.ended = False
        self._outputs: Outputs
        self._stack: Stack
        self._first: Prediction
        self._planned = False
        self._names: dict[str, list[str]] = {}
        self._pixels: dict[int, dict[str, int]] = {}
        self._affines: dict[int, np.ndarray] = {}
        self._spacing_source = ""
        self._confidences: list[float] = []
        self._thumbnail = Thumbnail()
        self._seconds = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing more will come, and all that came was segmented or the input failed."""
        if not self.ended:
            return False
        return self.job.error is not None or self.job.frames is None or len(self._pixels) == len(self.job.frames)

    def plan(self) -> None:
        """Fix the names of the files.

        Raises:
            BlosamError: when one exists and may not be replaced.
        """
        job, run, options = self.job, self.run, self.run.options
        frames = job.frames
        single = len(frames) == 1 and frames.slice_axis is None
        self._outputs = Outputs(
            folder=run.folder.folder,
            name=job.name,
            stem=run.stems.get(job.item.position, ""),
            formats=options.formats,
            labels=run.predictor.labels,
            frames=None if single else len(frames),
            frame_word="slice" if frames.kind == "nifti" else "frame",
            may_replace=lambda name: options.force or (job.sha256, name) in run.earlier.written,
            keep=run.keep,
        )
        self._stack = Stack(len(frames), single, "dicom-seg-fractional" in options.formats)
        self._names = self._outputs.planned()
        run.folder.will_write(job.sha256, [name for names in self._names.values() for name in names])
        self._planned = True

    def add(self, step: Step, prediction: Prediction) -> None:
        """Take in one frame.

        Raises:
            BlosamError: when its files cannot be written.
        """
        labels = self.run.predictor.labels
        counts = np.bincount(prediction.mask.ravel(), minlength=max(labels.values()) + 1)
        self._pixels[step.index] = {name: int(counts[value]) for name, value in labels.items()}
        self._affines[step.index] = prediction.affine
        self._seconds += prediction.seconds
        self._spacing_source = step.picture.spacing_source
        self.job.warnings += [text for text in step.picture.warnings if text not in self.job.warnings]
        if prediction.confidence is not None:
            self._confidences.append(prediction.confidence)
        if len(self._pixels) == 1:
            self._first = prediction
        self._outputs.add_frame(step.index, prediction)
        if self.run.options.thumbnails:
            self._thumbnail.offer(step.index, prediction, int(counts[1:].sum()))
        if any(kind in _WHOLE for kind in self.run.options.formats):
            self._stack.add(step.index, prediction)

    def finish(self) -> None:
        """Write the files that hold all frames.

        Raises:
            BlosamError: when they cannot be written.
        """
        self._outputs.finish(
            {
                "nifti": self._save_nifti,
                "dicom-seg": lambda path: self._save_segmentation(path, fractional=False),
                "dicom-seg-fractional": lambda path: self._save_segmentation(path, fractional=True),
            }
        )
        if self.run.options.thumbnails:
            self._thumbnail.save(self.run.folder.thumbnails, self.job.name)

    def _save_nifti(self, path: Path) -> None:
        """One file for all frames or slices, on the grid of the source."""
        frames, mask = self.job.frames, self._stack.mask
        masks = mask.reshape(-1, *mask.shape[-2:])
        if frames.volume is not None:
            save_mask(path, frames.stack(list(masks)), frames.volume)
        else:
            volume = np.ascontiguousarray(masks.transpose(2, 1, 0))
            save_with_affine(path, volume, self._stacked_affine(), self._first.unit)

    def _stacked_affine(self) -> np.ndarray:
        """The affine of all frames of a DICOM image: that of the first, with the step from frame to frame.

        Raises:
            BlosamError: when the frames do not lie behind each other at equal distances.
        """
        affine = self._affines[0].copy()
        steps = np.array([self._affines[i + 1] - self._affines[i] for i in range(len(self._affines) - 1)])
        if not len(steps) or not steps.any():
            return affine  # one frame, or a film: the third axis is time
        if np.abs(steps[..., :3]).max() > 1e-4 or np.abs(steps - steps[0]).max() > 1e-2:
            raise BlosamError(
                f"{self.job.name}: its frames do not lie behind each other at equal distances, so that no NIfTI file "
                "can hold them. Choose png or dicom-seg."
            )
        affine[:3, 2] = steps.mean(axis=0)[:3, 3]
        return affine

    def _save_segmentation(self, path: Path, fractional: bool) -> None:
        from blosam.dicom.seg import segmentation, write_dicom

        result = segmentation(
            [self.job.frames.header],
            self._stack.mask,
            self.run.codes,
            self.run.algorithm,
            probability=np.asarray(self._stack.probability, np.float32) if fractional else None,
            description="needs review" if self._unsure else "",
        )
        write_dicom(result, path)

    def record(self) -> Record:
        """What ``run.json`` says of the input."""
        job = self.job
        if job.earlier is not None:
            return {**job.earlier, "position": job.item.position, "repeated": True}
        record: Record = {"position": job.item.position, "name": job.name, "sha256": job.sha256}
        record["status"] = self._status()
        record |= self._uids(job.item)
        warnings = [job.scrubber.clean(text) for text in dict.fromkeys(job.warnings)]
        if job.error is not None:
            if self._planned:
                self._outputs.discard()
            return record | {"reason": self._reason(), "outputs": {}, "warnings": warnings}
        if job.item.ignored:
            return record | {"reason": job.item.ignored, "outputs": {}, "warnings": warnings}
        return record | {
            "geometry": self._geometry(),
            "seconds": round(self._seconds + job.seconds, 3),
            "areas": self._areas(),
            "confidence": round(min(self._confidences), 4) if self._confidences else None,
            "outputs": self._names,
            "warnings": warnings,
        }

    @property
    def _unsure(self) -> bool:
        least = self.run.options.min_confidence
        return least is not None and any(value < least for value in self._confidences)

    def _status(self) -> str:
        if self.job.error is not None:
            return "failed"
        if self.job.item.ignored:
            return "ignored"
        return "needs review" if self._unsure else "done"

    def _reason(self) -> str:
        text = self.job.scrubber.clean(str(self.job.error))
        return text.removeprefix(f"{self.job.name}: ")

    def _uids(self, item: Item) -> Record:
        uids = {"study": item.study, "series": item.series, "instance": item.instance}
        return {key: self.run.uid(value) for key, value in uids.items() if value}

    def _geometry(self) -> Record:
        frames, first = self.job.frames, self._first
        return {
            "kind": frames.kind,
            "rows": first.mask.shape[0],
            "columns": first.mask.shape[1],
            "frames": len(frames),
            "slice_axis": frames.slice_axis,
            "spacing_mm": None if first.spacing is None else [round(float(step), 6) for step in first.spacing],
            "spacing_source": self._spacing_source or None,
        }

    def _areas(self) -> dict[str, Any]:
        """Pixels of each class and, of single images with known spacing, mm2; of several frames, pixels of each."""
        spacing = self._first.spacing
        areas: dict[str, Any] = {}
        for name in self.run.predictor.labels:
            each = [self._pixels[index][name] for index in sorted(self._pixels)]
            areas[name] = {"pixels": sum(each)}
            if self._stack.single and spacing is not None:
                areas[name]["mm2"] = round(each[0] * spacing[0] * spacing[1], 2)
            if not self._stack.single:
                areas[name]["pixels_by_frame"] = each
        return areas
