"""A decoded 2-D image with its place in space, whatever file it came from, and its scaling to [0, 1]."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import pydicom

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
        white: value shown as 1, with 0 shown as 0; None scales by ``limits`` or by the percentiles 0.5 and 99.5.
        inverted: whether low values are bright (MONOCHROME1).
        lossy: whether the compression may have changed mask values (JPEG).
        padding: W x H bool, pixels that are no measurement: they do not count for the percentiles and are shown
            black; None when there are none.
        unit: of the affine, in NIfTI's words: meter, mm, micron or unknown.
        intensity: how the values are scaled, in words.
        limits: (low, high) shown as 0 and 1, the same for all slices of a volume.
        curve: presentation table: grey values for evenly spaced inputs 0..1, applied last; None for none.
        frame: 0-based number in a file of several frames or slices; None when the file is this one picture.
        header: DICOM elements that apply to this picture, without the pixel data; None for other files.
        spacing_source: DICOM keyword, or ``NIfTI``, that the spacing comes from; empty when there is no spacing.
        warnings: what a user should know about this picture, one sentence each, without anything from the patient.
    """

    values: np.ndarray
    affine: np.ndarray
    kind: str
    spatial_shape: tuple[int, ...]
    spacing: tuple[float, float] | None = None
    white: float | None = None
    inverted: bool = False
    lossy: bool = False
    padding: np.ndarray | None = None
    unit: str = "unknown"
    intensity: str = "percentiles 0.5 to 99.5"
    limits: tuple[float, float] | None = None
    curve: np.ndarray | None = None
    frame: int | None = None
    header: pydicom.Dataset | None = None
    spacing_source: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def blank(self) -> bool:
        """Whether all pixels have the same value: nothing to segment, and common among the slices of a volume."""
        return bool((self.values == self.values[:1, :1]).all())

    def unit_range(self) -> np.ndarray:
        """The values as float32 in [0, 1], bright = dense for every source."""
        if self.white is not None:
            scaled = self.values.astype(np.float32)
            scaled /= np.float32(self.white)
        else:
            low, high = self.limits or self._percentiles()
            # Subtracted in double precision, row by row: large offsets would lose digits in single precision.
            scaled = np.empty(self.values.shape, np.float32)
            for line, source in zip(scaled, self.values, strict=True):
                line[:] = (source.astype(np.float64) - low) / (high - low)
        np.clip(scaled, 0.0, 1.0, out=scaled)
        if self.inverted:
            np.subtract(1.0, scaled, out=scaled)
        if self.curve is not None:
            scaled = self.curve[np.round(scaled * (len(self.curve) - 1)).astype(np.intp)].astype(np.float32)
        if self.padding is not None:
            scaled[self.padding] = 0.0
        return scaled

    def _percentiles(self) -> tuple[float, float]:
        """The values shown as 0 and 1."""
        counted = self.values if self.padding is None else self.values[~self.padding]
        return percentile_limits(counted if counted.size else self.values)


def percentile_limits(values: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5, or the extremes when those coincide (they would then hide all other values);
    low is always below high."""
    low, high = (float(limit) for limit in np.percentile(values, PERCENTILES))
    if not low < high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low, low + 1.0)


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
