"""Domain shifts: reproducible, in range, and the mask follows what moves."""

from __future__ import annotations

import numpy as np
import pytest

from blosam.data.phantoms import draw
from blosam.data.phantoms.shifts import SHIFTS, shifted


@pytest.mark.parametrize("kind", ["chest", "colonoscopy"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_shift_changes_the_image_and_moves_the_mask_with_it(kind, shift):
    phantom = draw(kind, 3, size=96)
    image, mask = shifted(phantom.image, phantom.mask, shift, 1)
    again, _ = shifted(phantom.image, phantom.mask, shift, 1)
    assert np.array_equal(image, again) and image.dtype == phantom.image.dtype
    assert image.shape == phantom.image.shape and image.min() >= 0 and image.max() <= 1
    assert np.abs(image - phantom.image).mean() > 0.003
    assert np.array_equal(mask, phantom.mask) is (shift != "rotation")


def test_rotation_turns_image_and_mask_alike():
    mask = np.zeros((80, 60), np.uint8)
    mask[10:40, 20:35] = 1
    image, turned = shifted(mask.astype(np.float32), mask, "rotation", 2)
    assert ((image > 0.5) != (turned > 0)).mean() < 0.02


def test_unknown_shift():
    with pytest.raises(ValueError, match="unknown shift"):
        shifted(np.zeros((4, 4)), np.zeros((4, 4)), "snow", 0)
