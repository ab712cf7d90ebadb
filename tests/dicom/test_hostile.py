"""Files that claim more than they hold, and what is said when a decoder is missing."""

from __future__ import annotations

import gzip
import logging
import re
import struct
import sys
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest

from blosam.dicom import ClinicalReader, container
from blosam.dicom.frames import open_frames
from blosam.dicom.geometry import spacing_of
from blosam.errors import BlosamError

from .mutations import (
    COLUMNS,
    EXPLICIT,
    JPEG,
    ROWS,
    compressed,
    dicom_dataset,
    dicom_seeds,
    draw,
    pillow,
    to_bytes,
)

BOUND = 100 << 20


@pytest.fixture
def refused(tmp_path):
    """Function (content, match, suffix) that checks the refusal and the memory it takes."""

    def check(content: bytes, match: str, suffix: str = "dcm") -> None:
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(BlosamError, match=match):
                for picture in open_frames(path):
                    picture.unit_range()
            assert tracemalloc.get_traced_memory()[1] < BOUND
        finally:
            tracemalloc.stop()

    return check


def element(tag: tuple[int, int], vr: bytes, length: int) -> bytes:
    """The head of an explicit little endian element with a 32-bit length."""
    return struct.pack("<HH2sHI", *tag, vr, 0, length)


def test_sizes_that_do_not_exist(refused):
    grey = draw(1, np.uint8)
    for elements, match in [
        ({"Rows": 60000, "Columns": 60000}, "100 megapixels"),
        ({"Rows": 0}, "below 2 x 2"),
        ({"Rows": 9000, "Columns": 9000}, "81000000 are needed"),
        ({"NumberOfFrames": 999_999}, "are needed"),
        ({"NumberOfFrames": -3}, "NumberOfFrames is -3"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 bits is not supported"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT with 1 sample"),
    ]:
        refused(to_bytes(dicom_dataset(grey, EXPLICIT, **elements)), match)


def test_elements_longer_than_the_file_allocate_nothing(refused):
    content = to_bytes(dicom_dataset(draw(1, np.uint8), EXPLICIT))
    place = content.index(b"\x28\x00\x02\x00")
    refused(content[:place] + element((0x0028, 0x0001), b"OB", 0xFFFFFFF0) + content[place:], "no pixel data")


def test_deflated_bombs(refused, monkeypatch):
    monkeypatch.setattr(container, "MAX_INFLATED", 10 << 20)
    content = dicom_seeds()["deflated"]
    plain = to_bytes(dicom_dataset(draw(1, np.uint8), EXPLICIT))
    body = plain[plain.index(b"\x08\x00\x16\x00") :] + bytes(50 << 20)
    packer = zlib.compressobj(wbits=-15)
    length = 144 + struct.unpack_from("<I", content, 140)[0]
    refused(content[:length] + packer.compress(body) + packer.flush(), "larger than 10 MiB")
    refused(content[: length + 40], "cannot be read")


def test_codestreams_larger_than_the_header_says(refused):
    grey = draw(1, np.uint8)
    large = np.zeros((5000, 4000), np.uint8)
    for kind, syntax, options in (("JPEG", "50", {}), ("JPEG2000", "90", {"no_jp2": True})):
        refused(
            compressed(grey, JPEG + syntax, [pillow(large, kind, **options)]), f"header says {COLUMNS} x {ROWS} x 1"
        )


def test_encapsulated_junk(refused):
    grey = draw(1, np.uint8)
    for syntax in ("50", "70", "80", "90"):
        refused(compressed(grey, JPEG + syntax, [b"\x12\x34" * 50]), "neither JPEG nor JPEG 2000")
        refused(compressed(grey, JPEG + syntax, [pillow(grey, "JPEG")[:40]]), "cannot be read")
    refused(compressed(grey, "1.2.840.10008.1.2.5", [bytes(80)]), "0 RLE segments instead of 1")
    truncated = compressed(grey, JPEG + "50", [pillow(grey, "JPEG")])[:-60]
    refused(truncated, "truncated")


def test_a_compressed_volume_that_claims_terabytes(refused):
    header = nib.Nifti1Header()
    for shape, match in [((30000, 30000, 30000), "more than 4"), ((600, 600, 600), "ends after 352 bytes")]:
        header.set_data_shape(shape)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        refused(gzip.compress(header.binaryblock + bytes(4)), match, "nii.gz")


def test_missing_identifiers_do_not_matter_for_reading(tmp_path):
    dataset = dicom_dataset(draw(1, np.uint8), EXPLICIT)
    del dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.Modality
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(dataset))
    np.testing.assert_array_equal(open_frames(path)[0].values, draw(1, np.uint8).T)


@pytest.mark.parametrize(
    "name, module, package", [("jpeg lossless", "gdcm", "python-gdcm"), ("jpeg-ls", "", "pyjpegls")]
)
def test_a_missing_decoder_is_named(tmp_path, monkeypatch, name, module, package):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_seeds()[name])
    for absent in ("gdcm", "jpeg_ls"):
        monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BlosamError, match=f"JPEG.*needs the package {package}.*pip install 'blosam.dicom.'"):
        open_frames(path)[0]


def test_nothing_of_the_patient_is_said(tmp_path, caplog):
    """Damaged and odd values are quoted neither in errors nor in log lines nor in warnings."""
    dataset = dicom_dataset(
        draw(1, np.uint16),
        EXPLICIT,
        PatientName="SECRET^NAME",
        PatientID="SECRET",
        WindowCenter="1500",
        WindowWidth="0",
    )
    content = to_bytes(dataset)
    for number, changed in enumerate(
        (content, content.replace(b"1500", b"SECR"), content.replace(b"MONOCHROME2", b"SECRETNAME "))
    ):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(changed)
        with caplog.at_level(logging.DEBUG):
            try:
                meta = ClinicalReader().get_data(path)[1]
                assert "SECR" not in str({key: value for key, value in meta.items() if key != "filename_or_obj"})
            except BlosamError as error:
                assert "SECR" not in str(error)
    assert "SECR" not in caplog.text and str(tmp_path) not in caplog.text


@pytest.mark.parametrize(
    "elements, spacing, source, words",
    [
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "PixelSpacing", []),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), "ImagerPixelSpacing", ["unknown magnification"]),
        (
            {"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": "1.5"},
            (0.2, 0.1), "ImagerPixelSpacing", ["divided by the estimated magnification 1.5"],
        ),
        (
            {"ImagerPixelSpacing": [0.3] * 2, "PixelSpacing": [0.3] * 2, "EstimatedRadiographicMagnificationFactor": 2},
            (0.3, 0.3), "PixelSpacing", ["repeats the spacing of the detector.*about 2 times"],
        ),
        ({"ImagerPixelSpacing": [0.3, 0.3], "PixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "PixelSpacing", []),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "NominalScannedPixelSpacing", ["film scanner"]),
        ({"PixelSpacing": [0, 0]}, None, "", ["PixelSpacing is not plausible"]),
        ({}, None, "", []),
    ],
)  # fmt: skip
def test_which_spacing_is_used_and_what_is_said_about_it(elements, spacing, source, words):
    header = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    found, name, warnings = spacing_of(header)
    assert name == source and (found is None if spacing is None else found == pytest.approx(spacing))
    assert len(warnings) == len(words)
    for text, pattern in zip(warnings, words, strict=True):
        assert re.search(pattern, text)
