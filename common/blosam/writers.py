"""Masks to files, on the source grid: PNG, NIfTI and overlay pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from blosam.atomicio import atomic_path
from blosam.dicom.nifti_write import save_like_source
from blosam.errors import BlosamError
from blosam.evaluation.overlay import draw_overlay
from blosam.predictor import Prediction

_IMAGE_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def output_names(paths: Sequence[Path]) -> list[str]:
    """A distinct output name for each input.

    Image files keep their stem. DICOM file names often hold names or numbers of patients, so DICOM inputs are named by
    position and the first 8 digits of their SHA-256.
    """
    names: list[str] = []
    taken: set[str] = set()
    for position, path in enumerate(paths, start=1):
        suffix = next((ending for ending in _IMAGE_SUFFIXES if path.name.lower().endswith(ending)), None)
        if suffix is None:
            name = f"image_{position:04d}_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        else:
            name = path.name[: -len(suffix)]
        while name in taken:
            name = f"{name}_{position:04d}"
        taken |= {name, f"{name}_overlay"}
        names.append(name)
    return names


def make_folder(path: Path) -> None:
    """Make a folder for results.

    Raises:
        BlosamError: when it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BlosamError(f"{path}: cannot make the folder ({error.strerror}). Name another output folder.") from error
    if not os.access(path, os.W_OK):
        raise BlosamError(f"{path}: the folder is not writable. Name another output folder.")


def write_prediction(
    prediction: Prediction,
    name: str,
    folder: Path,
    formats: Sequence[str],
    labels: dict[str, int],
    force: bool = False,
    keep: Sequence[Path] = (),
) -> list[str]:
    """Write one prediction in each format.

    Args:
        prediction: mask Rows x Columns and what belongs to it.
        name: file stem.
        folder: existing folder.
        formats: among ``png`` (0 and 255 for one class, class indices otherwise), ``nifti``, ``overlay``.
        labels: class name to value.
        force: whether existing files are replaced.
        keep: files that are not even replaced with ``force``: the images themselves.

    Returns:
        The names of the files written.

    Raises:
        BlosamError: when a file exists and ``force`` is not set, or cannot be written; nothing is then half-written.
    """
    writers = {"png": _write_png, "nifti": _write_nifti, "overlay": _write_overlay}
    endings = {"png": ".png", "nifti": ".nii.gz", "overlay": "_overlay.png"}
    targets = {kind: folder / f"{name}{endings[kind]}" for kind in formats}
    for target in targets.values():
        if target.exists() and any(path.exists() and target.samefile(path) for path in keep):
            raise BlosamError(f"{target}: is one of the images to segment and is not replaced. Give another --out.")
        if target.exists() and not force:
            raise BlosamError(f"{target}: exists already. Give another --out, or --force to replace it.")
    for kind, target in targets.items():
        with atomic_path(target) as temporary:
            writers[kind](prediction, temporary, labels)
    return [target.name for target in targets.values()]


def _write_png(prediction: Prediction, path: Path, labels: dict[str, int]) -> None:
    scale = 255 if len(labels) == 1 else 1
    Image.fromarray(prediction.mask * np.uint8(scale)).save(path)


def _write_nifti(prediction: Prediction, path: Path, labels: dict[str, int]) -> None:
    """Columns x Rows x 1, so that voxel (i, j) is column i and row j, as the affine says; of NIfTI, its own shape."""
    volume = np.ascontiguousarray(prediction.mask.T[..., None])
    save_like_source(path, volume, prediction.path, prediction.affine, prediction.unit)


def _write_overlay(prediction: Prediction, path: Path, labels: dict[str, int]) -> None:
    names = {value: name for name, value in labels.items()}
    Image.fromarray(draw_overlay(prediction.image, pred=prediction.mask, class_names=names)).save(path)
