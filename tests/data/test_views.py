"""Augmented views: image and mask move together, grey stays grey, padding stays padding."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from blosam.data import ResizeLongestPadd, default_views
from blosam.data.transforms import PIXEL_MEAN
from blosam.data.views import RandBlurd, RandGeometryd, RandNoised, RandTurnd, content_size
from blosam.errors import BlosamError


def item(rows: int = 64, columns: int = 64, colour: bool = False) -> dict[str, torch.Tensor]:
    """A blob that is exactly the label, with a little texture elsewhere."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, rows, columns, dtype=torch.uint8)
    label[:, rows // 4 : rows // 2, columns // 3 : columns * 3 // 4] = 1
    image = (0.15 + 0.6 * label + 0.05 * torch.rand(1, rows, columns, generator=generator)).repeat(3, 1, 1)
    if colour:
        image = image * torch.tensor([1.0, 0.7, 0.5])[:, None, None]
    return {"image": image, "label": label}


def drawn(views, seed, source):
    """One view."""
    views.set_random_state(seed=seed)
    return views(dict(source))


@pytest.mark.parametrize("kind", ["greyscale", "panoramic", "rgb"])
def test_image_and_label_move_together(kind):
    source = item(colour=kind == "rgb")
    views = default_views(kind)
    for seed in range(25):
        view = drawn(views, seed, source)
        image, label = view["image"], view["label"]
        assert image.shape == (3, 64, 64) and label.shape == (1, 64, 64) and label.dtype == torch.uint8
        assert image.min() >= 0 and image.max() <= 1 and set(label.unique().tolist()) <= {0, 1}
        inside, outside = image[:, label[0] == 1].mean(), image[:, label[0] == 0].mean()
        threshold = (inside + outside) / 2
        found = image.mean(0) > threshold
        wrong = (found != (label[0] == 1)).float().mean()
        assert inside > outside and wrong < 0.05, (kind, seed, float(wrong))


def test_views_are_reproducible_and_differ():
    source, views = item(), default_views("greyscale")
    first, again, other = (drawn(views, seed, source)["image"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(drawn(default_views("greyscale"), 3, source)["image"], first)


def test_greyscale_stays_grey():
    views = default_views("greyscale")
    for seed in range(10):
        image = drawn(views, seed, item())["image"]
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    colours = drawn(default_views("rgb"), 0, item(colour=True))["image"]
    assert not torch.equal(colours[0], colours[1])


@pytest.mark.parametrize("kind", ["greyscale", "panoramic", "rgb"])
@pytest.mark.parametrize("shape", [(64, 40), (30, 64)])
def test_padding_stays_where_inference_has_it(kind, shape):
    pad = ResizeLongestPadd(["image", "label"], size=64)
    source = {key: value.as_tensor() for key, value in pad(item(*shape)).items()}
    assert content_size(source["image"]) == shape
    views = default_views(kind)
    for seed in range(12):
        view = drawn(views, seed, source)
        rows, columns = content_size(view["image"])
        assert (rows, columns) == shape or (kind == "rgb" and (columns, rows) == shape)
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[:rows, :columns] = False
        assert torch.equal(view["image"][:, outside], torch.tensor(PIXEL_MEAN)[:, None].expand(-1, int(outside.sum())))
        assert (view["label"][:, outside] == 0).all()


def test_mirroring_can_be_turned_off():
    """Where left and right are different classes a mirrored view would be wrong."""
    marked = item()
    marked["image"][:] = torch.linspace(0, 1, 64)  # brighter to the right
    for seed in range(20):
        image = drawn(default_views("greyscale", flip=False), seed, marked)["image"]
        assert image[..., 40:].mean() > image[..., :24].mean()
    sides = set()
    for seed in range(20):
        image = drawn(default_views("greyscale"), seed, marked)["image"]
        sides.add(bool(image[..., 40:].mean() > image[..., :24].mean()))
    assert sides == {True, False}


def test_turns_are_exact():
    source = item(48, 64)
    turn = RandTurnd(["image", "label"], horizontal=1.0, vertical=0.0, quarter=0.0)
    assert torch.equal(turn(source)["image"], source["image"].flip(-1))
    square = item(64, 64)
    quarter = RandTurnd(["image", "label"], horizontal=0.0, vertical=1.0, quarter=1.0)
    assert torch.equal(quarter(square)["label"], square["label"].flip(-2).rot90(1, (-2, -1)))


def test_geometry_without_reach_changes_nothing():
    still = RandGeometryd(["image", "label"], degrees=0, scale=0, translate=0, shear=0)
    source = item(40, 64)
    out = still(dict(source))
    torch.testing.assert_close(out["image"], source["image"], atol=1e-5, rtol=0)
    assert torch.equal(out["label"], source["label"])


@pytest.mark.parametrize("shape", [(96, 96), (64, 120), (120, 64)])
def test_rotation_keeps_angles_and_areas(shape):
    """On a rectangle a rotation that ignores the ratio of the sides would shear a disc."""
    rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    disc = ((rows - shape[0] / 2 + 0.5) ** 2 + (columns - shape[1] / 2 + 0.5) ** 2 < 20**2).to(torch.uint8)[None]
    spin = RandGeometryd(["label"], degrees=90, scale=0, translate=0, shear=0)
    for seed in range(5):
        spin.set_random_state(seed)
        turned = spin({"label": disc})["label"]
        assert (turned != disc).float().sum() < 0.06 * disc.sum()


def test_noise_and_blur():
    flat = {"image": torch.full((3, 64, 64), 0.5)}
    noisy = drawn(RandNoised("image", sigma=0.05), 1, flat)["image"]
    assert 0 < noisy.std() < 0.05 and abs(noisy.mean() - 0.5) < 0.01
    sharp = {"image": (torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))).repeat(3, 1, 1)}
    blur = RandBlurd("image", sigma=4.0, prob=1.0)
    soft = drawn(blur, 1, sharp)["image"]
    assert soft.std() < 0.7 * sharp["image"].std()
    torch.testing.assert_close(soft.mean(), sharp["image"].mean(), atol=0.02, rtol=0)


def test_every_step_can_be_written_in_a_config():
    config = {
        "views": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "blosam.data.views.RandTurnd", "keys": ["image", "label"], "horizontal": 0.5},
                {"_target_": "blosam.data.views.RandToned", "keys": "image", "gamma": 0.3},
            ],
        }
    }
    parser = ConfigParser(config)
    views = parser.get_parsed_content("views")
    assert isinstance(views, Compose) and drawn(views, 0, item())["image"].shape == (3, 64, 64)


def test_unknown_kind():
    with pytest.raises(BlosamError, match="kind 'infrared'. Use one of greyscale, panoramic, rgb"):
        default_views("infrared")


def test_constant_mean_colour_counts_as_content():
    image = torch.tensor(PIXEL_MEAN)[:, None, None].expand(3, 20, 30)
    assert content_size(image) == (20, 30)
    assert torch.isfinite(drawn(default_views(), 0, {"image": image, "label": torch.zeros(1, 20, 30)})["image"]).all()


def test_strips_that_become_one_pixel_wide_can_be_blurred():
    image = torch.rand(1, 1, 64).expand(3, 1, 64)
    padded = torch.tensor(PIXEL_MEAN)[:, None, None].expand(3, 64, 64).clone()
    padded[:, :1] = image
    item = RandBlurd("image", prob=1.0).set_random_state(seed=0)({"image": padded})
    assert item["image"].shape == (3, 64, 64) and torch.isfinite(item["image"]).all()
    assert torch.equal(item["image"][:, 1:], padded[:, 1:])  # the padding
