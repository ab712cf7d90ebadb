"""Phantoms: repeatable, varied, and with masks that are the drawn geometry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from blosam.data.phantoms import KINDS, draw, draw_many
from blosam.data.phantoms.canvas import Chance, blur, curve, smooth_noise, soft
from blosam.data.phantoms.contact_sheet import contact_sheet
from blosam.data.phantoms.xray import add_borders
from blosam.errors import BlosamError

COMMON = Path(__file__).parents[2] / "common"
SEEDS = range(24)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list]:
    return {kind: draw_many(kind, SEEDS, size=96) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_types_and_names(drawn, kind):
    for phantom in drawn[kind]:
        channels = (3,) if kind == "colonoscopy" else ()
        assert phantom.image.shape == (96, 96, *channels)
        assert phantom.image.dtype == np.float32
        assert np.isfinite(phantom.image).all()
        assert phantom.image.min() >= 0 and phantom.image.max() <= 1
        assert np.ptp(phantom.image) > 0.1
        assert phantom.mask.dtype == phantom.structures.dtype == np.uint8
        assert phantom.mask.shape == phantom.structures.shape == (96, 96)
        assert set(np.unique(phantom.mask)) <= {0, 1}
        assert set(np.unique(phantom.structures)) <= {0, *phantom.structure_names}
        for overlay in phantom.overlays.values():
            assert overlay.shape == (96, 96) and overlay.dtype == bool


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_phantom_in_another_process(kind):
    code = (
        "import zlib; from blosam.data.phantoms import draw; p = draw({kind!r}, 5, 64);"
        "print(zlib.crc32(p.image.tobytes()), zlib.crc32(p.structures.tobytes()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code.format(kind=kind)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(COMMON), "PYTHONHASHSEED": str(number)},
        ).stdout
        for number in (1, 2)
    }  # fmt: skip
    assert len(outputs) == 1 and outputs.pop().strip()
    first, again = draw(kind, 5, 64), draw(kind, 5, 64)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.structures, again.structures)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_differ(drawn, kind):
    images = np.stack([phantom.image.reshape(-1) for phantom in drawn[kind]])
    differences = np.abs(images[:, None] - images[None]).mean(axis=2)
    assert differences[~np.eye(len(images), dtype=bool)].min() > 0.02
    masks = np.stack([phantom.mask for phantom in drawn[kind]])
    assert len(np.unique(masks.reshape(len(masks), -1), axis=0)) >= len(masks) - 3


@pytest.mark.parametrize("kind", KINDS)
def test_anatomy_does_not_depend_on_the_size(kind):
    overlaps = []
    for seed in range(8):
        small, large = draw(kind, seed, 64).mask > 0, draw(kind, seed, 256).mask
        reduced = large.reshape(64, 4, 64, 4).mean(axis=(1, 3)) > 0.5
        if reduced.sum() > 60:
            overlaps.append(2 * (small & reduced).sum() / (small.sum() + reduced.sum()))
    assert overlaps and min(overlaps) > 0.88, overlaps


@pytest.mark.parametrize("kind", KINDS)
def test_aspect(kind):
    assert draw(kind, 0, 96, aspect=2.0).mask.shape == (48, 96)
    assert draw(kind, 0, 96, aspect=0.5).structures.shape == (96, 48)


def test_chest_masks(drawn):
    areas, components = [], []
    for phantom in drawn["chest"]:
        lungs, structures = phantom.mask > 0, phantom.structures
        assert np.array_equal(lungs, (structures >= 1) & (structures <= 4))
        # The patient's right is on the left of the image.
        columns = np.arange(96)
        right, left = ((np.isin(structures, ids) * columns).sum() / np.isin(structures, ids).sum()
                       for ids in ((1, 3), (2, 4)))  # fmt: skip
        assert right < left
        areas.append(lungs.mean())
        components.append(ndimage.label(lungs)[1])
    assert min(areas) > 0.1 and max(areas) < 0.75
    assert 0.15 < np.median(areas) < 0.6
    assert np.mean(np.array(components) == 2) > 0.7


def test_chest_lungs_are_darker_than_the_mediastinum_when_healthy():
    for seed in range(6):
        phantom = draw("chest", seed, 128, variety=0.0)
        structures = phantom.structures
        lung, middle = (phantom.image[np.isin(structures, ids)].mean() for ids in ((1, 2), (5, 6)))
        assert lung + 0.1 < middle


def test_chest_mask_edge_is_an_edge_of_the_image():
    phantom = draw("chest", 3, 256, variety=0.0)
    lungs = np.isin(phantom.structures, (1, 2))
    heart_side = np.isin(phantom.structures, (5, 6, 3, 4))
    inner = (
        ndimage.binary_dilation(heart_side, iterations=6) & lungs & ~ndimage.binary_dilation(heart_side, iterations=3)
    )
    outer = ndimage.binary_dilation(lungs, iterations=6) & heart_side & ~ndimage.binary_dilation(lungs, iterations=3)
    assert phantom.image[inner].mean() + 0.05 < phantom.image[outer].mean()


def test_collimation_tells_where_the_patient_is_visible():
    hidden = 0
    for seed in range(40):
        before = np.full((48, 64), 0.5, dtype=np.float32)
        after, visible = add_borders(Chance([seed]), before)
        assert np.array_equal(after[visible], before[visible])
        assert (np.abs(after[~visible] - 0.5) > 0.1).all()
        hidden += not visible.all()
    assert 10 < hidden < 35


def test_dental_teeth(drawn):
    counts = []
    for phantom in drawn["dental"]:
        teeth = np.unique(phantom.structures[phantom.mask > 0])
        assert ((teeth >= 1) & (teeth <= 32)).all()
        counts.append(len(teeth))
    assert max(counts) <= 32 and np.median(counts) >= 14
    whole = draw("dental", 0, 384, aspect=1.9, variety=0.0)
    assert len(np.unique(whole.structures[whole.mask > 0])) == 32
    assert whole.structure_names[1] == "tooth 11" and whole.structure_names[32] == "tooth 48"
    rows, columns = (np.indices(whole.mask.shape)[axis] for axis in (0, 1))
    upper_right, lower_left = whole.structures == 1, whole.structures == 17
    assert rows[upper_right].mean() < rows[lower_left].mean()
    assert columns[upper_right].mean() < columns[lower_left].mean()
    bone = whole.structures == 33
    assert whole.image[whole.mask > 0].mean() > whole.image[bone].mean()


def test_colonoscopy_polyps(drawn):
    areas = np.array([phantom.mask.mean() for phantom in drawn["colonoscopy"]])
    assert (areas > 0).mean() > 0.8
    assert areas.max() < 0.4 and 0.001 < np.median(areas) < 0.15
    for phantom in drawn["colonoscopy"]:
        assert np.array_equal(phantom.mask > 0, np.isin(phantom.structures, (1, 2)))
    colour = np.mean([phantom.image.mean(axis=(0, 1)) for phantom in drawn["colonoscopy"]], axis=0)
    assert colour[0] > colour[1] > colour[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("knee", 0), "Use one of chest, dental, colonoscopy"),
        (("chest", -1), "from 0 on"),
        (("chest", 0, 8), "at least 32"),
        (("chest", 0, 64, 9.0), "width divided by height"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(BlosamError, match=message):
        draw(*arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_contact_sheet(tmp_path, kind):
    from PIL import Image

    contact_sheet(kind, tmp_path / "sheet.png", seeds=range(3), columns=2, size=48)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (96, 192)
    contact_sheet(kind, tmp_path / "sheet.jpg", seeds=range(2), columns=2, size=48, structures=False)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (96, 96) and sheet.format == "JPEG"


def test_blur_agrees_with_an_exact_gaussian():
    image = np.random.default_rng(0).random((70, 90)).astype(np.float32)
    for sigma in (1.0, 3.0, 6.0, 15.0):
        exact = ndimage.gaussian_filter(image.astype(np.float64), sigma)
        assert np.abs(blur(image, sigma) - exact).max() < 0.02
    assert blur(image, 0.0) is image


def test_smooth_noise_is_standard_normal_and_smooth():
    field = np.stack([smooth_noise(Chance([seed]), (64, 96), 0.05) for seed in range(40)])
    assert abs(field.mean()) < 0.05 and abs(field.std() - 1) < 0.1
    assert (field[:, :, 1:] * field[:, :, :-1]).mean() > 0.85  # neighbours go together
    assert abs((field[:, :, 15:] * field[:, :, :-15]).mean()) < 0.1  # points three blobs apart do not


def test_soft_edge_is_a_half_on_the_outline():
    assert soft(np.array([-2.0, 0.0, 2.0]), 1.0).tolist() == [1.0, 0.5, 0.0]


def test_curve_passes_through_its_points():
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0], [4.0, 4.0]])
    for closed, count in ((False, 3 * 5 + 1), (True, 4 * 5)):
        samples = curve(points, 5, closed)
        assert samples.shape == (count, 2)
        assert np.allclose(samples[[0, 5, 10, 15]], points)
    line = curve(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), 4)
    assert np.allclose(line[:, 0], np.linspace(0, 2, 9)) and np.allclose(line[:, 0], line[:, 1])
