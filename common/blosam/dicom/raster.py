"""PNG, JPEG, BMP, TIFF and other pictures that Pillow reads."""

from __future__ import annotations

import os
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from blosam.dicom.picture import MAX_PIXELS, Picture, check_size
from blosam.errors import BlosamError

# What Pillow raises for broken files, depending on the format and on where the damage is.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)
# Not everything Pillow could open: some formats, such as EPS, would start other programs.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "BMP", "TIFF", "GIF", "WEBP", "PPM")
_GREY_8 = ("1", "L")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_raster(path: str | os.PathLike, label: bool = False) -> Picture:
    """Decode a picture file.

    Palette, alpha, CMYK and other colour models become RGB or grey; an alpha channel is dropped. The
    orientation note that cameras write (EXIF) is ignored, so that masks stay on the stored grid.

    Args:
        path: file to read.
        label: whether it is a mask; a palette mask then gives its indices, unless its colours are only black
            and white.

    Returns:
        The picture; values 0..255 for 8-bit files, else as stored. The affine is the identity.

    Raises:
        BlosamError: when the file cannot be decoded, is too large, or holds several frames.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; our own limit is checked right after opening.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise BlosamError(f"{path}: more than {MAX_PIXELS // 10**6} megapixels. Make the image smaller.") from error
    except _DECODE_ERRORS as error:
        raise _unreadable(path, error) from error
    with image:
        check_size(path, *image.size)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in ("TIFF", "GIF", "PNG", "WEBP"):
            raise BlosamError(f"{path}: the file holds {frames} frames. Save each frame as a file of its own.")
        try:
            values = _values(image, label)
        except _DECODE_ERRORS as error:
            raise _unreadable(path, error) from error
        values = np.swapaxes(values, 0, 1)
        deep = image.mode in _DEEP
        return Picture(
            values=values,
            affine=np.eye(4),
            kind="raster",
            spatial_shape=values.shape[:2],
            white=None if deep else 255.0,
            lossy=image.format in ("JPEG", "MPO", "JPEG2000", "WEBP"),
            intensity="percentiles 0.5 to 99.5" if deep else "divided by 255",
        )


def _values(image: Image.Image, label: bool) -> np.ndarray:
    """Decode to H x W or H x W x 3."""
    image.load()
    if image.mode in _DEEP:
        return np.asarray(image)
    if image.mode == "P" and label:
        return _palette_mask(image)
    if image.mode in _GREY_8 or image.mode in ("LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # directly to RGB would fail for palettes with transparency
    return np.asarray(image.convert("RGB"))


def _palette_mask(image: Image.Image) -> np.ndarray:
    """Values of a palette mask, H x W: black and white as 0 and 255, otherwise the indices (classes)."""
    colours = np.asarray(image.convert("RGBA").convert("RGB"))
    grey = colours[..., 0]
    if (colours == grey[..., None]).all() and np.isin(grey, (0, 255)).all():
        return grey
    return np.asarray(image)


def _unreadable(path: str | os.PathLike, error: BaseException) -> BlosamError:
    """The error for a file that Pillow cannot decode."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "its content is none of PNG, JPEG, BMP, TIFF, NIfTI or DICOM"
    return BlosamError(f"{path}: the image cannot be read ({reason}). Replace the file.")
