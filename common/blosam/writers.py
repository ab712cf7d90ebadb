"""Folders for results, and names for files made from images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from blosam.errors import BlosamError

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
