"""Any image file as a sequence of 2-D pictures, decoded one at a time.

Frames of endoscopy and ultrasound recordings, slices of volumes, and single images all look the same to whoever
segments them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from blosam.dicom.nifti import NiftiVolume
from blosam.dicom.picture import Picture
from blosam.dicom.pixels import DicomImage
from blosam.dicom.raster import read_raster
from blosam.dicom.reader import source_kind
from blosam.errors import BlosamError

AXES = ("auto", "0", "1", "2")


class Frames(Sequence[Picture]):
    """The pictures of one file; ``frames[i]`` decodes picture i, and nothing is kept.

    Attributes:
        path: the file.
        kind: ``raster``, ``nifti`` or ``dicom``.
        header: DICOM elements of the file without its pixel data; None for other files.
        slice_axis: axis of a NIfTI volume that the slices are stacked along; None for a 2-D file.
        volume: the NIfTI file, for ``nifti_write.save_mask``; None for other files.
    """

    def __init__(self, path: Path, kind: str, axis: str) -> None:
        self.path, self.kind = path, kind
        self.header: pydicom.Dataset | None = None
        self.volume: NiftiVolume | None = None
        self.slice_axis: int | None = None
        self._dicom: DicomImage | None = None
        self._count = 1
        if kind == "dicom":
            self._dicom = DicomImage(path)
            self.header, self._count = self._dicom.header, self._dicom.form.frames
        elif kind == "nifti":
            self.volume = NiftiVolume(path)
            shape = self.volume.shape
            if any(n != 1 for n in shape[2:]):
                self.slice_axis = self.volume.choose_axis() if axis == "auto" else int(axis)
                self._count = shape[self.slice_axis]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Picture:
        """Decode picture ``index``.

        Raises:
            IndexError: outside the sequence.
            BlosamError: when it cannot be decoded.
        """
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        if self._dicom is not None:
            picture = self._dicom.picture(index)
        elif self.volume is not None:
            axis = 2 if self.slice_axis is None else self.slice_axis
            picture = self.volume.slice(index, axis)
        else:
            picture = read_raster(self.path)
        picture.frame = index if self._count > 1 else None
        return picture

    def stack(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Masks of all slices put together on the grid of the NIfTI file.

        Args:
            masks: one Rows x Columns array per slice, in order.

        Returns:
            Array of ``volume.shape``, for ``nifti_write.save_mask``.

        Raises:
            ValueError: when the file is no NIfTI file or a mask is missing.
        """
        if self.volume is None or len(masks) != self._count:
            raise ValueError(f"{len(masks)} masks for {self._count} slices of a {self.kind} file")
        axis = 2 if self.slice_axis is None else self.slice_axis
        return np.stack([mask.T for mask in masks], axis=axis).reshape(self.volume.shape)


def open_frames(path: str | os.PathLike, axis: str | int | None = None) -> Frames:
    """Open an image file of any kind.

    Args:
        path: PNG, JPEG, BMP, TIFF, NIfTI or DICOM, told apart by content.
        axis: axis that the slices of a NIfTI volume are stacked along: 0, 1, 2, or ``auto`` (also None) for the one
            with the largest voxel size, which is how slices are usually acquired; ties go to the fewest slices.

    Raises:
        BlosamError: when the file cannot be opened or is no image, or for another ``axis``.
    """
    axis = "auto" if axis is None else str(axis)
    if axis not in AXES:
        raise BlosamError(f"There is no slice axis {axis!r}. Use one of {', '.join(AXES)}.")
    path = Path(path)
    return Frames(path, source_kind(path), axis)
