"""Masks to files, on the source grid: PNG, NIfTI, overlay pictures and DICOM segmentations.

An input's files appear one by one, each complete; when one cannot be written, those before it are removed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blosam.atomicio import atomic_path
from blosam.errors import BlosamError
from blosam.evaluation.overlay import draw_overlay
from blosam.inference.record import STEM
from blosam.predictor import Prediction

FORMATS = ("png", "nifti", "overlay", "dicom-seg", "dicom-seg-fractional", "dicom-sr")
PER_FRAME = ("png", "overlay")
DICOM_ONLY = tuple(name for name in FORMATS if name.startswith("dicom"))
_ENDINGS = {
    "png": ".png", "nifti": ".nii.gz", "overlay": "_overlay.png", "dicom-seg": ".seg.dcm",
    "dicom-seg-fractional": ".fractional.seg.dcm", "dicom-sr": ".sr.dcm",
}  # fmt: skip


@dataclass
class Stack:
    """The masks of one input, one for each frame, as they come.

    Args:
        count: number of frames.
        single: whether the source is one 2-D image; its mask then has no frame axis.
        keep_probability: whether the probabilities are needed, too.
    """

    count: int
    single: bool
    keep_probability: bool = False
    _masks: dict[int, np.ndarray] = field(default_factory=dict)
    _probabilities: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, index: int, prediction: Prediction) -> None:
        """Keep what one frame gave."""
        self._masks[index] = prediction.mask
        if self.keep_probability:
            kept = prediction.probability if self.single else prediction.probability.astype(np.float16)
            self._probabilities[index] = kept

    @property
    def mask(self) -> np.ndarray:
        """[Frames x] Rows x Columns uint8."""
        return self._stacked(self._masks)

    @property
    def probability(self) -> np.ndarray | None:
        """[Frames x] (K+1) x Rows x Columns; None unless they were kept."""
        return self._stacked(self._probabilities) if self.keep_probability else None

    def _stacked(self, parts: dict[int, np.ndarray]) -> np.ndarray:
        if self.single:
            return parts[0]
        return np.stack([parts[index] for index in range(self.count)])


@dataclass
class Outputs:
    """The files of one input.

    Args:
        folder: existing folder for all results.
        name: of the input, which becomes that of its files unless it has a stem.
        stem: base of the file names, or empty; it is never recorded.
        formats: among ``FORMATS``.
        labels: class name to value.
        frames: number of frames of the input.
        frame_word: what they are called in file names: ``frame`` or ``slice``.
        may_replace: tells by the recorded name whether an existing file may be replaced.
        keep: files that are never replaced: the inputs themselves.
    """

    folder: Path
    name: str
    stem: str
    formats: Sequence[str]
    labels: dict[str, int]
    frames: int | None = None
    frame_word: str = "frame"
    may_replace: Callable[[str], bool] = lambda name: False
    keep: frozenset[tuple[int, int]] = frozenset()
    _written: list[Path] = field(default_factory=list)

    def planned(self) -> dict[str, list[str]]:
        """Names by format, as they are recorded.

        Raises:
            BlosamError: when a file exists that may not be replaced.
        """
        names = {}
        for kind in self.formats:
            if kind == "dicom-sr":
                continue  # one for each study, not for each image
            indices = [None] if self.frames is None or kind not in PER_FRAME else range(self.frames)
            names[kind] = [self._recorded(kind, index) for index in indices]
        for name in (name for group in names.values() for name in group):
            self._check(name)
        return names

    def _check(self, recorded: str) -> None:
        target = self._path(recorded)
        with suppress(OSError):
            status = os.stat(target)
            if (status.st_dev, status.st_ino) in self.keep:
                raise BlosamError(f"{target}: is one of the images to segment and is not replaced. Give another --out.")
            if not self.may_replace(recorded):
                raise BlosamError(f"{target}: exists already. Give another --out, or --force to replace it.")

    def _recorded(self, kind: str, frame: int | None) -> str:
        number = "" if frame is None else f"_{self.frame_word}{frame + 1:04d}"
        return f"{STEM if self.stem else self.name}{number}{_ENDINGS[kind]}"

    def _path(self, recorded: str) -> Path:
        return self.folder / recorded.replace(STEM, self.stem)

    def add_frame(self, index: int, prediction: Prediction) -> None:
        """Write what belongs to one frame alone.

        Raises:
            BlosamError: when it cannot be written.
        """
        frame = None if self.frames is None else index
        if "png" in self.formats:
            self._write("png", lambda path: save_png(prediction.mask, path, len(self.labels)), frame)
        if "overlay" in self.formats:
            self._write("overlay", lambda path: save_overlay(prediction, path, self.labels), frame)

    def finish(self, savers: dict[str, Callable[[Path], Any]]) -> None:
        """Write what belongs to the whole input.

        Args:
            savers: format to a function that writes it under the name it is given.

        Raises:
            BlosamError: when it cannot be written.
        """
        for kind in self.formats:
            if kind in savers:
                self._write(kind, savers[kind], None)

    def _write(self, kind: str, save: Callable[[Path], Any], frame: int | None) -> None:
        target = self._path(self._recorded(kind, frame))
        with atomic_path(target) as temporary:
            save(temporary)
        self._written.append(target)

    def discard(self) -> None:
        """Remove what has been written: the input failed."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()


def save_png(mask: np.ndarray, path: Path, classes: int) -> None:
    """A mask Rows x Columns as PNG: 0 and 255 for one class, class numbers for several; no text in the file."""
    Image.fromarray(mask * np.uint8(255 if classes == 1 else 1)).save(path)


def save_overlay(prediction: Prediction, path: Path, labels: dict[str, int]) -> None:
    """The image with the mask drawn on it."""
    names = {value: name for name, value in labels.items()}
    Image.fromarray(draw_overlay(prediction.image, pred=prediction.mask, class_names=names)).save(path)
