"""One reader for every image and mask: PNG, JPEG, BMP, TIFF, NIfTI and DICOM.

Given to MONAI's ``LoadImaged`` by its dotted path, it makes training, evaluation, inference and annotation
see the same pixels. The format is told from the content, so file names without an extension work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from blosam.dicom.labels import class_mask
from blosam.dicom.nifti import read_nifti
from blosam.dicom.picture import Picture, check_values
from blosam.dicom.pixels import read_dicom
from blosam.dicom.raster import read_raster
from blosam.errors import BlosamError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".nii", ".nii.gz", ".dcm", ".dicom")
MODES = ("image", "label")
PathLike = str | os.PathLike


class ClinicalReader(ImageReader):
    """Reads one 2-D image or mask file.

    Image mode gives float32 in [0, 1], W x H or W x H x 3, or W x H x 1 when a NIfTI file has a third axis.
    8-bit values are divided by 255; DICOM uses its window; all others are scaled by the percentiles 0.5 and
    99.5. Label mode gives uint8 classes 0..K of the same grid.

    The metadata hold ``affine`` and ``original_affine`` (4 x 4, RAS, of the W x H array), ``spatial_shape``,
    ``space``, ``filename_or_obj``, ``source_kind`` (raster, nifti or dicom), ``spatial_unit`` (of the affine:
    meter, mm, micron or unknown), ``intensity`` (how values were scaled), ``spacing_source`` (a DICOM keyword,
    NIfTI, or empty), ``warnings`` (sentences, one a line) and, only when the file tells it, ``spacing``: (between
    rows, between columns) in millimetres.
    Keys without a value are left out because batches cannot hold None.

    Args:
        mode: ``image`` or ``label``.
        num_classes: number of foreground classes K of the masks; None accepts every value and only tells
            foreground from background.

    Raises:
        BlosamError: for another ``mode`` or a ``num_classes`` outside 1..254.
    """

    def __init__(self, mode: str = "image", num_classes: int | None = 1) -> None:
        super().__init__()
        if mode not in MODES:
            raise BlosamError(f"ClinicalReader has no mode {mode!r}. Use one of {', '.join(MODES)}.")
        if num_classes is not None and not 1 <= num_classes <= 254:
            raise BlosamError(f"num_classes is {num_classes}, but masks can hold 1 to 254 classes. Set num_classes.")
        self.mode = mode
        self.num_classes = num_classes

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether the name is that of a format read here; one without an extension may be DICOM."""
        path = _single(filename)
        return not path.suffix or path.name.lower().endswith(SUFFIXES)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Sequence[PathLike] | PathLike:
        """Only the path: an error raised here would make ``LoadImaged`` try other readers in silence."""
        return data

    def get_data(self, img: Sequence[PathLike] | PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode one file.

        Args:
            img: its path, as returned by ``read``; or a folder that holds nothing but one file.

        Returns:
            The array and the metadata described above.

        Raises:
            BlosamError: when the file is missing, broken, above 100 megapixels, below 2 x 2 pixels, not 2-D,
                of one value or with NaN (image mode), or not a mask of K classes (label mode).
        """
        path = _file(_single(img))
        picture = decode(path, label=self.mode == "label")
        if self.mode == "image":
            return as_image(path, picture)
        values = class_mask(path, picture, self.num_classes)
        meta = _metadata(path, picture, colour=False)
        return np.ascontiguousarray(values[..., None] if len(picture.spatial_shape) == 3 else values), meta


def source_kind(path: Path) -> str:
    """``dicom``, ``nifti`` or ``raster``, by the content of a file and only then by its name.

    Raises:
        BlosamError: when it cannot be opened or is no ordinary file.
    """
    name = path.name.lower()
    try:
        if path.exists() and not path.is_file():
            raise BlosamError(f"{path}: is no ordinary file. Give an image file.")
        with path.open("rb") as stream:
            start = stream.read(352)
    except OSError as error:
        raise BlosamError(f"{path}: the file cannot be opened ({error.strerror}). Check the path.") from error
    if start[128:132] == b"DICM" or name.endswith((".dcm", ".dicom")):
        return "dicom"
    if name.endswith((".nii", ".nii.gz")) or start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] == b"n+2\0":
        return "nifti"
    return "raster"


def decode(path: Path, label: bool) -> Picture:
    """Decode a file of one picture by its content, whatever its name.

    Raises:
        BlosamError: when it cannot be opened or decoded, or holds several frames.
    """
    kind = source_kind(path)
    if kind == "dicom":
        return read_dicom(path, label)
    return read_nifti(path) if kind == "nifti" else read_raster(path, label)


def as_image(path: Path, picture: Picture) -> tuple[np.ndarray, dict[str, Any]]:
    """A decoded picture as ``ClinicalReader`` gives it in image mode.

    Args:
        path: named in messages and in the metadata.
        picture: from ``decode`` or ``open_frames``.

    Returns:
        float32 in [0, 1], W x H (x 3), or W x H x 1 when a NIfTI file has a third axis, and the metadata.

    Raises:
        BlosamError: for an image of one value or with NaN.
    """
    check_values(path, picture.values)
    values = picture.unit_range()
    meta = _metadata(path, picture, colour=values.ndim == 3)
    if len(picture.spatial_shape) == 3 and values.ndim == 2:
        values = values[..., None]
    return np.ascontiguousarray(values), meta


def _metadata(path: Path, picture: Picture, colour: bool) -> dict[str, Any]:
    """What MONAI's ``Invertd`` and ``SaveImaged`` and our own writers need to know."""
    meta: dict[str, Any] = {
        "filename_or_obj": str(path),
        MetaKeys.SPATIAL_SHAPE: np.asarray(picture.spatial_shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if colour else float("nan"),
        MetaKeys.AFFINE: picture.affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: picture.affine.copy(),
        "source_kind": picture.kind,
        "spatial_unit": picture.unit,
        "intensity": picture.intensity,
        "spacing_source": picture.spacing_source,
        "warnings": "\n".join(picture.warnings),  # lists of several lengths would not fit into a batch
    }
    if picture.spacing is not None:
        meta["spacing"] = tuple(float(distance) for distance in picture.spacing)
    return meta


def _single(data: Sequence[PathLike] | PathLike) -> Path:
    """The one path in what MONAI passes to a reader."""
    paths = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if len(paths) != 1:
        raise BlosamError(f"{len(paths)} files were given as one image. Give each image as a file of its own.")
    return Path(paths[0])


def _file(path: Path) -> Path:
    """The path itself, or the only file of a folder (how DICOM servers hand over a single image)."""
    if not path.is_dir():
        return path
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    if len(files) != 1:
        raise BlosamError(f"{path}: the folder holds {len(files)} files, not one image. Give one file.")
    return files[0]
