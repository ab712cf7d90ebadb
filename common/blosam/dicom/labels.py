"""From the values of a mask file to class numbers 0..K."""

from __future__ import annotations

import logging
import os

import numpy as np
from scipy import ndimage

from blosam.dicom.picture import Picture
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

JPEG_THRESHOLD = 127
JPEG_COLOUR_TOLERANCE = 8  # equal channels differ by a few values after JPEG's colour conversion
_EVEN = 24  # values that differ less are one tone
_AREA = 64  # pixels
_LISTED = 8
_warned: set[str] = set()


def class_mask(path: str | os.PathLike, picture: Picture, num_classes: int | None) -> np.ndarray:
    """Class numbers of a decoded mask.

    Args:
        path: named in messages.
        picture: decoded mask.
        num_classes: number of foreground classes K. None only tells foreground (1) from background (0),
            without any check of the values.

    Returns:
        W x H uint8, 0..K.

    Raises:
        BlosamError: for values other than classes 0..K or, with one class, 0 and 255.
    """
    values = _single_channel(path, picture)
    if picture.lossy:
        return _threshold(path, values, num_classes)
    if num_classes is None:
        return (values > 0).astype(np.uint8)
    found = np.unique(values)
    integral = found.dtype.kind in "uib" or (np.isfinite(found).all() and (found == np.round(found)).all())
    if integral and found[0] >= 0 and found[-1] <= num_classes:
        return values.astype(np.uint8)
    if num_classes == 1 and np.isin(found, (0, 255)).all():
        return (values == 255).astype(np.uint8)
    listed = ", ".join(f"{value:g}" for value in found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
    allowed = "0 and 255, or 0 and 1" if num_classes == 1 else f"the classes 0 to {num_classes}"
    raise BlosamError(f"{path}: the mask has the values {listed}, but only {allowed} are allowed. Correct it.")


def _single_channel(path: str | os.PathLike, picture: Picture) -> np.ndarray:
    """W x H values of a grey mask, or of a colour mask whose channels are the same."""
    values = picture.values
    if values.ndim == 2:
        return values
    spread = int((values.max(axis=-1).astype(int) - values.min(axis=-1)).max())
    if spread > (JPEG_COLOUR_TOLERANCE if picture.lossy else 0):
        raise BlosamError(
            f"{path}: the mask is in colour, its channels differ by up to {spread}. Save it as a grey image."
        )
    return values[..., 0]


def _threshold(path: str | os.PathLike, values: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Undo what lossy compression did to a black and white mask."""
    if num_classes is not None and num_classes > 1:
        raise BlosamError(f"{path}: a JPEG mask cannot hold {num_classes} classes. Save it as PNG.")
    highest = int(values.max())
    if 0 < highest <= JPEG_THRESHOLD // 2 and num_classes is not None:
        raise BlosamError(f"{path}: the JPEG mask only reaches {highest}, not 255. Save it as PNG with 0 and 255.")
    if num_classes is not None and has_grey_areas(values):
        raise BlosamError(
            f"{path}: the mask has grey areas, and JPEG keeps only black and white exact enough. Save it as PNG."
        )
    if not np.isin(values, (0, 255)).all() and str(path) not in _warned:
        _warned.add(str(path))
        logger.warning("%s: JPEG mask, thresholded at %d; PNG keeps masks exact.", path, JPEG_THRESHOLD)
    return (values > JPEG_THRESHOLD).astype(np.uint8)


def has_grey_areas(values: np.ndarray) -> bool:
    """Whether a lossy mask has even areas of a third tone: classes, which a threshold would throw together.

    Args:
        values: of a mask after lossy compression, 0..255, two axes.
    """
    values = values.astype(np.int16)
    even = ndimage.maximum_filter(values, 3) - ndimage.minimum_filter(values, 3) <= _EVEN
    third = (values > _EVEN) & (values < 255 - _EVEN)
    faint = 0 < int(values.max()) <= _EVEN  # classes 1, 2, ... drown in the loss
    return faint or int((even & third).sum()) > _AREA
