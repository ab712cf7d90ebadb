"""What a derived object takes over from its source: everything that identifies, nothing invented, nothing invalid."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pydicom
import pytest

from blosam.dicom.codes import segment_codes
from blosam.dicom.seg import Algorithm, segmentation, write_dicom
from blosam.dicom.source import EQUIPMENT, IDENTITY, IMAGE, PATIENT_AND_STUDY, REQUIRED, TRIAL, prepare
from blosam.dicom.sr import Measured, measurement_report
from blosam.errors import BlosamError

ALGORITHM = Algorithm("blosam_lung", "0.1.0")
CODES = segment_codes({}, {"lung": 1})
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.fixture
def written(tmp_path):
    """Function (header) -> paths of the segmentation and the report that were made from it."""

    def write(header: pydicom.Dataset, codes=CODES):
        mask = np.zeros((header.Rows, header.Columns), np.uint8)
        seg = segmentation([header], mask, codes, ALGORITHM)
        report = measurement_report([Measured.from_mask(header, mask, codes, seg)], codes, ALGORITHM)
        write_dicom(seg, tmp_path / "seg.dcm")
        write_dicom(report, tmp_path / "sr.dcm")
        return tmp_path / "seg.dcm", tmp_path / "sr.dcm"

    return write


def test_patient_and_study_are_copied(source_header, written):
    header = source_header(PatientAge="044Y", PatientSex="F", StudyDescription="Chest", AccessionNumber="A1")
    for path in written(header):
        read = pydicom.dcmread(path)
        for keyword in (*IDENTITY, "StudyInstanceUID", "PatientAge", "StudyDescription"):
            assert read[keyword].value == header[keyword].value, keyword


@pytest.mark.parametrize("keyword", IDENTITY)
def test_what_is_unknown_stays_empty(source_header, written, dciodvfy, keyword):
    for path in written(source_header(**{keyword: None})):
        assert dciodvfy(path) == []
        read = pydicom.dcmread(path)
        assert keyword in read and not read[keyword].value


@pytest.mark.parametrize("keyword", REQUIRED)
def test_what_must_be_referred_to_is_required(source_header, keyword):
    with pytest.raises(BlosamError, match=f"the source image has no {keyword}"):
        prepare(source_header(**{keyword: None}))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", "1.2.secret"),
        ("SOPInstanceUID", "1.2.03"),
        ("SeriesInstanceUID", ["1.2.3", "1.2.4"]),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33"),
        ("PatientID", ["secret", "secret 2"]),
        ("PatientID", "secret" * 20),
        ("PatientName", "secret\n^x"),
        ("PatientName", ["secret^x", "secret^y"]),
    ],
)
def test_what_would_lose_or_mix_up_a_patient_is_refused(source_header, keyword, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = source_header(**{keyword: value})
    with pytest.raises(BlosamError, match=keyword) as raised:
        prepare(header)
    assert "secret" not in str(raised.value) and "1.2." not in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        {"PatientSex": "U"},
        {"PatientBirthDate": "1999-1-1"},
        {"PatientBirthDate": "2000.01.01"},
        {"StudyTime": "99"},
        {"StudyID": "x" * 17},
        {"AccessionNumber": ["a", "b"]},
        {"ReferringPhysicianName": "^" * 6},
        {"PatientAge": "44"},
        {"StudyDescription": "x" * 65},
        {"Manufacturer": "x" * 65},
        {"PatientIdentityRemoved": "YES"},
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand"},
        {"ClinicalTrialSubjectID": "1"},
        {"ClinicalTrialSubjectID": "1", "ClinicalTrialSponsorName": "s", "ClinicalTrialProtocolID": "p"},
        {"FrameOfReferenceUID": "1.2.3.4"},
        {"FrameOfReferenceUID": "1.2.3.4", "ImagePositionPatient": [0, 0, 0]},
        {"SeriesNumber": 2**31 - 1},
        {"NumberOfFrames": 0},
    ],
    ids=str,
)
def test_odd_values_give_valid_objects(source_header, written, dciodvfy, values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = source_header(**values)
    for path in written(header):
        assert dciodvfy(path) == []


@pytest.mark.parametrize(
    ("charset", "name", "expected"),
    [
        (["", "ISO 2022 IR 87"], JAPANESE, ["", "ISO 2022 IR 87"]),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("ISO_IR 192", JAPANESE, "ISO_IR 192"),
        ("GB18030", "Wang^XiaoDong=王^小东", "GB18030"),
        ("ISO_IR 100", "Müller^Jürgen", "ISO_IR 100"),
        ("ISO_IR 100", "Miller^John", None),
        ("ISO 2022 IR 100", "Müller^Jürgen", "ISO_IR 192"),  # a single value must not be of ISO 2022
    ],
)
def test_names_in_other_alphabets(source_header, written, dciodvfy, tmp_path, charset, name, expected):
    header = source_header(SpecificCharacterSet=charset, PatientName=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.save_as(tmp_path / "source.dcm")
        source = pydicom.dcmread(tmp_path / "source.dcm")  # with the bytes of a file
    assert str(source.PatientName) == name
    for path in written(source):
        assert dciodvfy(path) == []
        read = pydicom.dcmread(path)
        assert str(read.PatientName) == name
        assert read.get("SpecificCharacterSet") == expected


def test_class_names_in_another_alphabet_than_the_patients(source_header, written, dciodvfy):
    header = source_header(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    for path in written(header, segment_codes({}, {"肺": 1})):
        assert dciodvfy(path) == []
        read = pydicom.dcmread(path)
        assert (read.SpecificCharacterSet, str(read.PatientName)) == ("ISO_IR 192", "Müller^Jürgen")
        assert "肺" in str(read)


def test_nothing_is_said_about_the_patient(source_header, written, caplog, recwarn):
    secrets = {"PatientName": "Mustermann", "PatientID": "number-4711", "StudyTime": "9x9x9x", "StudyID": "study-" * 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = source_header(**secrets)
    recwarn.clear()
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        written(header)
    assert "StudyTime of the source image is not valid" in caplog.text
    said = caplog.text + " ".join(str(warning.message) for warning in recwarn)
    for secret in (*secrets.values(), header.StudyInstanceUID, header.SOPInstanceUID):
        assert secret not in said


def test_the_source_is_not_changed_and_lists_hold_what_exists(source_header):
    header = source_header(PatientSex="U", FrameOfReferenceUID="1.2.3")
    before = header.to_json()
    prepare(header)
    assert header.to_json() == before
    lists = (REQUIRED, IDENTITY, PATIENT_AND_STUDY, TRIAL, EQUIPMENT, IMAGE)
    for keyword in (keyword for names in lists for keyword in names):
        assert pydicom.datadict.tag_for_keyword(keyword) is not None, keyword
