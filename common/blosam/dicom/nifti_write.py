"""Masks as NIfTI files on exactly the grid of their source."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np

from blosam.dicom.nifti import NiftiVolume
from blosam.errors import BlosamError

_NO_EXTENSION = bytes(4)
# Text that people and programs fill in freely, names of patients included.
_FREE_TEXT = ("descrip", "aux_file", "intent_name", "db_name", "data_type")


def save_mask(path: str | os.PathLike, mask_volume: np.ndarray, volume: NiftiVolume) -> None:
    """Write a mask on the grid of the NIfTI file it was made from.

    The header is the source's, byte for byte, in everything that places voxels: dimensions, voxel sizes, units,
    qform and sform with their codes. The data type, the intensity scaling and all free text are our own.

    Args:
        path: .nii or .nii.gz.
        mask_volume: W x H (x D ...) of uint8, uint16, int16 or float32; may have more axes behind those of the source.
        volume: the source.

    Raises:
        BlosamError: when the shapes differ.
    """
    shape = volume.shape
    if mask_volume.shape[: len(shape)] != shape:
        raise BlosamError(
            f"{Path(path).name}: the mask is {' x '.join(map(str, mask_volume.shape))}, but its source is "
            f"{' x '.join(map(str, shape))}. Predict it again."
        )
    header = volume.header.copy()
    header.set_data_dtype(mask_volume.dtype)
    if mask_volume.shape != shape:
        header.set_data_shape(mask_volume.shape)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    for name in _FREE_TEXT:
        if name in header:
            header[name] = b""
    header["vox_offset"] = len(header.binaryblock) + len(_NO_EXTENSION)
    _write(path, header, mask_volume)


def save_like_source(
    path: str | os.PathLike, mask: np.ndarray, source: str | os.PathLike, affine: np.ndarray, unit: str
) -> None:
    """Write the mask of a 2-D image: with the header of its source if that is a NIfTI file, else with its affine.

    Args:
        path: .nii or .nii.gz.
        mask: W x H (x 1), perhaps with channels behind.
        source: the image file, which may be gone by now.
        affine: of the image as it was read, 4 x 4, voxel to RAS.
        unit: of the affine: meter, mm, micron or unknown.
    """
    try:
        volume = NiftiVolume(source)
    except BlosamError:  # another kind of file, or no file any more
        volume = None
    if volume is None or not np.allclose(volume.affine, affine):
        save_with_affine(path, mask, affine, unit)
    elif int(np.prod(volume.shape)) == mask.size:
        save_mask(path, mask.reshape(volume.shape), volume)
    elif mask.shape[: len(volume.shape)] == volume.shape:
        save_mask(path, mask, volume)
    else:
        save_with_affine(path, mask, affine, unit)


def save_with_affine(path: str | os.PathLike, mask: np.ndarray, affine: np.ndarray, unit: str) -> None:
    """Write a mask whose source is no NIfTI file.

    Args:
        path: .nii or .nii.gz.
        mask: W x H (x D ...).
        affine: 4 x 4, voxel to RAS.
        unit: of the affine: meter, mm, micron or unknown.
    """
    image = nib.Nifti1Image(mask, np.asarray(affine, dtype=np.float64).reshape(4, 4))
    image.header.set_xyzt_units(unit)
    image.header.set_slope_inter(1, 0)
    image.header["vox_offset"] = 352
    _write(path, image.header, mask)


def _write(path: str | os.PathLike, header: nib.Nifti1Header, values: np.ndarray) -> None:
    """Header, no extension, and the voxels with the first axis fastest; the same content gives the same bytes."""
    dtype = values.dtype.newbyteorder(header.endianness)
    content = values.astype(dtype).tobytes(order="F")
    with open(path, "wb") as file:
        if str(path).lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
                packed.write(header.binaryblock + _NO_EXTENSION)
                packed.write(content)
        else:
            file.write(header.binaryblock + _NO_EXTENSION + content)
