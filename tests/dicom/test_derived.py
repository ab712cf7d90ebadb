from __future__ import annotations

import subprocess
import sys

import numpy as np
import pydicom
import pytest

import blosam
from blosam.dicom.codes import segment_codes
from blosam.dicom.derived import Algorithm, named_uid, new_uid, series_description, series_number, write_dicom
from blosam.dicom.seg import segmentation
from blosam.dicom.sr import Measured, measurement_report
from blosam.errors import BlosamError

ALGORITHM = Algorithm("blosam_lung", "0.1.0")
CODES = segment_codes({}, {"lung": 1})


@pytest.fixture
def seg(source_header):
    header = source_header()
    return segmentation([header], np.zeros((header.Rows, header.Columns), np.uint8), CODES, ALGORITHM)


def test_the_file_is_complete(seg, tmp_path):
    write_dicom(seg, tmp_path / "new" / "seg.dcm")
    read = pydicom.dcmread(tmp_path / "new" / "seg.dcm")
    assert read.file_meta.MediaStorageSOPClassUID == read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert read.file_meta.ImplementationVersionName == f"BLOSAM {blosam.__version__}"
    assert pydicom.uid.UID(read.file_meta.ImplementationClassUID).is_valid
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["seg.dcm"]


def test_a_failed_write_leaves_the_previous_file(seg, tmp_path, monkeypatch):
    (tmp_path / "seg.dcm").write_bytes(b"before")

    def full(file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seg, "save_as", full)
    with pytest.raises(BlosamError, match="the disk is full.*the previous file is untouched"):
        write_dicom(seg, tmp_path / "seg.dcm")
    assert [path.name for path in tmp_path.glob("*seg*")] == ["seg.dcm"]
    assert (tmp_path / "seg.dcm").read_bytes() == b"before"


def test_without_highdicom_the_mend_is_named(source_header, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    header = source_header()
    mask = np.zeros((header.Rows, header.Columns), np.uint8)
    with pytest.raises(BlosamError, match=r"pip install 'blosam\[dicom\]'"):
        segmentation([header], mask, CODES, ALGORITHM)
    with pytest.raises(BlosamError, match=r"pip install 'blosam\[dicom\]'"):
        measurement_report([Measured.from_mask(header, mask, CODES)], CODES, ALGORITHM)


def test_the_writers_import_without_highdicom():
    code = "import sys; sys.modules['highdicom'] = None; import blosam.dicom.seg, blosam.dicom.sr, blosam.dicom.codes"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_algorithm_of_a_bundle():
    long = {"name": "n" * 80, "version": "1.2.3"}
    algorithm = Algorithm.from_metadata(long, sha256="ab" * 32)
    assert len(algorithm.name) <= 64 and algorithm.version == "1.2.3"
    assert algorithm.serial_number == "ab" * 32
    assert algorithm.software_versions == (f"blosam {blosam.__version__}", "bundle 1.2.3")
    assert Algorithm.from_metadata(long, name="blosam_lung").name == "blosam_lung"
    empty = Algorithm.from_metadata({})
    assert empty.name and empty.version and empty.serial_number
    assert algorithm.uid == Algorithm.from_metadata(long, sha256="ab" * 32).uid != empty.uid


def test_uids_are_valid_and_only_named_ones_repeat():
    assert named_uid("a", "b") == named_uid("a", "b") != named_uid("ab")
    assert new_uid() != new_uid()
    assert all(pydicom.uid.UID(uid).is_valid for uid in (named_uid("a"), new_uid()))


def test_numbers_and_names_of_series_fit():
    header = pydicom.Dataset()
    assert series_number(header, 1000) == 1000
    for number, expected in ((7, 1007), (-3, 1000), (2**31 - 1, 1000)):
        header.SeriesNumber = number
        assert series_number(header, 1000) == expected
    remark = "needs review: see the second image"
    description = series_description("Segmentation", Algorithm("n" * 64, "1"), remark)
    assert len(description) <= 64 and description.endswith(f" - {remark}")
