"""Every training pair is read and looked at before any time is spent on training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from blosam.data.split import d1_d2_split
from blosam.dicom.reader import ClinicalReader
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)


def check_pairs(data: Sequence[Mapping[str, Any]], num_classes: int) -> None:
    """Check the labelled images of a training.

    An empty mask, and a class that no mask has, are logged as warnings.

    Args:
        data: ``{"image": path, "label": path}`` items.
        num_classes: number of foreground classes K.

    Raises:
        BlosamError: when a file is missing, unreadable, above 100 megapixels, below 2 x 2 pixels, of one
            value or with NaN; when a mask is missing, of another size, or has other values than 0..K (0 and
            255 for K = 1); when there are fewer than 2 images, or so few with foreground that D1 or D2 would
            have none.
    """
    images, labels = ClinicalReader(), ClinicalReader(mode="label", num_classes=num_classes)
    foreground: list[bool] = []
    seen = np.zeros(num_classes + 1, dtype=bool)
    for pair in tqdm(data, desc="checking", unit="image", delay=2.0, leave=False, disable=None):
        if not pair.get("label"):
            raise BlosamError(f"{pair.get('image')}: the image has no mask. Add one or remove the image.")
        image, mask = _read(images, pair["image"]), _read(labels, pair["label"])
        if image.shape[:2] != mask.shape[:2]:
            raise BlosamError(
                f"{pair['label']}: the mask is {_size(mask)} pixels, but its image is {_size(image)}. "
                "Save the mask at the size of the image."
            )
        found = np.bincount(mask.ravel(), minlength=num_classes + 1) > 0
        foreground.append(bool(found[1:].any()))
        seen |= found
        if not foreground[-1]:
            logger.warning("%s: the mask is empty.", pair["label"])
    d1_d2_split(foreground, seed=0)  # only for its errors: they do not depend on the seed
    missing = [str(number) for number in range(1, num_classes + 1) if not seen[number]]
    if missing:
        logger.warning("No training mask has class %s, so it cannot be learned.", ", ".join(missing))


def _read(reader: ClinicalReader, path: str | os.PathLike) -> np.ndarray:
    """Decode one file, W x H (x 1 or 3)."""
    return reader.get_data(reader.read(path))[0]


def _size(array: np.ndarray) -> str:
    """Columns x rows."""
    return f"{array.shape[0]} x {array.shape[1]}"
