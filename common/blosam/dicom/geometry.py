"""Where the pixels of a DICOM image lie and how large they are."""

from __future__ import annotations

import numpy as np
import pydicom

_SOURCES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_PLAUSIBLE = (1e-5, 1e3)  # millimetres per pixel: from electron microscopy to whole fields of view in one pixel
_MAGNIFICATION = (1.0, 10.0)


def spacing_of(header: pydicom.Dataset) -> tuple[tuple[float, float] | None, str, list[str]]:
    """Distance between pixels in millimetres, the keyword it comes from, and what to know about it.

    PixelSpacing outranks the spacing at the detector (PS3.3 10.7.1.3). ImagerPixelSpacing is divided by
    EstimatedRadiographicMagnificationFactor where the file states that.

    Returns:
        ((between rows, between columns) or None, keyword or "", warnings).
    """
    warnings: list[str] = []
    for keyword in _SOURCES:
        value = numbers(header, keyword, 2)
        if value is None:
            continue
        if not ((value > _PLAUSIBLE[0]) & (value < _PLAUSIBLE[1])).all():
            warnings.append(f"{keyword} is not plausible and was ignored.")
            continue
        spacing = float(value[0]), float(value[1])
        if keyword == "ImagerPixelSpacing":
            spacing, words = _at_the_patient(header, spacing)
            warnings += words
        elif keyword == "PixelSpacing":
            warnings += _uncalibrated(header, value)
        else:
            warnings.append(
                "The spacing is that of the film scanner; lengths on the film are not those in the patient."
            )
        return spacing, keyword, warnings
    return None, "", warnings


def pixel_spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    """(between rows, between columns) in millimetres, or None when the file does not say."""
    return spacing_of(header)[0]


def _at_the_patient(header: pydicom.Dataset, spacing: tuple[float, float]) -> tuple[tuple[float, float], list[str]]:
    """Undo the magnification from the patient to the detector, where it is stated."""
    factor = _magnification(header)
    if factor is None:
        caveat = "The spacing is that of the detector; in the patient, lengths are smaller by an unknown magnification."
        return spacing, [caveat]
    return (spacing[0] / factor, spacing[1] / factor), [
        f"The spacing is that of the detector, divided by the estimated magnification {factor:g}."
    ]


def _uncalibrated(header: pydicom.Dataset, spacing: np.ndarray) -> list[str]:
    """A caveat when PixelSpacing only repeats the spacing of the detector."""
    detector = numbers(header, "ImagerPixelSpacing", 2)
    if detector is None or not np.allclose(detector, spacing, rtol=1e-4):
        return []
    factor = _magnification(header)
    size = f"about {factor:g} times" if factor else "by an unknown magnification"
    return [f"PixelSpacing repeats the spacing of the detector; in the patient, lengths are smaller {size}."]


def _magnification(header: pydicom.Dataset) -> float | None:
    """EstimatedRadiographicMagnificationFactor, if it is one."""
    value = numbers(header, "EstimatedRadiographicMagnificationFactor", 1)
    if value is None or not _MAGNIFICATION[0] <= value[0] <= _MAGNIFICATION[1]:
        return None
    return float(value[0])


def patient_affine(header: pydicom.Dataset, spacing: tuple[float, float] | None) -> np.ndarray:
    """Affine from (column, row, 0, 1) to RAS millimetres (PS3.3 C.7.6.2.1.1, with the signs of x and y
    turned).

    Args:
        header: may hold ImageOrientationPatient and ImagePositionPatient; without them the affine only
            scales.
        spacing: (between rows, between columns) in millimetres; None counts as 1.
    """
    rows, columns = spacing or (1.0, 1.0)
    orientation = numbers(header, "ImageOrientationPatient", 6)
    position = numbers(header, "ImagePositionPatient", 3)
    if orientation is None or position is None:
        return np.diag([columns, rows, 1.0, 1.0])
    along_row, along_column = orientation[:3], orientation[3:]  # directions of a growing column and row index
    normal = np.cross(along_row, along_column)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column), np.linalg.norm(normal)
    if not 1e-3 < min(lengths) <= max(lengths) < 1e3:  # not a plane
        return np.diag([columns, rows, 1.0, 1.0])
    lps = np.eye(4)
    lps[:3, 0] = along_row * columns
    lps[:3, 1] = along_column * rows
    lps[:3, 2] = normal
    lps[:3, 3] = position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def numbers(header: pydicom.Dataset, keyword: str, count: int | None = None) -> np.ndarray | None:
    """The finite numbers of an element; None when absent, empty, malformed or not ``count`` of them."""
    try:
        value = header.get(keyword)
        if value is None or value == "":
            return None
        found = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    except (TypeError, ValueError, OverflowError, AttributeError, NotImplementedError):
        return None
    if found.size == 0 or not np.isfinite(found).all() or (count is not None and found.size != count):
        return None
    return found
