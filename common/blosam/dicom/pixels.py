"""Pixels and geometry of a single-frame DICOM image: uncompressed greyscale and RGB.

The order of greyscale steps is that of PS3.4 N.2: modality transform, VOI transform, then the inversion that
MONOCHROME1 asks for. Works with pydicom 2.4 and 3.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ImplicitVRLittleEndian

from blosam.dicom.picture import Picture, check_size
from blosam.errors import BlosamError

try:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
except ImportError:  # pydicom 2.4
    from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut

logger = logging.getLogger(__name__)

_DECODE_ERRORS = (
    InvalidDicomError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    NotImplementedError, RuntimeError, OverflowError, struct.error, zlib.error,
)  # fmt: skip
_PHOTOMETRIC = {"MONOCHROME1": 1, "MONOCHROME2": 1, "RGB": 3}  # samples per pixel of what is read here


def read_dicom(path: str | os.PathLike, label: bool = False) -> Picture:
    """Decode a DICOM image.

    Args:
        path: file to read.
        label: whether it is a mask; the stored values are then returned without any transform.

    Returns:
        The picture, values W x H (first axis: column index) or W x H x 3.

    Raises:
        BlosamError: when the file is no image, cannot be decoded, is too large, compressed, or of several
            frames.
    """
    header = _load(path, stop_before_pixels=True)
    _check_header(path, header)
    dataset = _load(path)
    try:
        stored = _stored_values(path, dataset)
    except _DECODE_ERRORS as error:
        if isinstance(error, BlosamError):
            raise
        raise _unreadable(path, error) from error
    spacing = pixel_spacing(dataset)
    picture = Picture(
        values=np.swapaxes(stored, 0, 1),
        affine=patient_affine(dataset, spacing),
        kind="dicom",
        spatial_shape=(int(dataset.Columns), int(dataset.Rows)),
        spacing=spacing,
        unit="mm" if spacing else "unknown",
        white=None,
    )
    if stored.ndim == 3:
        picture.white = float(2 ** int(dataset.BitsStored) - 1)
        picture.intensity = f"divided by {picture.white:.0f}"
    elif not label:
        _apply_greyscale(path, dataset, picture)
    return picture


def pixel_spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """(between rows, between columns) in mm from PixelSpacing, else ImagerPixelSpacing, else None."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = _numbers(dataset, keyword, 2)
        if value is not None and (value > 0).all():
            return float(value[0]), float(value[1])
    return None


def patient_affine(dataset: pydicom.Dataset, spacing: tuple[float, float] | None) -> np.ndarray:
    """Affine from (column, row, 0, 1) to RAS millimetres (PS3.3 C.7.6.2.1.1, with the signs of x and y
    turned).

    Args:
        dataset: may hold ImageOrientationPatient and ImagePositionPatient; without them the affine only
            scales.
        spacing: (between rows, between columns) in millimetres; None counts as 1.
    """
    rows, columns = spacing or (1.0, 1.0)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    position = _numbers(dataset, "ImagePositionPatient", 3)
    if orientation is None or position is None:
        return np.diag([columns, rows, 1.0, 1.0])
    along_row, along_column = orientation[:3], orientation[3:]  # directions of a growing column and row index
    normal = np.cross(along_row, along_column)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column), np.linalg.norm(normal)
    if min(lengths) < 1e-3:  # not a plane
        return np.diag([columns, rows, 1.0, 1.0])
    lps = np.eye(4)
    lps[:3, 0] = along_row * columns
    lps[:3, 1] = along_column * rows
    lps[:3, 2] = normal
    lps[:3, 3] = position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _load(path: str | os.PathLike, stop_before_pixels: bool = False) -> pydicom.Dataset:
    """Parse a file; one without the 128-byte preamble is accepted, its missing syntax is the default one."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _check_header(path: str | os.PathLike, header: pydicom.Dataset) -> None:
    """Refuse, before decoding, what is no image or not supported."""
    try:
        rows, columns = int(header.Rows), int(header.Columns)
        samples, bits = int(header.SamplesPerPixel), int(header.BitsAllocated)
        photometric = str(header.PhotometricInterpretation)
        frames = int(header.get("NumberOfFrames", 1) or 1)
    except (AttributeError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    check_size(path, columns, rows)
    if frames > 1:
        raise BlosamError(f"{path}: the DICOM file holds {frames} frames. Save each frame as a file of its own.")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        raise BlosamError(f"{path}: the pixels are compressed ({syntax.name}). Decompress the file first.")
    if _PHOTOMETRIC.get(photometric) != samples or bits not in (8, 16, 32):
        raise BlosamError(
            f"{path}: {photometric} with {samples} sample(s) of {bits} bits is not supported. "
            "Convert it to MONOCHROME2 or RGB of 8 or 16 bits."
        )


def _stored_values(path: str | os.PathLike, dataset: pydicom.Dataset) -> np.ndarray:
    """Pixels as stored, Rows x Columns (x 3), without what may lie in the bits above BitsStored."""
    if "PixelData" not in dataset:
        raise BlosamError(f"{path}: the DICOM file has no pixel data. Choose an image object.")
    stored = np.asarray(dataset.pixel_array)
    allocated, used = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", used - 1))
    if not 1 <= used <= allocated or high != used - 1:
        raise BlosamError(
            f"{path}: BitsStored {used} and HighBit {high} of {allocated} bits are not supported. "
            "Convert the file to HighBit = BitsStored - 1."
        )
    if used < allocated:
        spare = np.array(allocated - used, dtype=stored.dtype)
        stored = (stored << spare) >> spare  # for signed types the second shift restores the sign
    return stored


def _apply_greyscale(path: str | os.PathLike, dataset: pydicom.Dataset, picture: Picture) -> None:
    """Modality transform, window or VOI table, and MONOCHROME1, onto ``picture`` in place."""
    stored = picture.values
    picture.inverted = str(dataset.PhotometricInterpretation) == "MONOCHROME1"
    try:
        values = np.asarray(apply_modality_lut(stored, dataset))
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
    shown = _apply_voi(path, dataset, values)
    if shown is not None:
        picture.values, picture.white, picture.intensity = shown, 1.0, "DICOM window"
        return
    slope = float(dataset.get("RescaleSlope", 1) or 1)
    plain = "ModalityLUTSequence" not in dataset and slope > 0 and stored.dtype.kind == "u"
    if plain and int(dataset.BitsStored) <= 8:
        picture.white = float(2 ** int(dataset.BitsStored) - 1)
        picture.intensity = f"divided by {picture.white:.0f}"
        return
    picture.values = values
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        transformed = apply_modality_lut(np.array([int(padding)]).astype(stored.dtype), dataset)
        picture.padding = float(transformed[0])


def _apply_voi(path: str | os.PathLike, dataset: pydicom.Dataset, values: np.ndarray) -> np.ndarray | None:
    """The file's first VOI table or window, scaled to [0, 1]; None when there is none that works."""
    table = dataset.get("VOILUTSequence")
    centre, width = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    if not table and (centre is None or width is None):
        return None
    if table and np.array_equal(values, np.round(values)):
        values = values.astype(np.int32)  # a table is indexed
    try:
        with np.errstate(over="ignore"):
            shown = np.asarray(apply_voi_lut(values, dataset), dtype=np.float64)
            if table:
                low, high = 0.0, 2.0 ** int(table[0].LUTDescriptor[2]) - 1
            else:
                # pydicom's output range follows from several elements: ask it what the extremes become.
                low, high = apply_voi_lut(np.array([-1e12, 1e12]), dataset)
    except _DECODE_ERRORS as error:
        logger.warning("%s: the window is not usable (%s); percentiles are used instead.", path, error)
        return None
    if shown.min() == shown.max() or high == low:
        logger.warning("%s: the window shows no contrast; percentiles are used instead.", path)
        return None
    return (shown - low) / (high - low)


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int | None = None) -> np.ndarray | None:
    """The finite numbers of an element; None when absent, empty, malformed or not ``count`` of them."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    if numbers.size == 0 or not np.isfinite(numbers).all() or (count is not None and numbers.size != count):
        return None
    return numbers


def _unreadable(path: str | os.PathLike, error: BaseException) -> BlosamError:
    """The error for a file that pydicom cannot decode."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return BlosamError(f"{path}: the DICOM file cannot be read ({reason}). Replace the file.")
