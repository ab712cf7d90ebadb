"""Segmenting retrieved images with a bundle: one DICOM Segmentation per image, one report per batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from blosam.dicom.codes import segment_codes
from blosam.dicom.derived import Algorithm, write_dicom
from blosam.dicom.seg import segmentation
from blosam.dicom.sr import Measured, measurement_report
from blosam.dicom.suitability import reasons_against
from blosam.errors import BlosamError
from blosam.predictor import Predictor

from .pipeline import Segmented

_REVIEW = "needs review"
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}")


class BundleSegmenter:
    """Segments with a trained bundle, image by image, so that memory holds one at a time.

    Args:
        predictor: of the bundle.
        name: of the bundle, as results say it.
        kinds: what to write, among ``blosam.pacs.pipeline.KINDS``.
        force: segment images, too, that the bundle was not made for.
        min_confidence: results below it are marked "needs review"; None marks none. The predictor must judge its masks.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str,
        kinds: Sequence[str] = ("seg", "sr"),
        force: bool = False,
        min_confidence: float | None = None,
    ) -> None:
        self.predictor, self.kinds, self.force = predictor, tuple(kinds), force
        self.min_confidence = min_confidence
        self.codes = segment_codes(predictor.metadata, predictor.labels)
        self.algorithm = Algorithm.from_metadata(predictor.metadata, name, predictor.sha256)

    def __call__(self, files: list[Path], out: Path) -> Segmented:
        """Segment DICOM files of one study; see :class:`blosam.pacs.pipeline.Segment`."""
        outcome, measured = Segmented(), []
        for number, path in enumerate(files, 1):
            name = f"image {number} of {len(files)}"
            try:
                header = _header(path, name)
                reasons = [] if self.force else reasons_against(header, self.predictor.metadata.get("accepted_images"))
                if str(header.get("NumberOfFrames") or 1) != "1":
                    reasons = ["It has several frames; use blosam predict for it."]
                if reasons:
                    outcome.refused[path] = f"{name} is not for this bundle: {_clean(' '.join(reasons), path, name)}"
                    continue
                written, found = self._segment(path, header, out / f"{path.stem}")
            except BlosamError as error:
                outcome.failed[path] = f"{name}: {_clean(str(error), path, name).removeprefix(f'{name}: ')}"
                continue
            outcome.files += written
            measured.append(found)
        if "sr" in self.kinds and measured:
            outcome.files.append(out / "report.sr.dcm")
            mark = _REVIEW if any(found.needs_review for found in measured) else ""
            report = measurement_report(measured, self.codes, self.algorithm, description=mark)
            write_dicom(report, outcome.files[-1])
        return outcome

    def _segment(self, path: Path, header: pydicom.Dataset, base: Path) -> tuple[list[Path], Measured]:
        """The files written for one image, and what the report needs of it."""
        prediction = self.predictor.predict(path)
        confidence = prediction.confidence
        unsure = self.min_confidence is not None and (confidence is None or confidence < self.min_confidence)
        files: list[Path] = []
        seg = None
        for kind in self.kinds:
            if kind == "sr":
                continue
            probability = prediction.probability if kind == "seg-fractional" else None
            made = segmentation(
                [header], prediction.mask, self.codes, self.algorithm,
                probability=probability, description=_REVIEW if unsure else "",
            )  # fmt: skip
            files.append(base.with_name(f"{base.name}.{kind}.dcm"))
            write_dicom(made, files[-1])
            seg = made if seg is None else seg  # the report refers to the first
        found = Measured.from_mask(header, prediction.mask, self.codes, seg, confidence=confidence, needs_review=unsure)
        return files, found


def _header(path: Path, name: str) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        raise BlosamError(f"{name}: the DICOM header cannot be read.") from None


def _clean(text: str, path: Path, name: str) -> str:
    """A reason without the path of the temporary file and without UIDs."""
    text = text.replace(str(path), name).replace(path.name, name)
    return _UID.sub(lambda m: m.group() if m.group().startswith("1.2.840.10008.") else "[UID]", text)
