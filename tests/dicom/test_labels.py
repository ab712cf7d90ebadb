"""Which mask values are accepted, and what becomes of them."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError


def label(path, num_classes=1):
    """The class mask, W x H (x 1)."""
    return ClinicalReader(mode="label", num_classes=num_classes).get_data(path)[0]


@pytest.fixture
def mask(half_bright):
    """Rows x Columns, 0 and 1."""
    return (half_bright(24, 40) > 50).astype(np.uint8)


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks(tmp_path, mask, high):
    Image.fromarray(mask * np.uint8(high)).save(tmp_path / "m.png")
    result = label(tmp_path / "m.png")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, mask.T)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_grey_masks_in_other_colour_models(tmp_path, mask, mode):
    Image.fromarray(mask * np.uint8(255)).convert(mode).save(tmp_path / "m.png")
    np.testing.assert_array_equal(label(tmp_path / "m.png"), mask.T)


def test_classes(tmp_path, mask):
    classes = mask.copy()
    classes[5:9] = 3
    Image.fromarray(classes).save(tmp_path / "m.png")
    nib.save(nib.Nifti1Image(classes.T[..., None].astype(np.float32), np.eye(4)), tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(label(tmp_path / "m.png", 3), classes.T)
    np.testing.assert_array_equal(label(tmp_path / "m.nii.gz", 3)[..., 0], classes.T)
    with pytest.raises(BlosamError, match="values 0, 1, 3, but only the classes 0 to 2"):
        label(tmp_path / "m.png", 2)


def test_palette_masks_give_indices_or_black_and_white(tmp_path, mask):
    indexed = Image.fromarray(mask, mode="P")
    indexed.putpalette([0, 0, 0, 200, 10, 10])
    indexed.save(tmp_path / "index.png")
    np.testing.assert_array_equal(label(tmp_path / "index.png"), mask.T)
    swapped = Image.fromarray(1 - mask, mode="P")  # index 0 is white here
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    swapped.save(tmp_path / "white.png")
    np.testing.assert_array_equal(label(tmp_path / "white.png"), mask.T)


def test_other_values_are_listed(tmp_path, mask):
    Image.fromarray(mask * np.uint8(100) + np.uint8(7)).save(tmp_path / "m.png")
    with pytest.raises(BlosamError, match="m.png: .*values 7, 107, but only 0 and 255, or 0 and 1"):
        label(tmp_path / "m.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "many.png")
    with pytest.raises(BlosamError, match=r"0, 1, 2, 3, 4, 5, 6, 7, \.\.\."):
        label(tmp_path / "many.png")


@pytest.mark.parametrize("bad", [0.5, -1.0, np.nan])
def test_nifti_labels_must_be_whole(tmp_path, mask, bad):
    values = mask.T.astype(np.float32)
    values[0, 0] = bad
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "m.nii")
    with pytest.raises(BlosamError, match="the mask has the values"):
        label(tmp_path / "m.nii")


def test_colour_masks_are_refused(tmp_path, mask):
    Image.fromarray(np.stack([mask * 255, mask * 0, mask * 0], -1).astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(BlosamError, match="in colour, its channels differ by up to 255"):
        label(tmp_path / "m.png")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_masks_are_thresholded_at_127_with_a_warning(tmp_path, mask, caplog, mode):
    """A ``> 0`` would turn compression noise into foreground (B19)."""
    path = tmp_path / f"{mode}.jpg"
    rough = mask * np.uint8(255)
    Image.fromarray(rough).convert(mode).save(path, quality=20)
    decoded = np.asarray(Image.open(path).convert("L"))
    assert ((decoded > 0) != mask).any()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(label(path), mask.T)
        label(path)
    assert caplog.text.count("thresholded at 127") == 1
    with pytest.raises(BlosamError, match="JPEG mask cannot hold 3 classes"):
        label(path, 3)


def test_jpeg_masks_of_zero_and_one_are_refused(tmp_path, mask):
    Image.fromarray(mask).save(tmp_path / "m.jpg")
    with pytest.raises(BlosamError, match="only reaches 1, not 255"):
        label(tmp_path / "m.jpg")


def test_jpeg_masks_with_areas_of_a_third_tone_are_refused_instead_of_thrown_together(tmp_path):
    classes = np.zeros((60, 60), np.uint8)
    classes[5:25, 5:50], classes[30:55, 10:40] = 100, 200
    Image.fromarray(classes).save(tmp_path / "m.jpg", quality=90)
    with pytest.raises(BlosamError, match="grey areas"):
        label(tmp_path / "m.jpg")


def test_empty_and_full_masks(tmp_path):
    for value, expected in ((0, 0), (1, 1), (255, 1)):
        Image.fromarray(np.full((8, 6), value, np.uint8)).save(tmp_path / "m.png")
        assert (label(tmp_path / "m.png") == expected).all()


def test_dicom_masks_are_stored_values(tmp_path, mask, write_dicom):
    write_dicom(tmp_path / "m.dcm", mask, PhotometricInterpretation="MONOCHROME1", WindowCenter="1", WindowWidth="9")
    np.testing.assert_array_equal(label(tmp_path / "m.dcm"), mask.T)


def test_without_classes_only_foreground_is_told(tmp_path, mask):
    Image.fromarray(mask * np.uint8(77)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(label(tmp_path / "m.png", None), mask.T)
