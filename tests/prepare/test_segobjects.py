"""SEG objects of other makers: several segments, fractional, one SEG over several images, broken ones."""

from __future__ import annotations

import copy

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept

from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError
from blosam.prepare.layouts import find_labels
from blosam.prepare.segobjects import find_segmentations

ORGAN = CodedConcept("123037004", "SCT", "Anatomical Structure")
LUNG = CodedConcept("39607008", "SCT", "Lung")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    items = write_dataset("chest", folder, 2, seed=1, size=48, image_format="dicom", aspect=1.0)
    datasets = [pydicom.dcmread(item["image"]) for item in items]
    for dataset in datasets:
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
            datasets[0].StudyInstanceUID,
            datasets[0].SeriesInstanceUID,
        )
        dataset.PatientID = "one"
    return folder, datasets


def seg(sources, pixels, kind, labels, path):
    descriptions = [
        highdicom.seg.SegmentDescription(number, label, ORGAN, LUNG, "MANUAL")
        for number, label in enumerate(labels, start=1)
    ]
    made = highdicom.seg.Segmentation(
        sources, pixels, kind, descriptions, highdicom.UID(), 1, highdicom.UID(), 1, "maker", "model", "1", "serial",
    )  # fmt: skip
    made.save_as(path)
    return path


def test_fractional_segments_of_two_classes_are_cut_at_one_half(sources, tmp_path):
    folder, (first, _) = sources
    rng = np.random.default_rng(0)
    pixels = rng.random((1, 48, 48, 2)).astype(np.float32)
    pixels[0, 0, 0] = [0.7, 0.1]
    path = seg([first], pixels, "FRACTIONAL", ["left", "right"], tmp_path / "s.dcm")
    images = sorted((folder / "images").iterdir())
    found = find_segmentations(images, [path])
    assert found.classes == ["left", "right"] and len(found.labelled) == 1 and len(found.unlabelled) == 1
    layers = found.labelled[0].read((48, 48))
    sure = np.abs(pixels[0] - 0.5) > 0.01  # the file keeps 8 bits
    for index, name in enumerate(["left", "right"]):
        assert np.array_equal(layers[name][sure[..., index]], (pixels[0, ..., index] > 0.5)[sure[..., index]])


def test_each_image_of_a_series_gets_its_own_frame(sources, tmp_path):
    folder, datasets = sources
    masks = []
    for number, dataset in enumerate(datasets):
        mask = np.zeros((48, 48), np.uint8)
        mask[3 : 10 + number, 5 : 20 + 7 * number] = 1
        masks.append(mask > 0)
        seg([dataset], mask[None], "BINARY", ["lung"], tmp_path / f"s{number}.dcm")
    images = sorted((folder / "images").iterdir())
    found = find_segmentations(images, sorted(tmp_path.iterdir()))
    assert [pair.image for pair in found.labelled] == images
    for pair, mask in zip(found.labelled, masks, strict=True):
        assert np.array_equal(pair.read((48, 48))["lung"], mask)


def test_a_seg_without_its_image_of_another_size_or_broken_is_named(sources, tmp_path):
    folder, (first, second) = sources
    images = sorted((folder / "images").iterdir())
    path = seg([first], np.zeros((1, 48, 48), np.uint8), "BINARY", ["lung"], tmp_path / "s.dcm")
    found = find_segmentations(images[1:], [path])
    assert "image it references is not here" in found.problems[0].text
    found = find_segmentations(images, [path])
    assert not any(mask.any() for mask in found.labelled[0].read((48, 48)).values())
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence
    dataset.save_as(tmp_path / "broken.dcm")
    found = find_segmentations(images, [tmp_path / "broken.dcm"])
    assert "cannot be read" in found.problems[0].text and len(found.unlabelled) == 2
    filled = seg([second], np.ones((1, 48, 48), np.uint8), "BINARY", ["lung"], tmp_path / "full.dcm")
    (pair,) = find_segmentations(images[1:], [filled]).labelled
    with pytest.raises(BlosamError, match="48 x 48 pixels, but the image is 50 x 48"):
        pair.read((48, 50))
    cut = pydicom.dcmread(filled)
    cut.PixelData = cut.PixelData[:10]
    cut.save_as(filled)
    with pytest.raises(BlosamError, match="cannot be decoded"):
        pair.read((48, 48))


@pytest.fixture
def placed(sources, tmp_path):
    """Two slices of one volume, with their masks and a SEG over both."""
    folder, datasets = sources
    paths, masks, placed = [], [], []
    for number, dataset in enumerate(datasets):
        dataset = copy.deepcopy(dataset)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [5, 6, 4 * number]
        dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 4
        paths.append(tmp_path / f"i{number}.dcm")
        dataset.save_as(paths[-1])
        placed.append(dataset)
        mask = np.zeros((48, 48), np.uint8)
        mask[3 : 10 + number, 5 : 20 + 7 * number] = 1
        masks.append(mask)
    path = seg(placed, np.stack(masks), "BINARY", ["lung"], tmp_path / "s.dcm")
    return paths, masks, path


def test_frames_without_references_are_matched_by_their_place(placed):
    images, masks, path = placed
    dataset = pydicom.dcmread(path)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence
    dataset.save_as(path)
    for pair, mask in zip(find_segmentations(images, [path]).labelled, masks, strict=True):
        assert np.array_equal(pair.read((48, 48))["lung"], mask > 0)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence
    dataset.save_as(path)
    for pair in find_segmentations(images, [path]).labelled:
        with pytest.raises(BlosamError, match="s.dcm: frame 1 does not say which image"):
            pair.read((48, 48))


def test_a_seg_that_is_mirrored_against_its_image_is_refused(placed):
    images, masks, path = placed
    assert [pair.read((48, 48))["lung"].sum() for pair in find_segmentations(images, [path]).labelled] == [
        mask.sum() for mask in masks
    ]
    dataset = pydicom.dcmread(path)
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        position[1] = 6 + 47 * 0.5
    dataset.save_as(path)
    for pair in find_segmentations(images, [path]).labelled:
        with pytest.raises(BlosamError, match="turned, mirrored or shifted against the image"):
            pair.read((48, 48))


def test_label_maps_have_a_class_of_their_own_and_other_objects_are_no_images(placed):
    images, masks, path = placed
    datasets = [pydicom.dcmread(image) for image in images]
    path.unlink()
    labels = np.stack(masks)
    labels[0, 30:40, 30:45] = 2
    seg(datasets, labels, "LABELMAP", ["left", "right"], path)
    assert pydicom.dcmread(path).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    report = copy.deepcopy(datasets[0])
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    report.save_as(path.with_name("report.dcm"))
    found = find_labels(path.parent)
    assert found.unlabelled == [] and found.problems == [] and found.classes == ["left", "right"]
    for pair, label in zip(found.labelled, labels, strict=True):
        layers = pair.read((48, 48))
        assert np.array_equal(layers["left"], label == 1)
        assert np.array_equal(layers.get("right", np.zeros_like(label, bool)), label == 2)
