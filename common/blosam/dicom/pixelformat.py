"""The elements that say how pixels are stored, checked before anything is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pydicom

from blosam.dicom.picture import check_size
from blosam.errors import BlosamError

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
MAX_FRAMES = 1_000_000


@dataclass(frozen=True)
class PixelFormat:
    """How pixels are stored (PS3.3 C.7.6.3).

    Args:
        rows: height.
        columns: width.
        samples: 1 or 3 per pixel.
        allocated: bits per sample in the file: 8, 16 or 32.
        stored: bits that hold the value.
        high: highest of these bits.
        signed: whether values are two's complement.
        planar: 0 for R G B R G B, 1 for one plane after the other.
        photometric: MONOCHROME1, MONOCHROME2, PALETTE COLOR or a colour model.
        frames: number of frames.
    """

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: int
    photometric: str
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows x Columns, or Rows x Columns x 3."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def frame_bytes(self) -> int:
        """Bytes of an uncompressed frame, every sample stored."""
        return self.rows * self.columns * self.samples * self.allocated // 8


def pixel_format(path: str | os.PathLike, header: pydicom.Dataset) -> PixelFormat:
    """Read and check the image pixel module; optional elements get the values that everybody assumes.

    Raises:
        BlosamError: when the image has no size, is too large, or is stored in a way that is not read.
    """
    rows, columns = _whole(path, header, "Rows"), _whole(path, header, "Columns")
    check_size(path, columns, rows)
    samples = _whole(path, header, "SamplesPerPixel", 1)
    allocated = _whole(path, header, "BitsAllocated")
    stored = _whole(path, header, "BitsStored", allocated)
    high = _whole(path, header, "HighBit", stored - 1)
    fallback = "RGB" if samples == 3 else "MONOCHROME2"
    try:
        photometric = str(header.get("PhotometricInterpretation") or fallback).strip().upper()
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        photometric = ""
    known = photometric in GREY + COLOUR + (PALETTE,)
    if not known or samples != (3 if photometric in COLOUR else 1) or allocated not in (8, 16, 32):
        name = photometric if known or photometric.startswith(("YBR_", "CMYK", "ARGB", "HSV", "XYB")) else "This kind"
        raise BlosamError(
            f"{path}: {name} with {samples} sample(s) of {allocated} bits is not supported. "
            "Convert it to MONOCHROME2 or RGB of 8 or 16 bits."
        )
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise BlosamError(
            f"{path}: BitsStored {stored} and HighBit {high} do not fit into {allocated} bits. Correct the header."
        )
    if allocated == 32 and samples == 3:
        raise BlosamError(f"{path}: colours of 32 bits per sample are not supported. Convert it to 8 bits.")
    frames = _whole(path, header, "NumberOfFrames", 1) or 1
    if not 1 <= frames <= MAX_FRAMES:
        raise BlosamError(f"{path}: NumberOfFrames is {frames}, outside 1 to {MAX_FRAMES}. Correct the header.")
    signed = _whole(path, header, "PixelRepresentation", 0) == 1 and photometric in GREY
    planar = _whole(path, header, "PlanarConfiguration", 0)
    return PixelFormat(rows, columns, samples, allocated, stored, high, signed, planar, photometric, frames)


def _whole(path: str | os.PathLike, header: pydicom.Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number of the header; absent and empty elements give ``default``."""
    try:
        value = header.get(keyword)
        if value is None or value == "":
            if default is None:
                raise BlosamError(
                    f"{path}: the DICOM file cannot be read ({keyword} is missing). Choose an image object."
                )
            return default
        return int(value)
    except (TypeError, ValueError, AttributeError, OverflowError, NotImplementedError) as error:
        if isinstance(error, BlosamError):
            raise
        raise BlosamError(
            f"{path}: the DICOM file cannot be read ({keyword} is no whole number). Replace the file."
        ) from error
