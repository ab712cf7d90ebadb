"""A decoded 2-D image with its place in space, whatever file it came from, and its scaling to [0, 1]."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from blosam.errors import BlosamError

MAX_PIXELS = 100_000_000
PERCENTILES = (0.5, 99.5)


@dataclass
class Picture:
    """One decoded image, not yet scaled.

    Attributes:
        values: W x H, or W x H x 3 for colour; the first axis is the column index, as in MONAI.
        affine: 4 x 4, from (column, row, 0, 1) to RAS in ``unit``.
        kind: ``raster`` (PNG, JPEG, ...), ``nifti`` or ``dicom``.
        spatial_shape: shape of the source grid: (W, H), or (W, H, 1) for a NIfTI file with a third axis.
        spacing: (between rows, between columns) in millimetres, or None when the file does not say.
        white: value shown as 1, with 0 shown as 0; None scales by the percentiles 0.5 and 99.5.
        inverted: whether low values are bright (MONOCHROME1).
        lossy: whether the compression may have changed mask values (JPEG).
        padding: value of pixels that are no measurement; they do not count for the percentiles.
        unit: of the affine, in NIfTI's words: meter, mm, micron or unknown.
        intensity: how the values are scaled, in words.
    """

    values: np.ndarray
    affine: np.ndarray
    kind: str
    spatial_shape: tuple[int, ...]
    spacing: tuple[float, float] | None = None
    white: float | None = None
    inverted: bool = False
    lossy: bool = False
    padding: float | None = None
    unit: str = "unknown"
    intensity: str = "percentiles 0.5 to 99.5"

    def unit_range(self) -> np.ndarray:
        """The values as float32 in [0, 1], bright = dense for every source."""
        if self.white is not None:
            scaled = self.values.astype(np.float32) / np.float32(self.white)
        else:
            counted = self.values if self.padding is None else self.values[self.values != self.padding]
            low, high = np.percentile(counted if counted.size else self.values, PERCENTILES)
            if not low < high:  # nearly all pixels share one value: the percentiles would hide the others
                low, high = float(self.values.min()), float(self.values.max())
            scaled = ((self.values.astype(np.float64) - low) / (high - low)).astype(np.float32)
        scaled = np.clip(scaled, 0.0, 1.0)
        return 1.0 - scaled if self.inverted else scaled


def check_size(path: str | os.PathLike, columns: int, rows: int) -> None:
    """Refuse sizes that are no image, from the header alone, before anything is decoded.

    Raises:
        BlosamError: below 2 x 2 pixels or above 100 megapixels.
    """
    if columns < 2 or rows < 2:
        raise BlosamError(f"{path}: the image is {columns} x {rows} pixels, below 2 x 2. Replace or remove it.")
    if columns * rows > MAX_PIXELS:
        raise BlosamError(f"{path}: the image is {columns} x {rows} pixels, more than 100 megapixels. Make it smaller.")


def check_values(path: str | os.PathLike, values: np.ndarray) -> None:
    """Refuse an image that carries no information.

    Raises:
        BlosamError: when a value is not finite, or all are the same.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise BlosamError(f"{path}: {count} pixel(s) are NaN or infinite. Replace them or remove the image.")
    if (values == values[:1, :1]).all():
        value = " ".join(f"{channel:g}" for channel in np.atleast_1d(values[0, 0]))
        raise BlosamError(
            f"{path}: every pixel has the value {value}, there is nothing to segment. Replace or remove the image."
        )
