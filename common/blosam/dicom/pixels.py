"""DICOM images as pictures: any frame of any file whose transfer syntax is read. Works with pydicom 2.4 and 3."""

from __future__ import annotations

import os

import numpy as np
import pydicom

from blosam.dicom.colour import rgb_from_palette, rgb_from_ybr
from blosam.dicom.container import DAMAGE, DicomFile, damaged, quiet
from blosam.dicom.decoding import check_syntax, decode_frame
from blosam.dicom.functional_groups import frame_header
from blosam.dicom.geometry import patient_affine, pixel_spacing, spacing_of
from blosam.dicom.greyscale import show_grey
from blosam.dicom.picture import Picture
from blosam.dicom.pixelformat import GREY, PALETTE, PixelFormat, pixel_format
from blosam.errors import BlosamError

__all__ = ["DicomImage", "patient_affine", "pixel_spacing", "read_dicom"]


def read_dicom(path: str | os.PathLike, label: bool = False) -> Picture:
    """Decode a DICOM image of one frame.

    Args:
        path: file to read.
        label: whether it is a mask; the stored values are then returned without any transform.

    Returns:
        The picture, values W x H (first axis: column index) or W x H x 3.

    Raises:
        BlosamError: when the file is no image, cannot be decoded, is too large, or holds several frames.
    """
    image = DicomImage(path)
    if image.form.frames > 1:
        raise BlosamError(
            f"{path}: the DICOM file holds {image.form.frames} frames. Use `blosam predict`, which takes them one by "
            "one, or save each frame as a file of its own."
        )
    picture = image.picture(0, label)
    picture.frame = None
    return picture


class DicomImage:
    """An opened DICOM image; frames are decoded one at a time, when asked for.

    Args:
        path: file to read.

    Attributes:
        header: every element but the pixel data.
        form: how the pixels are stored.

    Raises:
        BlosamError: when the file is no image or is one that is not read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        with quiet():
            self.file = DicomFile(path)
            self.header = self.file.header
            if self.file.pixels is None:
                raise BlosamError(f"{path}: {_no_pixels(self.header)}. Choose an image object.")
            check_syntax(path, self.file.syntax)
            self.form: PixelFormat = pixel_format(path, self.header)
        if self.file.pixels.keyword != "PixelData":
            raise BlosamError(f"{path}: the pixels are floating-point numbers, which are not read. Export an image.")

    def picture(self, index: int, label: bool = False) -> Picture:
        """Frame ``index`` (0-based), ready to be scaled.

        Raises:
            BlosamError: when it cannot be decoded.
        """
        with quiet():
            try:
                return self._picture(index, label)
            except DAMAGE as error:
                if isinstance(error, BlosamError):
                    raise
                raise damaged(self.path, error) from error

    def _picture(self, index: int, label: bool) -> Picture:
        form, header = self.form, frame_header(self.header, index)
        decoded = decode_frame(self.file, index, form)
        spacing, source, warnings = spacing_of(header)
        picture = Picture(
            values=np.swapaxes(decoded.values, 0, 1),
            affine=patient_affine(header, spacing),
            kind="dicom",
            spatial_shape=(form.columns, form.rows),
            spacing=spacing,
            unit="mm" if spacing else "unknown",
            frame=index,
            header=header,
            spacing_source=source,
            warnings=warnings + _cautions(header),
        )
        if label and decoded.photometric in (*GREY, PALETTE, "RGB"):
            return picture
        if form.photometric in GREY:
            show_grey(picture, header, form)
            return picture
        picture.white = float(2**form.stored - 1)
        if form.photometric == PALETTE:
            picture.values, picture.white = rgb_from_palette(picture.values, header)
        elif decoded.photometric in ("YBR_FULL", "YBR_FULL_422"):
            picture.values = rgb_from_ybr(picture.values, form.stored)
        elif decoded.photometric != "RGB":
            raise ValueError(f"{decoded.photometric} only occurs in JPEG 2000")
        picture.intensity = f"divided by {picture.white:.0f}"
        return picture


def _no_pixels(header: pydicom.Dataset) -> str:
    """Why there is nothing to decode."""
    if "SOPClassUID" not in header and "Rows" not in header:
        return "the DICOM file cannot be read (it holds no DICOM image)"
    return "the DICOM file has no pixel data"


def _cautions(header: pydicom.Dataset) -> list[str]:
    """What a user should know about how the image was made."""
    found = []
    if str(header.get("PresentationIntentType") or "").strip().upper() == "FOR PROCESSING":
        found.append("The image is raw detector data (FOR PROCESSING), which looks unlike images made for viewing.")
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        found.append("The image has text burned into its pixels, which may name the patient.")
    return found
