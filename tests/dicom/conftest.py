"""Writes small DICOM files, so that the tests need none from outside."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from blosam.data.phantoms import draw
from blosam.data.phantoms.dicom_files import save_dicom

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


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """Function (path) -> the errors that dciodvfy finds in a DICOM file; it comes from Debian's dicom3tools."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")

    def errors(path: Path) -> list[str]:
        result = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace", check=False)
        return [line for line in result.stderr.splitlines() if line.startswith("Error")]

    return errors


@pytest.fixture
def source_header(tmp_path: Path) -> Callable[..., Dataset]:
    """Function (kind of phantom, modality, photometric interpretation, keyword=value, ...) -> header of an image.

    Values are set, or with None deleted, after the file has been read.
    """

    def make(kind: str = "chest", modality: str = "DX", photometric: str = "MONOCHROME2", **changes: Any) -> Dataset:
        path = tmp_path / f"{kind}_{modality}_{photometric}.dcm"
        aspect = {"chest": 0.7, "dental": 1.9, "colonoscopy": 1.25}[kind]  # never square
        if not path.exists():
            save_dicom(path, kind, 1, draw(kind, 1, 64, aspect, 0.5).image, 1.5, photometric, modality)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword, value in changes.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)
        return header

    return make


@pytest.fixture
def asymmetric_mask() -> Callable[..., np.ndarray]:
    """Function (rows, columns, classes) -> mask that equals none of its flips and transpositions."""

    def draw_mask(rows: int, columns: int, classes: int = 1) -> np.ndarray:
        mask = np.zeros((rows, columns), np.uint8)
        mask[1 : rows // 3, 2 : columns // 2] = 1
        mask[rows // 2 : rows - 3, columns // 2 : columns - 1] = classes
        mask[0, 0] = mask[rows - 1, 1] = classes
        return mask

    return draw_mask
