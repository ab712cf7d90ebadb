"""DICOM reports: valid for dciodvfy, and with the figures that counting pixels gives."""

from __future__ import annotations

import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest

from blosam.dicom.codes import segment_codes
from blosam.dicom.seg import Algorithm, segmentation, write_dicom
from blosam.dicom.sr import Measured, measurement_report
from blosam.errors import BlosamError

ALGORITHM = Algorithm("blosam_lung", "0.1.0")
CODES = segment_codes({}, {"lung": 1, "my class": 2})


def groups(report: pydicom.Dataset) -> list[dict[str, object]]:
    """The content items of each measurement group by their meaning, found without highdicom."""
    found = []
    for group in report.ContentSequence[-1].ContentSequence:
        items: dict[str, object] = {}
        for item in group.ContentSequence:
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            if item.ValueType == "NUM":
                measured = item.MeasuredValueSequence[0]
                items[name] = (float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue)
            elif item.ValueType == "CODE":
                items[name] = item.ConceptCodeSequence[0].CodeMeaning
            elif item.ValueType == "IMAGE":
                items[name] = item.ReferencedSOPSequence[0]
            else:
                items[name] = item.get("TextValue", item.get("UID"))
        found.append(items)
    return found


def value_types(item: pydicom.Dataset) -> set[str]:
    """All value types of a content tree."""
    return {item.ValueType}.union(*(value_types(child) for child in item.get("ContentSequence", [])))


@pytest.mark.parametrize(
    ("kind", "modality"), [("chest", "DX"), ("chest", "CR"), ("dental", "IO"), ("chest", "OT"), ("colonoscopy", "ES")]
)
@pytest.mark.parametrize("stored", [True, False])
def test_a_report_is_valid(source_header, asymmetric_mask, dciodvfy, tmp_path, kind, modality, stored):
    header = source_header(kind, modality)
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    seg = segmentation([header], mask, CODES, ALGORITHM) if stored else None
    image = Measured.from_mask(header, mask, CODES, seg, confidence=0.876, needs_review=True)
    path = tmp_path / "sr.dcm"
    write_dicom(measurement_report([image], CODES, ALGORITHM, description="needs review"), path)
    assert dciodvfy(path) == []
    report = pydicom.dcmread(path)
    assert report.SeriesDescription == "Measurements by blosam_lung - needs review"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "PNAME" not in value_types(report)  # no person
    assert highdicom.sr.srread(path).content is not None
    for number, group in enumerate(groups(report), start=1):
        assert group["Number of pixels"] == (int((mask == number).sum()), "{pixels}")
        assert group["Certainty of Finding"] == (87.6, "%")
        assert group["Review status"] == "Needs review"
        assert group["Algorithm Name"] == "blosam_lung"
        if stored:
            assert group["Referenced Segmentation Frame"].ReferencedSOPInstanceUID == seg.SOPInstanceUID
            assert group["Referenced Segmentation Frame"].ReferencedSegmentNumber == number
        source = group["Source Image for Segmentation" if stored else "Source of Measurement"]
        assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    referenced = {item.ReferencedSOPInstanceUID for series in evidence for item in series.ReferencedSOPSequence}
    assert referenced == {header.SOPInstanceUID} | ({seg.SOPInstanceUID} if stored else set())


@pytest.mark.parametrize(
    ("changes", "name", "pixel"),
    [
        ({}, "Area in the image plane, not corrected for magnification", 1.5 * 1.5),  # DX: both spacings, equal
        ({"PixelSpacing": None}, "Area in the image plane, not corrected for magnification", 1.5 * 1.5),
        ({"PixelSpacing": [1.2, 1.1]}, "Area", 1.2 * 1.1),
        ({"PixelSpacingCalibrationType": "GEOMETRY"}, "Area", 1.5 * 1.5),
        ({"PixelSpacing": None, "ImagerPixelSpacing": None}, None, None),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": None}, None, None),
    ],
)
def test_the_name_of_the_area_says_what_it_is(source_header, asymmetric_mask, changes, name, pixel):
    header = source_header(**changes)
    mask = asymmetric_mask(header.Rows, header.Columns)
    (group,) = groups(measurement_report([Measured.from_mask(header, mask, CODES[:1])], CODES[:1], ALGORITHM))
    areas = {key: value for key, value in group.items() if key.startswith("Area")}
    assert list(areas) == ([name] if name else [])
    if name:
        value, unit = areas[name]
        assert unit == "mm2" and value == pytest.approx(int((mask > 0).sum()) * pixel, rel=1e-5)
    assert "Review status" not in group and "Certainty of Finding" not in group


def test_several_images_of_a_study_and_a_series_in_one_segmentation(source_header, dciodvfy, tmp_path):
    headers = []
    for number in range(3):
        header = source_header(
            FrameOfReferenceUID="1.2.3.4", ImageOrientationPatient=[1, 0, 0, 0, 1, 0], SliceThickness=2
        )
        header.SOPInstanceUID, header.ImagePositionPatient = f"1.2.3.5.{number}", [0, 0, 2 * (2 - number)]
        headers.append(header)
    masks = np.zeros((3, headers[0].Rows, headers[0].Columns), np.uint8)
    for number in range(3):
        masks[number, : number + 1, 0] = 1
    seg = segmentation(headers, masks, CODES, ALGORITHM)
    photograph = source_header("chest", "CR", SOPInstanceUID="1.2.3.6", SeriesInstanceUID="1.2.3.7")
    images = [Measured.from_mask(h, m, CODES, seg) for h, m in zip(headers, masks, strict=True)]
    images.append(Measured.from_mask(photograph, masks[0], CODES))
    path = tmp_path / "sr.dcm"
    write_dicom(measurement_report(images, CODES, ALGORITHM), path)
    assert dciodvfy(path) == []
    stored = pydicom.dcmread(path)
    found = groups(stored)
    assert [group["Number of pixels"][0] for group in found] == [1, 0, 2, 0, 3, 0, 1, 0]
    for position, group in enumerate(found[:6]):
        frame = seg.PerFrameFunctionalGroupsSequence[group["Referenced Segmentation Frame"].ReferencedFrameNumber - 1]
        origin = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert origin == headers[position // 2].SOPInstanceUID
        assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == position % 2 + 1


def test_dcmtk_reads_it(source_header, asymmetric_mask, tmp_path):
    program = shutil.which("dsrdump")
    if program is None:
        pytest.skip("dsrdump is not installed (Debian package dcmtk)")
    header = source_header()
    mask = asymmetric_mask(header.Rows, header.Columns, 2)
    seg = segmentation([header], mask, CODES, ALGORITHM)
    image = Measured.from_mask(header, mask, CODES, seg, needs_review=True)
    write_dicom(measurement_report([image], CODES, ALGORITHM), tmp_path / "sr.dcm")
    result = subprocess.run([program, "+Pc", tmp_path / "sr.dcm"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stderr == ""
    for line in (
        'CODE:(121005,DCM,"Observer Type")=(121007,DCM,"Device")',
        'CODE:(121058,DCM,"Procedure reported")=(43468-8,LN,"XR unspecified body region")',
        'CODE:(121049,DCM,"Language of Content Item and Descendants")=(en-US,RFC5646,"English (United States)")',
        'CODE:(121071,DCM,"Finding")=(39607008,SCT,"Lung")',
        f'NUM:(PIXEL_COUNT,99BLOSAM,"Number of pixels")="{int((mask == 1).sum())}.0" ({{pixels}},UCUM,"pixels")',
        'CODE:(REVIEW_STATUS,99BLOSAM,"Review status")=(NEEDS_REVIEW,99BLOSAM,"Needs review")',
    ):
        assert line in result.stdout


def test_images_of_two_studies_are_refused(source_header, asymmetric_mask):
    headers = [source_header(), source_header(StudyInstanceUID="1.2.3")]
    mask = asymmetric_mask(headers[0].Rows, headers[0].Columns)
    with pytest.raises(BlosamError, match="differ in StudyInstanceUID. Make one report per study"):
        measurement_report([Measured.from_mask(header, mask, CODES) for header in headers], CODES, ALGORITHM)


def test_identifiers_can_be_given(source_header, asymmetric_mask):
    header = source_header()
    image = Measured.from_mask(header, asymmetric_mask(header.Rows, header.Columns), CODES)
    given = {"series_instance_uid": "2.25.1", "sop_instance_uid": "2.25.2"}
    report = measurement_report([image], CODES, ALGORITHM, **given)
    assert (report.SeriesInstanceUID, report.SOPInstanceUID) == ("2.25.1", "2.25.2")
