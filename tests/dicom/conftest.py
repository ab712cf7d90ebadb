"""Writes small DICOM files, so that the tests need none from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DIGITAL_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"


def _write(path: Path, pixels: np.ndarray, preamble: bool = True, **attributes: Any) -> Path:
    """Write Rows x Columns (x 3) pixels; keywords set, or with None delete, elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = attributes.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DIGITAL_X_RAY
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=preamble)
    return path


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    """Function (path, pixels, keyword=value, ...) that writes an uncompressed DICOM file."""
    return _write


@pytest.fixture
def half_bright() -> Callable[[int, int], np.ndarray]:
    """Function (rows, columns) for an asymmetric 8-bit picture: bright above, grey at the left below."""

    def draw(rows: int, columns: int) -> np.ndarray:
        picture = np.full((rows, columns), 20, np.uint8)
        picture[: rows // 2] = 220
        picture[rows // 2 :, : columns // 4] = 110
        return picture

    return draw
