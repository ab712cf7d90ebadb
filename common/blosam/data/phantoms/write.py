"""Datasets of phantoms on disk: images, masks and an index, in the formats that clinics and challenges use."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from blosam.errors import BlosamError

from . import KINDS, draw
from .dicom_files import save_dicom

IMAGE_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "nifti": ".nii.gz", "dicom": ".dcm"}
MASK_SUFFIXES = {"png": ".png", "nifti": ".nii.gz"}
# Width / height, and the millimetres that the longest side of the image covers.
FORMATS = {"chest": (0.88, 430.0), "dental": (1.9, 250.0), "colonoscopy": (1.25, 60.0)}


def write_dataset(
    kind: str,
    folder: str | Path,
    count: int,
    seed: int = 0,
    size: int = 256,
    image_format: str = "png",
    mask_format: str = "png",
    aspect: float | None = None,
    variety: float = 0.5,
    photometric: str = "MONOCHROME2",
) -> list[dict[str, str]]:
    """Draw ``count`` phantoms with seeds ``seed``, ``seed + 1``, ... and write them below ``folder``.

    ``images/`` and ``masks/`` hold files of the same stem, ``index.csv`` their name, patient and seed. PNG masks
    have the values 0 and 255, NIfTI masks 0 and 1. NIfTI arrays are W x H with spacing in the affine; greyscale
    NIfTI and DICOM images have 12 bits, the others 8.

    Args:
        kind: "chest", "dental" or "colonoscopy".
        folder: made if absent; may hold an older dataset of the same kind, which is replaced file by file.
        count: number of images, at least 1.
        seed: first seed.
        size: longest side in pixels.
        image_format: "png", "jpeg", "nifti" (not for colour) or "dicom".
        mask_format: "png" or "nifti".
        aspect: width / height; None takes what is usual for the kind.
        variety: see :func:`blosam.data.phantoms.draw`.
        photometric: "MONOCHROME1" or "MONOCHROME2", for DICOM radiographs.

    Returns:
        One ``{"image": path, "label": path}`` per phantom.

    Raises:
        BlosamError: for a value that is not listed above, or a folder that holds other files.
    """
    _check(kind, count, image_format, mask_format, photometric)
    folder = Path(folder)
    _check_folder(kind, folder)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shape_aspect, extent = FORMATS[kind]
    spacing = extent / size
    items, rows = [], []
    for number in range(seed, seed + count):
        name = f"{kind}_{number:05d}"
        phantom = draw(kind, number, size, shape_aspect if aspect is None else aspect, variety)
        image = folder / "images" / (name + IMAGE_SUFFIXES[image_format])
        label = folder / "masks" / (name + MASK_SUFFIXES[mask_format])
        if image_format == "dicom":
            save_dicom(image, kind, number, phantom.image, spacing, photometric)
        else:
            _save_image(image, phantom.image, spacing)
        _save_label(label, phantom.mask, spacing)
        items.append({"image": str(image), "label": str(label)})
        rows.append((name, f"phantom-{kind}-{number:06d}", number))
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("name", "patient", "seed"), *rows])
    return items


def _check(kind: str, count: int, image_format: str, mask_format: str, photometric: str) -> None:
    choices = (
        ("kind of phantom", kind, KINDS),
        ("image format", image_format, IMAGE_SUFFIXES),
        ("mask format", mask_format, MASK_SUFFIXES),
        ("photometric interpretation", photometric, ("MONOCHROME1", "MONOCHROME2")),
    )
    for what, value, known in choices:
        if value not in known:
            raise BlosamError(f"Unknown {what} {value!r}. Use one of {', '.join(known)}.")
    if count < 1:
        raise BlosamError(f"Cannot write {count} phantoms. Ask for at least 1.")
    if kind == "colonoscopy" and image_format == "nifti":
        raise BlosamError("Colour frames are not written as 'nifti'. Use png, jpeg or dicom for colonoscopy.")


def _check_folder(kind: str, folder: Path) -> None:
    """Refuse a folder with images that this writer did not make."""
    for part in ("images", "masks"):
        for path in sorted((folder / part).glob("*")):
            if not path.name.startswith(f"{kind}_"):
                raise BlosamError(f"{path} is not a {kind} phantom. Write the phantoms to a new or empty folder.")


def _save_image(path: Path, image: np.ndarray, spacing: float) -> None:
    """Save an image in 0..1 as NIfTI with 12 bits or as PNG or JPEG with 8, by the suffix of ``path``."""
    if path.name.endswith(".nii.gz"):
        _save_nifti(path, np.round(image * 4095).astype(np.uint16), spacing)
    else:
        pixels = Image.fromarray(np.round(image * 255).astype(np.uint8))
        pixels.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def _save_label(path: Path, mask: np.ndarray, spacing: float) -> None:
    """Save a mask as NIfTI with its class numbers or as PNG with 0 and 255, by the suffix of ``path``."""
    if path.name.endswith(".nii.gz"):
        _save_nifti(path, mask, spacing)
    else:
        Image.fromarray(mask * np.uint8(255)).save(path)


def _save_nifti(path: Path, array: np.ndarray, spacing: float) -> None:
    """Save H x W as a W x H NIfTI image; columns run to the patient's left, rows to the feet (ITK's 2-D habit)."""
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), np.diag([-spacing, -spacing, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
