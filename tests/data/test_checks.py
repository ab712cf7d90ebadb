"""Bad training pairs are found before training, in one line that names file, value and mend."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from blosam.data import check_pairs, load_split
from blosam.errors import BlosamError


@pytest.fixture
def pairs(make_folder):
    """Three good pairs."""
    return load_split(make_folder(["a", "b", "c"]))["training"]


def refuse(pairs, match, num_classes=1):
    """The pairs are refused in one line."""
    with pytest.raises(BlosamError, match=match) as caught:
        check_pairs(pairs, num_classes)
    assert "\n" not in str(caught.value)


def save(path, array):
    """Write an array as a picture."""
    Image.fromarray(array).save(path)


def test_good_pairs_pass(pairs, caplog):
    with caplog.at_level(logging.WARNING):
        check_pairs(pairs, 1)
    assert caplog.text == ""


def test_a_mask_of_another_size(pairs):
    save(pairs[1]["label"], np.zeros((24, 20), np.uint8))
    refuse(pairs, "masks/b.png: the mask is 20 x 24 pixels, but its image is 24 x 20")


def test_a_missing_mask(pairs):
    refuse([*pairs, {"image": "d.png"}], "d.png: the image has no mask")
    refuse([*pairs, {"image": pairs[0]["image"], "label": "gone.png"}], "gone.png: the file cannot be opened")


def test_bad_mask_values(pairs):
    save(pairs[2]["label"], np.full((20, 24), 9, np.uint8))
    refuse(pairs, "masks/c.png: the mask has the values 9, but only 0 and 255, or 0 and 1")


@pytest.mark.parametrize(
    "array, match",
    [
        (np.zeros((1, 1), np.uint8), "1 x 1"),
        (np.full((20, 24), 3, np.uint8), "every pixel has the value 3"),
    ],
)
def test_useless_images(pairs, array, match):
    save(pairs[0]["image"], array)
    refuse(pairs, f"images/a.png: .*{match}")


def test_truncated_and_nan_images(pairs):
    path = Path(pairs[0]["image"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refuse(pairs, "images/a.png: the image cannot be read")
    broken = np.full((24, 20), np.nan, np.float32)
    nib.save(nib.Nifti1Image(broken, np.eye(4)), path.with_suffix(".nii"))
    refuse([{"image": str(path.with_suffix(".nii")), "label": pairs[0]["label"]}], "480 pixel.* NaN")


def test_too_few_images_and_too_little_foreground(pairs, caplog):
    refuse(pairs[:1], "has 1 image")
    for pair in pairs[1:]:
        save(pair["label"], np.zeros((20, 24), np.uint8))
    refuse(pairs, "Only 1 of the 3 training masks has any foreground")
    assert "masks/b.png: the mask is empty" in caplog.text


def test_one_empty_mask_is_only_a_warning(pairs, caplog):
    save(pairs[1]["label"], np.zeros((20, 24), np.uint8))
    check_pairs(pairs, 1)
    assert "masks/b.png: the mask is empty" in caplog.text


def test_a_class_nobody_has_is_a_warning(pairs, caplog):
    for number, pair in enumerate(pairs):
        mask = np.zeros((20, 24), np.uint8)
        mask[2:5] = 1 if number else 3
        save(pair["label"], mask)
    check_pairs(pairs, 4)
    assert "No training mask has class 2, 4" in caplog.text


def test_jpeg_masks_are_accepted_with_a_warning(pairs, caplog):
    for number, pair in enumerate(pairs):
        path = pair["label"].replace(".png", ".jpg")
        Image.open(pair["label"]).save(path, quality=30)
        pairs[number] = {**pair, "label": path}
    check_pairs(pairs, 1)
    assert caplog.text.count("thresholded at 127") == 3
    refuse(pairs, "JPEG mask cannot hold 2 classes", num_classes=2)


def test_nifti_mask_with_a_third_axis_for_a_png(pairs):
    mask = np.zeros((24, 20, 1), np.uint8)
    mask[3:8] = 1
    path = pairs[0]["label"].replace(".png", ".nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), path)
    check_pairs([{**pairs[0], "label": path}, *pairs[1:]], 1)
