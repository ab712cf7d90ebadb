"""Small pictures of images and masks, kept beside the results so that a report can be made after a restart, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from blosam.atomicio import atomic_write
from blosam.evaluation.overlay import to_rgb
from blosam.predictor import Prediction

SIDE = 320  # pixels of the longer side


class Thumbnail:
    """The frame with the most foreground of one input."""

    def __init__(self) -> None:
        self._best = -1
        self._frame = 0
        self._image = self._mask = np.zeros((0, 0), np.uint8)

    def offer(self, index: int, prediction: Prediction, foreground: int) -> None:
        """Keep this frame if it shows more than those before.

        Args:
            index: of the frame.
            prediction: its image and mask.
            foreground: number of pixels in the mask.
        """
        if foreground <= self._best:
            return
        self._best, self._frame = foreground, index
        image = to_rgb(prediction.image)
        scale = min(1.0, SIDE / max(image.shape[:2]))
        size = tuple(max(1, round(n * scale)) for n in image.shape[1::-1])
        self._image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        self._mask = np.asarray(Image.fromarray(prediction.mask).resize(size, Image.Resampling.NEAREST))

    def save(self, folder: Path, name: str) -> None:
        """Write ``FOLDER/NAME.npz``.

        Raises:
            BlosamError: when it cannot be written.
        """
        with atomic_write(folder / f"{name}.npz") as file:
            np.savez_compressed(file, image=self._image, mask=self._mask, frame=self._frame)


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Image h x w x 3, mask h x w and number of the frame; None when there is no such file."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path) as stored:
        return stored["image"], stored["mask"], int(stored["frame"])
