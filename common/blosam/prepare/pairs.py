"""Masks that are images (PNG, NIfTI, DICOM ...), paired with their images by name."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from blosam.data.datalist import file_stem, is_image
from blosam.dicom.labels import JPEG_COLOUR_TOLERANCE, JPEG_THRESHOLD, has_grey_areas
from blosam.dicom.picture import Picture
from blosam.dicom.reader import decode
from blosam.errors import BlosamError

from .found import Found, Labelled, Layers, Problem
from .place import affine_of, same_place

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr", "cxr_png", "original", "originals")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "labelstr", "segmentations", "segmentation", "annotations", "ground_truth",
    "groundtruth", "gt", "seg",
)  # fmt: skip
# What people put behind a name to say that the file is its mask.
MASK_ENDING = re.compile(r"[ _.-](mask|masks|seg|segmentation|label|labels|labelled|gt|pseudo)$", re.IGNORECASE)
CHANNEL_ENDING = re.compile(r"_0000$")  # nnU-Net numbers the channels of its images


def find_pairs(source: Path, images: Path | None = None, masks: Path | None = None) -> Found:
    """Pair images and mask images.

    Looked for are two folders (``images/`` and ``masks/`` or their usual other names), then one folder in which a
    mask is called like its image with ``_mask``, ``_seg``, ``_label``, ``_gt`` or ``_pseudo`` behind it.

    Args:
        source: the folder.
        images: folder of the images, when it is called otherwise.
        masks: folder of the masks, when it is called otherwise.

    Raises:
        BlosamError: when there is no such arrangement.
    """
    images = images or _folder(source, IMAGE_FOLDERS)
    masks = masks or _folder(source, MASK_FOLDERS)
    if images is not None and masks is not None:
        return _paired(_files(images), _files(masks), f"images in {images.name}/, masks in {masks.name}/")
    files = _files(source)
    masks_here = [path for path in files if MASK_ENDING.search(file_stem(path))]
    if not masks_here:
        raise BlosamError(
            f"{source}: no labels found. Expected images/ and masks/ with files of equal names, masks called NAME_mask "
            "or NAME_seg beside their images, DICOM SEG, COCO or LabelMe files; or name --images and --masks."
        )
    return _paired([p for p in files if p not in set(masks_here)], masks_here, "masks beside their images")


def _paired(images: list[Path], masks: list[Path], kind: str) -> Found:
    """Match by name; ambiguous and lonely masks are problems, lonely images are unlabelled."""
    found = Found(kind)
    by_name: dict[str, Path] = {}
    for path in masks:
        name = mask_name(path)
        if name in by_name:
            found.problems.append(Problem(path, f"{by_name[name].name} is a mask of the same name. Remove one."))
        else:
            by_name[name] = path
    seen: dict[str, Path] = {}
    for path in images:
        name = CHANNEL_ENDING.sub("", file_stem(path)).lower()
        if name in seen:
            found.problems.append(Problem(path, f"{seen[name].name} is an image of the same name. Rename one."))
            continue
        seen[name] = path
        mask = by_name.pop(name, None)
        if mask is None:
            found.unlabelled.append(path)
        else:
            read = functools.partial(mask_values, mask, path)
            found.labelled.append(Labelled(path, mask, read, functools.partial(_distinct, mask)))
    for path in by_name.values():
        found.problems.append(Problem(path, "there is no image of this name. Add the image or remove the mask."))
    return found


def mask_name(path: Path) -> str:
    """The name of the image that a mask belongs to, in lower case."""
    return CHANNEL_ENDING.sub("", MASK_ENDING.sub("", file_stem(path))).lower()


def mask_values(path: Path, image: Path, shape: tuple[int, int]) -> Layers:
    """The values of a mask file, Rows x Columns, as the one layer ``""``.

    Args:
        path: the mask.
        image: its image, for the place in space of NIfTI masks.
        shape: (rows, columns) of the image.

    Raises:
        BlosamError: when it cannot be read, is in colour, has another size or lies elsewhere in space.
    """
    values, picture = _grey(path)
    if values.shape != shape:
        raise BlosamError(
            f"{path}: the mask is {values.shape[1]} x {values.shape[0]} pixels, but its image is {shape[1]} x "
            f"{shape[0]}. Save the mask at the size of the image."
        )
    if picture.kind == "nifti" and not same_place(affine_of(image), picture.affine, shape):
        raise BlosamError(f"{path}: the mask lies elsewhere in space than its image. Resample it onto the image.")
    return {"": values}


def _distinct(path: Path) -> np.ndarray:
    """The different values of a mask file."""
    return np.unique(_grey(path)[0])


def _grey(path: Path) -> tuple[np.ndarray, Picture]:
    """Rows x Columns values of a mask; what lossy compression did to black and white is undone."""
    picture = decode(path, label=True)
    values = np.swapaxes(picture.values, 0, 1)
    if values.ndim == 3:
        if int(np.ptp(values.astype(int), axis=-1).max()) > (JPEG_COLOUR_TOLERANCE if picture.lossy else 0):
            raise BlosamError(f"{path}: the mask is in colour. Save one grey value per class.")
        values = values[..., 0]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BlosamError(f"{path}: the mask holds NaN or infinite values. Save whole numbers, one per class.")
    if picture.lossy and has_grey_areas(values):
        raise BlosamError(
            f"{path}: the mask has grey areas, and JPEG keeps only black and white exact enough. Save it as PNG."
        )
    return (np.where(values > JPEG_THRESHOLD, 255, 0) if picture.lossy else values), picture


def _folder(source: Path, names: tuple[str, ...]) -> Path | None:
    """The first folder below ``source`` with one of these names, in their order, whatever the case."""
    folders = {path.name.lower(): path for path in sorted(source.iterdir()) if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _files(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted."""
    if not folder.is_dir():
        raise BlosamError(f"{folder}: there is no such folder. Check --images and --masks.")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return [path for path in found if not is_text(path) and is_image(path)]


def is_text(path: Path) -> bool:
    """Whether a file is a list or a note by its name."""
    return path.suffix.lower() in (".json", ".csv", ".txt", ".md")
