"""Which images a bundle refuses, in which words."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from blosam.dicom.suitability import cautions_about, reasons_against

CHEST = {"colour": False, "modalities": ["CR", "DX"], "body_parts": ["CHEST", "THORAX"], "views": ["PA", "AP"]}
POLYP = {"colour": True, "modalities": ["ES", "XC"], "body_parts": [], "views": []}


def header(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def view(meaning: str) -> list[Dataset]:
    return [header(CodeValue="1", CodingSchemeDesignator="SCT", CodeMeaning=meaning)]


@pytest.mark.parametrize(
    "accepts, elements, reason",
    [
        (CHEST, {"Modality": "CT"}, "The modality is CT (computed tomography), but the bundle is for CR or DX."),
        (
            CHEST,
            {"Modality": "DX", "BodyPartExamined": "HAND"},
            "The image shows the HAND, but the bundle is for CHEST",
        ),
        (CHEST, {"ViewPosition": "LATERAL"}, "The view is LATERAL, but the bundle is for PA or AP."),
        (CHEST, {"ViewPosition": "LL"}, "The view is LATERAL"),
        (CHEST, {"ViewCodeSequence": view("left lateral")}, "The view is LATERAL"),
        (CHEST, {"PatientOrientation": ["A", "F"]}, "The view is LATERAL"),
        (CHEST, {"PhotometricInterpretation": "RGB"}, "The image is in colour, but the bundle is for grey images."),
        (CHEST, {"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        (
            POLYP,
            {"PhotometricInterpretation": "MONOCHROME2"},
            "The image is grey, but the bundle is for colour images.",
        ),
        (CHEST, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "It is a segmentation, not an image."),
    ],
)
def test_reasons(accepts, elements, reason):
    (found,) = reasons_against(header(**elements), accepts)
    assert reason in found and found.endswith(".")


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {
            "Modality": "DX",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "PhotometricInterpretation": "MONOCHROME1",
        },
        {"Modality": "CR", "BodyPartExamined": "Chest PA", "ViewPosition": "", "PatientOrientation": ["L", "F"]},
        {"Modality": "OT", "BodyPartExamined": "", "PatientOrientation": ""},
        {"ViewCodeSequence": view("postero-anterior")},
        {"ViewCodeSequence": []},
    ],
)
def test_what_fits_or_says_nothing_is_accepted(elements):
    assert reasons_against(header(**elements), CHEST) == []
    assert reasons_against(header(**elements), None) == reasons_against(header(**elements), {}) == []


def test_several_reasons_are_all_given():
    found = reasons_against(header(Modality="CT", PhotometricInterpretation="RGB", BodyPartExamined="HEAD"), CHEST)
    assert len(found) == 3


def test_values_that_dicom_does_not_define_are_not_repeated():
    """Any element may have been used for a name."""
    strange = header(Modality="SMITH", BodyPartExamined="SMITH^JOHN", ViewPosition="SMITH")
    found = reasons_against(strange, CHEST)
    assert len(found) == 3 and "SMITH" not in " ".join(found)


def test_what_could_not_be_checked_is_said():
    assert cautions_about(header(Modality="OT"), CHEST) == [
        "The image does not state its modality, body part, view, so it was not checked that the bundle fits it."
    ]
    assert cautions_about(header(Modality="DX", BodyPartExamined="CHEST", ViewPosition="AP"), CHEST) == []
    assert cautions_about(header(), None) == []
