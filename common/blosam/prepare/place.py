"""Whether a mask lies where its image lies, as far as both files say so.

Equal numbers of rows and columns are not enough: converters turn rows round, and say so only in the header.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from blosam.dicom.geometry import numbers, patient_affine, pixel_spacing
from blosam.dicom.nifti import NiftiVolume
from blosam.dicom.reader import source_kind

_TOLERANCE = 0.5  # pixels


def affine_of(path: Path) -> np.ndarray | None:
    """Affine of an image file, (column, row, 0, 1) to RAS; None when the file does not place it."""
    kind = source_kind(path)
    if kind == "nifti":
        return NiftiVolume(path).affine
    if kind == "dicom":
        return header_affine(pydicom.dcmread(path, stop_before_pixels=True, force=True))
    return None


def header_affine(header: pydicom.Dataset) -> np.ndarray | None:
    """The same from the elements of one DICOM image or frame."""
    spacing = pixel_spacing(header)
    placed = numbers(header, "ImageOrientationPatient", 6), numbers(header, "ImagePositionPatient", 3)
    if spacing is None or any(value is None for value in placed):
        return None
    return patient_affine(header, spacing)


def same_place(first: np.ndarray | None, second: np.ndarray | None, shape: tuple[int, int]) -> bool:
    """Whether the corners of two grids of ``shape`` (rows, columns) agree within half a pixel; true when one of the
    affines is unknown."""
    if first is None or second is None:
        return True
    rows, columns = shape
    corners = np.array([[x, y, 0, 1] for x in (0, columns - 1) for y in (0, rows - 1)], float).T
    pixel = min(np.linalg.norm(first[:3, axis]) for axis in (0, 1))
    distances = np.linalg.norm((first @ corners - second @ corners)[:3], axis=0)
    return bool(distances.max() <= _TOLERANCE * pixel)
