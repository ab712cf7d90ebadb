"""2-D NIfTI files: W x H, or W x H x 1."""

from __future__ import annotations

import os
import struct
import zlib

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from blosam.dicom.picture import Picture, check_size
from blosam.errors import BlosamError

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_DECODE_ERRORS = (
    ImageFileError, HeaderDataError, OSError, EOFError, ValueError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


def read_nifti(path: str | os.PathLike) -> Picture:
    """Decode a 2-D NIfTI file.

    Returns:
        The picture with the file's own affine. Unscaled 8-bit and RGB values are 0..255, all others are
        scaled by percentiles.

    Raises:
        BlosamError: when the file cannot be decoded, is too large, or holds more than one slice.
    """
    try:
        image = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
    if len(shape) < 2 or any(n != 1 for n in shape[2:]):
        raise BlosamError(
            f"{path}: the image is {' x '.join(map(str, shape))}, but only W x H or W x H x 1 can be used. "
            "Save the slices as 2-D files."
        )
    check_size(path, shape[0], shape[1])
    try:
        raw = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = _spacing(image, affine)
        unit = image.header.get_xyzt_units()[0]
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
    raw = raw.reshape(shape[:2])
    if raw.dtype.names:  # RGB24 and RGBA32 are stored as records
        values = np.stack([raw[channel] for channel in raw.dtype.names[:3]], axis=-1)
    elif raw.dtype.kind == "c":
        raise BlosamError(f"{path}: the pixels are complex numbers. Save their magnitude.")
    else:
        values = raw
    eight_bit = values.dtype == np.uint8
    return Picture(
        values=values,
        affine=affine,
        kind="nifti",
        spatial_shape=shape[:2] if len(shape) == 2 else (*shape[:2], 1),
        spacing=spacing,
        unit=unit,
        white=255.0 if eight_bit else None,
        intensity="divided by 255" if eight_bit else "percentiles 0.5 to 99.5",
    )


def _spacing(image: nib.Nifti1Image, affine: np.ndarray) -> tuple[float, float] | None:
    """(between rows, between columns) in millimetres; None when the header leaves both its orientation codes
    and its pixel sizes at their defaults."""
    header = image.header
    zooms = [float(z) for z in header.get_zooms()[:2]]
    coded = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    if not coded and zooms == [1.0, 1.0]:
        return None
    unit = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    columns, rows = (float(np.linalg.norm(affine[:3, axis])) * unit for axis in (0, 1))
    if not (np.isfinite([columns, rows]).all() and columns > 0 and rows > 0):
        return None
    return rows, columns


def _unreadable(path: str | os.PathLike, error: BaseException) -> BlosamError:
    """The error for a file that nibabel cannot decode."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return BlosamError(f"{path}: the NIfTI file cannot be read ({reason}). Replace the file.")
