"""Saving masks on the grid of the image they belong to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import FolderLayout, FolderLayoutBase, MetaTensor
from monai.data.folder_layout import default_name_formatter
from PIL import Image

from blosam.atomicio import atomic_path
from blosam.dicom.nifti_write import save_like_source
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
RASTER = (".png", ".tif", ".tiff", ".bmp")


class SaveImaged(monai.transforms.SaveImaged):
    """Write C x W x H (x 1) results with the rows, columns and affine of their source image.

    Unlike MONAI's own, the file type follows the source (NIfTI for NIfTI and DICOM, PNG for all others), a
    W x H x 1 source gives a W x H x 1 file, nothing is resampled, and files appear complete or not at all.
    The entry keeps its value; the class keeps MONAI's name because MONAI Deploy and MONAI Label look for it.

    Args:
        keys: which entries; each must be on the source grid again (``Invertd`` comes before).
        output_dir: folder for the files.
        output_postfix: appended to the name of the source image with an underscore.
        output_ext: file type for all sources, such as ``.png``; empty follows the source.
        output_dtype: NumPy type in the file; PNG always holds uint8, or uint16 when that is asked for.
        scale: multiplies the values, for example 255 to make a binary PNG visible; None writes class numbers.
        separate_folder: whether each image gets a folder of its own.
        data_root_dir: leading part of the source path that is left out when the source's folders are
            mirrored.
        output_name_formatter: as in MONAI.
        folder_layout: as in MONAI; it then decides names and extensions.
        savepath_in_metadict: whether the path is put into the metadata as ``saved_to``.
        allow_missing_keys: whether absent entries are fine.

    Raises:
        BlosamError: for an ``output_ext`` that cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: Path | str = "./",
        output_postfix: str = "seg",
        output_ext: str = "",
        output_dtype: Any = np.uint8,
        scale: float | None = None,
        separate_folder: bool = False,
        data_root_dir: str = "",
        output_name_formatter: Callable[[dict, Any], dict] | None = None,
        folder_layout: FolderLayoutBase | None = None,
        savepath_in_metadict: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        if output_ext and not output_ext.startswith("."):
            output_ext = f".{output_ext}"
        if output_ext and output_ext.lower() not in NIFTI + RASTER:
            raise BlosamError(f"Masks cannot be saved as {output_ext}. Use one of {', '.join(NIFTI + RASTER)}.")
        super().__init__(
            keys,
            output_dir=output_dir,
            output_postfix=output_postfix,
            output_ext=output_ext or NIFTI[0],
            output_dtype=output_dtype,
            separate_folder=separate_folder,
            data_root_dir=data_root_dir,
            folder_layout=folder_layout,
            allow_missing_keys=allow_missing_keys,
        )
        self.output_ext = output_ext.lower()
        self.output_dtype = np.dtype(output_dtype)
        self.scale = scale
        self.savepath_in_metadict = savepath_in_metadict
        self._formatter = output_name_formatter or default_name_formatter
        self._custom_layout = folder_layout
        # FolderLayout makes folders as it names files; here atomic_path does, with a readable error.
        self._layout_options = {
            "output_dir": output_dir, "postfix": output_postfix, "parent": separate_folder,
            "data_root_dir": data_root_dir, "makedirs": False,
        }  # fmt: skip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save the entries ``keys`` of one item.

        Raises:
            BlosamError: when an entry is not on the source grid, or its file cannot be written.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            value = d[key]
            meta = value.meta if isinstance(value, MetaTensor) else {}
            path = self._path(meta)
            array = _channel_last(value, meta)
            if self.scale is not None:
                array = array * self.scale
            with atomic_path(path) as temporary:
                _write(array, meta, temporary, self.output_dtype)
            logger.debug("Saved %s.", path)
            self.saver._data_index += 1  # names results whose source is unknown
            if self.savepath_in_metadict:
                meta["saved_to"] = str(path)
        return d

    def _path(self, meta: Mapping[str, Any]) -> Path:
        """Where the result of this source goes."""
        extension = self.output_ext or source_extension(meta)
        layout = self._custom_layout or FolderLayout(extension=extension, **self._layout_options)
        return Path(layout.filename(**self._formatter(dict(meta), self.saver)))


def source_extension(meta: Mapping[str, Any]) -> str:
    """``.nii.gz`` for NIfTI and DICOM sources, whose geometry a PNG cannot hold; ``.png`` for others."""
    kind = meta.get("source_kind")
    if kind is None:  # read by another reader
        name = str(meta.get("filename_or_obj", "")).lower()
        kind = "nifti" if name.endswith((*NIFTI, ".dcm")) else "raster"
    return NIFTI[0] if kind in ("nifti", "dicom") else ".png"


def _channel_last(value: torch.Tensor, meta: Mapping[str, Any]) -> np.ndarray:
    """C x W x H (x 1) to the source's W x H (x 1), followed by the channels when there are several."""
    array = np.asarray(value.detach().cpu())
    recorded = meta.get("spatial_shape")
    expected = array.shape[1:] if recorded is None else tuple(int(n) for n in np.asarray(recorded))
    if array.shape[1:] != expected:
        raise BlosamError(
            f"{meta.get('filename_or_obj', 'image')}: the result is {' x '.join(map(str, array.shape[1:]))}, "
            f"but the image is {' x '.join(map(str, expected))}. Put Invertd before SaveImaged."
        )
    return array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)


def _write(array: np.ndarray, meta: Mapping[str, Any], path: Path, dtype: np.dtype) -> None:
    """Write W x H (x 1) (x C) by the extension of ``path``."""
    if path.name.lower().endswith(NIFTI):
        affine = meta.get("original_affine")
        affine = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64).reshape(4, 4)
        spatial = len(np.atleast_1d(meta.get("spatial_shape", array.shape)))
        if array.ndim > spatial == 2:
            array = array[:, :, None]  # the fourth axis holds the channels
        unit = str(meta.get("spatial_unit", "unknown"))  # the affine is in the source's unit
        save_like_source(path, array.astype(dtype), str(meta.get("filename_or_obj", "")), affine, unit)
        return
    if array.ndim > 2 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim > 2 and array.shape[2] != 3:
        raise BlosamError(f"{path.name}: a picture cannot hold {array.shape[2]} channels. Save it as .nii.gz.")
    pixels = array.astype(np.uint16 if dtype == np.uint16 else np.uint8)
    Image.fromarray(np.ascontiguousarray(np.swapaxes(pixels, 0, 1))).save(path)
