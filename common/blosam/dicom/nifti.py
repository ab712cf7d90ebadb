"""NIfTI files: 2-D images, and volumes read slice by slice from the file."""

from __future__ import annotations

import gzip
import os
import struct
import tempfile
import zlib
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError

from blosam.dicom.picture import Picture, check_size, percentile_limits
from blosam.errors import BlosamError

_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_DAMAGE = (
    HeaderDataError, OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, IndexError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
_GZIP = b"\x1f\x8b"
_MAX_BYTES = 4 << 30  # of the voxels of a volume
_IN_MEMORY = 64 << 20  # unpacked volumes above this go to a temporary file
_SAMPLE = 4_000_000  # voxels that the percentiles of a large volume are taken from
_CHUNK = 1 << 20


def read_nifti(path: str | os.PathLike) -> Picture:
    """Decode a 2-D NIfTI file: W x H, or W x H x 1.

    Returns:
        The picture with the file's own affine. Unscaled 8-bit and RGB values are 0..255, all others are
        scaled by percentiles.

    Raises:
        BlosamError: when the file cannot be decoded, is too large, or holds more than one slice.
    """
    volume = NiftiVolume(path)
    if any(n != 1 for n in volume.shape[2:]):
        raise BlosamError(
            f"{path}: the image is {' x '.join(map(str, volume.shape))}, but only W x H or W x H x 1 can be used. "
            "Save the slices as 2-D files, or use `blosam predict`, which takes them one by one."
        )
    picture = volume.slice(0, 2)
    picture.frame, picture.limits = None, None
    picture.affine = volume.affine.copy()
    picture.spatial_shape = volume.shape[:2] if len(volume.shape) == 2 else (*volume.shape[:2], 1)
    return picture


class NiftiVolume:
    """An opened NIfTI file; slices are read when asked for.

    Args:
        path: .nii or .nii.gz, told apart by content.

    Attributes:
        shape: 2 to 3 numbers, or more when those behind the third are 1.
        affine: 4 x 4, voxel to RAS in ``unit``.
        header: nibabel's header; its bytes are those of the file.
        unit: meter, mm, micron or unknown.

    Raises:
        BlosamError: when the header is damaged, or the volume larger than 4 GiB or in time.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        try:
            with _open(path) as stream:
                with LoggingOutputSuppressor():  # nibabel tells what it mends, without naming the file
                    self.header = _read_header(stream)
            self.shape = tuple(int(n) for n in self.header.get_data_shape())
            self.affine = np.asarray(self.header.get_best_affine(), dtype=np.float64)
            self.unit = self.header.get_xyzt_units()[0]
            self._dtype = np.dtype(self.header.get_data_dtype())
            slope, intercept = self.header.get_slope_inter()
            self._offset = int(self.header.get_data_offset())
        except _DAMAGE as error:
            raise _unreadable(path, error) from error
        self._slope = 1.0 if slope is None else float(slope)
        self._intercept = 0.0 if intercept is None else float(intercept)
        self._check()
        self._voxels: np.ndarray | None = None
        self._limits: tuple[float, float] | None = None

    def _check(self) -> None:
        """Refuse what is no volume or too large, from the header alone."""
        if len(self.shape) < 2 or min(self.shape) < 1 or any(n != 1 for n in self.shape[3:]):
            raise BlosamError(
                f"{self.path}: the image is {' x '.join(map(str, self.shape))}, but only two or three axes can be "
                "used. Save one volume per file."
            )
        if not np.isfinite(self.affine).all():
            raise BlosamError(f"{self.path}: the affine holds NaN or infinite numbers. Correct the header.")
        if self._dtype.kind == "c":
            raise BlosamError(f"{self.path}: the pixels are complex numbers. Save their magnitude.")
        if self._dtype.names is None and self._dtype.kind not in "iuf":
            raise BlosamError(f"{self.path}: pixels of type {self._dtype} are not read. Save them as int16 or float32.")
        if len(self.shape) == 2 or self.shape[2] == 1:
            check_size(self.path, self.shape[0], self.shape[1])
        size = self._dtype.itemsize * int(np.prod([float(n) for n in self.shape]))
        if size > _MAX_BYTES:
            raise BlosamError(f"{self.path}: the volume has {size >> 30} GiB, more than 4. Cut or resample it.")

    @property
    def colour(self) -> bool:
        """Whether the voxels are RGB."""
        return self._dtype.names is not None

    def choose_axis(self) -> int:
        """The axis that slices are stacked along: the one with the fewest slices for equal spacing, that is with
        the largest voxel size; the shortest when sizes are equal; the last when all are."""
        if len(self.shape) == 2:
            return 2
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        order = [(-round(float(sizes[axis]), 4), self.shape[axis], -axis) for axis in range(3)]
        return order.index(min(order))

    def slice(self, index: int, axis: int) -> Picture:
        """The slice ``index`` across ``axis``: W x H are the other two axes in their order.

        Raises:
            BlosamError: when the voxels cannot be read.
        """
        across = [k for k in range(3) if k != axis]
        full = (*self.shape, 1)[:3]
        check_size(self.path, full[across[0]], full[across[1]])
        try:
            place = tuple(index if k == axis else slice(None) for k in range(3))
            raw = np.array(self._array().reshape(full, order="F")[place])  # np.take would copy the whole volume
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error
        eight_bit = self.colour or (self._dtype == np.uint8 and (self._slope, self._intercept) == (1.0, 0.0))
        affine = self.affine[:, [*across, axis, 3]].copy()
        affine[:, 3] = self.affine @ [*(index if k == axis else 0 for k in range(3)), 1]
        spacing = self._spacing(across)
        return Picture(
            values=self._scaled(raw),
            affine=affine,
            kind="nifti",
            spatial_shape=(full[across[0]], full[across[1]]),
            spacing=spacing,
            unit=self.unit,
            white=255.0 if eight_bit else None,
            intensity="divided by 255" if eight_bit else "percentiles 0.5 to 99.5",
            limits=None if eight_bit or full[axis] == 1 else self.limits(),
            frame=index,
            spacing_source="NIfTI" if spacing else "",
        )

    def limits(self) -> tuple[float, float]:
        """Percentiles 0.5 and 99.5 of the whole volume, which all its slices are shown with; of volumes above
        4 million voxels, those of evenly spread slices."""
        if self._limits is None:
            try:
                voxels = self._array().reshape((*self.shape, 1)[:3], order="F")
                step = max(1, -(-voxels.size // _SAMPLE))
                # Whole slices along the slowest axis are read in one piece; a fine grid in them does the rest.
                slices = max(1, min(step, voxels.shape[2] // 16))
                grid = max(1, int(np.ceil(np.sqrt(step / slices))))
                sample = self._scaled(np.array(voxels[::grid, ::grid, slices // 2 :: slices]))
            except _DAMAGE as error:
                raise _unreadable(self.path, error) from error
            sample = sample[np.isfinite(sample)]
            if sample.size == 0:
                raise BlosamError(f"{self.path}: the volume has no finite voxels. Replace or remove it.")
            self._limits = percentile_limits(sample)
        return self._limits

    def _scaled(self, raw: np.ndarray) -> np.ndarray:
        """Voxels as the header's slope and intercept say; RGB as a last axis."""
        if self.colour:  # RGB24 and RGBA32 are stored as records
            return np.stack([raw[channel] for channel in raw.dtype.names[:3]], axis=-1)
        if (self._slope, self._intercept) == (1.0, 0.0):
            return raw.astype(raw.dtype.newbyteorder("="))
        return raw * self._slope + self._intercept

    def _array(self) -> np.ndarray:
        """All voxels, flat, mapped from the file or from its unpacked copy."""
        if self._voxels is None:
            count = int(np.prod(self.shape))
            end = self._offset + count * self._dtype.itemsize
            if _is_gzip(self.path):
                self._voxels = _unpacked(self.path, self._offset, end, self._dtype)
            else:
                size = os.path.getsize(self.path)
                if size < end:
                    raise ValueError(f"the file ends after {size} bytes, {end} are needed")
                self._voxels = np.memmap(self.path, self._dtype, "r", self._offset, (count,))
        return self._voxels

    def _spacing(self, across: list[int]) -> tuple[float, float] | None:
        """(between rows, between columns) of a slice in millimetres; None when the header leaves both its
        orientation codes and its pixel sizes at their defaults."""
        zooms = [float(z) for z in self.header.get_zooms()[:3]]
        coded = int(self.header["sform_code"]) > 0 or int(self.header["qform_code"]) > 0
        if not coded and all(zoom == 1.0 for zoom in zooms[:2]):
            return None
        factor = _MILLIMETRES.get(self.unit, 1.0)
        columns, rows = (float(np.linalg.norm(self.affine[:3, axis])) * factor for axis in across)
        if not (np.isfinite([columns, rows]).all() and columns > 0 and rows > 0):
            return None
        return rows, columns


def _is_gzip(path: str | os.PathLike) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == _GZIP


def _open(path: str | os.PathLike) -> BinaryIO:
    return gzip.open(path, "rb") if _is_gzip(path) else open(path, "rb")


def _read_header(stream: BinaryIO) -> nib.Nifti1Header:
    """A NIfTI-1 or NIfTI-2 header; extensions behind it are not read.

    Raises:
        ValueError: when it is neither, or is damaged.
    """
    start = stream.read(540)
    sizes = {struct.unpack(order + "i", start[:4])[0] for order in "<>"} if len(start) >= 348 else set()
    if 348 in sizes and start[344:348] == b"n+1\0":
        return nib.Nifti1Header(start[:348])
    if 540 in sizes and len(start) == 540 and start[4:8] == b"n+2\0":
        return nib.Nifti2Header(start)
    if start[344:348] == b"ni1\0":
        raise ValueError("it is a pair of .hdr and .img files, save it as one .nii file")
    raise ValueError("it has no NIfTI header")


def _unpacked(path: str | os.PathLike, offset: int, end: int, dtype: np.dtype) -> np.ndarray:
    """Voxels of a compressed file: in memory when small, else mapped from a temporary file without a name."""
    with gzip.open(path, "rb") as stream, tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        left = end
        while left > 0:
            chunk = stream.read(min(_CHUNK, left))
            if not chunk:
                raise ValueError(f"the unpacked file ends after {end - left} bytes, {end} are needed")
            copy.write(chunk)
            left -= len(chunk)
        copy.seek(offset)
        if end <= _IN_MEMORY:
            return np.frombuffer(copy.read(), dtype)
        copy.fileno()  # moves it to the disk
        copy.flush()
        return np.memmap(copy._file, dtype, "r", offset, ((end - offset) // dtype.itemsize,))


def _unreadable(path: str | os.PathLike, error: BaseException) -> BlosamError:
    """The error for a file that cannot be decoded."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return BlosamError(f"{path}: the file cannot be opened ({error.strerror}). Check the path.")
    reason = " ".join(str(error).split()) or type(error).__name__
    return BlosamError(f"{path}: the NIfTI file cannot be read ({reason}). Replace the file.")
