"""Datasets of phantoms, read back with the plain readers of each format."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from blosam.data.phantoms import draw
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError

# DICOM PS3.3: attributes of type 1 (a value) and type 2 (present) of the mandatory modules.
COMMON_1 = "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality ImageType SamplesPerPixel Rows Columns PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation PixelData"  # fmt: skip  # noqa: E501
COMMON_2 = "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber SeriesNumber InstanceNumber Manufacturer AcquisitionContextSequence"  # fmt: skip  # noqa: E501
DX_1 = "PresentationIntentType ImageLaterality PatientOrientation PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept RescaleSlope RescaleType PresentationLUTShape LossyImageCompression BurnedInAnnotation ImagerPixelSpacing WindowCenter WindowWidth"  # fmt: skip  # noqa: E501
DX_2 = "AnatomicRegionSequence DetectorType"


def expected(kind: str, seed: int, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    phantom = draw(kind, seed, 64, aspect, 0.5)
    return phantom.image, phantom.mask


def test_png_and_index(tmp_path):
    items = write_dataset("chest", tmp_path / "new" / "set", 3, seed=7, size=64, aspect=0.75)
    image, mask = expected("chest", 8, 0.75)
    assert len(items) == 3 and image.shape == (64, 48)
    with Image.open(items[1]["image"]) as picture:
        assert np.abs(np.asarray(picture) / 255 - image).max() <= 0.5 / 255 + 1e-6
    with Image.open(items[1]["label"]) as picture:
        assert np.array_equal(np.asarray(picture), mask * 255)
    with open(tmp_path / "new" / "set" / "index.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["chest_00007", "chest_00008", "chest_00009"]
    assert len({row["patient"] for row in rows}) == 3


def test_jpeg_colour(tmp_path):
    items = write_dataset("colonoscopy", tmp_path, 1, size=64, image_format="jpeg", aspect=1.25)
    image, _ = expected("colonoscopy", 0, 1.25)
    with Image.open(items[0]["image"]) as picture:
        assert picture.format == "JPEG" and picture.mode == "RGB"
        assert np.abs(np.asarray(picture) / 255 - image).mean() < 0.03


def test_nifti_is_width_by_height_with_spacing(tmp_path):
    items = write_dataset("dental", tmp_path, 1, size=64, image_format="nifti", mask_format="nifti", aspect=2.0)
    image, mask = expected("dental", 0, 2.0)
    volume, label = nibabel.load(items[0]["image"]), nibabel.load(items[0]["label"])
    assert volume.shape == label.shape == (64, 32)
    assert np.array_equal(np.asarray(volume.dataobj), np.round(image * 4095).astype(np.uint16).T)
    assert np.array_equal(np.asarray(label.dataobj), mask.T)
    assert np.allclose(volume.affine, label.affine)
    assert np.allclose(np.abs(np.diag(volume.affine)), [250 / 64, 250 / 64, 1, 1])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("kind", ["chest", "dental"])
def test_dx(tmp_path, kind, photometric):
    items = write_dataset(kind, tmp_path, 1, seed=3, size=64, image_format="dicom", aspect=1.5, photometric=photometric)
    image, _ = expected(kind, 3, 1.5)
    dataset = pydicom.dcmread(items[0]["image"])
    assert dataset.SOPClassUID.name == "Digital X-Ray Image Storage - For Presentation"
    for keyword in f"{COMMON_1} {DX_1}".split():
        assert dataset[keyword].value not in (None, "", []), keyword
    for keyword in f"{COMMON_2} {DX_2}".split():
        assert keyword in dataset, keyword
    assert (dataset.Rows, dataset.Columns) == image.shape
    stored = dataset.pixel_array
    assert stored.dtype == np.uint16 and stored.max() <= 4095
    shown = 4095 - stored if photometric == "MONOCHROME1" else stored
    assert np.array_equal(shown, np.round(image * 4095).astype(np.uint16))
    assert dataset.PresentationLUTShape == {"MONOCHROME2": "IDENTITY", "MONOCHROME1": "INVERSE"}[photometric]
    assert str(dataset.PatientName) == f"Phantom^{kind.capitalize()}"


def test_endoscopy(tmp_path):
    items = write_dataset("colonoscopy", tmp_path, 1, size=65, image_format="dicom", aspect=1.0)
    dataset = pydicom.dcmread(items[0]["image"])
    assert dataset.SOPClassUID.name == "VL Endoscopic Image Storage"
    for keyword in f"{COMMON_1} PlanarConfiguration LossyImageCompression".split():
        assert dataset[keyword].value not in (None, "", []), keyword
    for keyword in COMMON_2.split():
        assert keyword in dataset, keyword
    assert len(dataset.PixelData) % 2 == 0
    image = draw("colonoscopy", 0, 65, 1.0, 0.5).image
    assert np.array_equal(dataset.pixel_array, np.round(image * 255).astype(np.uint8))


def test_identifiers_are_repeatable_and_unique(tmp_path):
    def identifiers(folder: str, kind: str) -> list[str]:
        items = write_dataset(kind, tmp_path / folder, 2, size=32, image_format="dicom")
        datasets = [pydicom.dcmread(item["image"]) for item in items]
        return [uid for d in datasets for uid in (d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID)]

    first, again, other = identifiers("a", "chest"), identifiers("b", "chest"), identifiers("c", "dental")
    assert first == again
    assert len(set(first + other)) == 12
    assert all(uid.is_valid for uid in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "knee"}, "Unknown kind of phantom 'knee'"),
        ({"count": 0}, "at least 1"),
        ({"image_format": "bmp"}, "Use one of png, jpeg, nifti, dicom"),
        ({"mask_format": "jpeg"}, "Use one of png, nifti"),
        ({"photometric": "RGB"}, "MONOCHROME1, MONOCHROME2"),
        ({"kind": "colonoscopy", "image_format": "nifti"}, "Use png, jpeg or dicom"),
    ],
)
def test_bad_arguments(tmp_path, changes, message):
    with pytest.raises(BlosamError, match=message):
        write_dataset(**{"kind": "chest", "folder": tmp_path / "out", "count": 1, "size": 32, **changes})
    assert not (tmp_path / "out").exists()


def test_other_peoples_files_are_safe(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "patient.png").write_bytes(b"precious")
    with pytest.raises(BlosamError, match="new or empty folder"):
        write_dataset("chest", tmp_path, 1, size=32)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["patient.png"]
