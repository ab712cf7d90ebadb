"""The preprocessing against segment_anything's own, and its record of what has to be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch.nn import functional as F

from blosam.compat import declare_torchvision_ops
from blosam.data import Canonical2Dd, ResizeLongestPadd
from blosam.data.transforms import resized_shape
from blosam.errors import BlosamError

declare_torchvision_ops()
from segment_anything.utils.transforms import ResizeLongestSide  # noqa: E402

SHAPES = [(480, 640), (631, 790), (300, 100), (50, 64), (64, 64), (1024, 1023), (37, 1001)]  # rows, columns


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 256])
def test_resizing_and_padding_equal_sams(shape, size):
    rows, columns = shape
    smooth = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(smooth, shape, mode="bicubic").clamp(0, 1)[0]
    picture[:, rows // 3 : rows // 2, columns // 4 : columns // 2] = 1.0  # a hard edge
    picture = (picture * 255).round()
    sam = ResizeLongestSide(size).apply_image(picture.permute(1, 2, 0).numpy().astype(np.uint8))
    assert resized_shape(rows, columns, size) == sam.shape[:2]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normalised = (torch.as_tensor(sam).permute(2, 0, 1).float() - mean[:, None, None]) / std[:, None, None]
    expected = F.pad(normalised, (0, size - sam.shape[1], 0, size - sam.shape[0]))
    ours = ResizeLongestPadd("image", size=size)({"image": MetaTensor(picture / 255)})["image"].as_tensor()
    assert ours.shape == (3, size, size)
    ours = (ours * 255 - mean[:, None, None]) / std[:, None, None]
    # Pillow rounds to whole grey levels after each of its two passes.
    assert (ours - expected).abs().max() < 1.6 / 57
    assert ours[:, sam.shape[0] :].abs().sum() + ours[:, :, sam.shape[1] :].abs().sum() < 1e-2


@pytest.mark.parametrize(
    "shape, channels",
    [((30, 20), 3), ((30, 20, 1), 3), ((30, 20, 3), 3), ((30, 20, 4), 3), ((30, 20, 2), 3)],
)
def test_canonical_form(shape, channels):
    array = torch.rand(shape)
    out = Canonical2Dd("image")({"image": array})["image"]
    assert out.shape == (channels, 20, 30)
    first = array if array.ndim == 2 else array[..., 0]
    torch.testing.assert_close(out[0].as_tensor(), first.T)
    if len(shape) == 2 or shape[-1] in (1, 2):
        assert torch.equal(out[0].as_tensor(), out[2].as_tensor())
    else:
        torch.testing.assert_close(out[2].as_tensor(), array[..., 2].T)


def test_labels_keep_one_channel_and_whole_numbers():
    label = torch.randint(0, 4, (30, 20)).float()
    chain = Compose([Canonical2Dd("label"), ResizeLongestPadd("label", size=64)])
    out = chain({"label": label})["label"]
    assert out.shape == (1, 64, 64) and out.dtype == torch.uint8
    assert set(out.unique().tolist()) <= {0, 1, 2, 3}
    assert (out[:, 43:] == 0).all()  # 30 columns x 20 rows become 64 x 43


def test_images_and_labels_are_resized_alike():
    """A shift of half a pixel between the two would be a shifted mask (B13)."""
    picture = torch.zeros(90, 60)
    picture[20:50, 10:40] = 1
    chain = Compose([Canonical2Dd(["image", "label"]), ResizeLongestPadd(["image", "label"], size=64)])
    out = chain({"image": picture, "label": picture})
    image, label = out["image"][0].as_tensor()[:43], out["label"][0].as_tensor()[:43].float()
    for axis in (0, 1):
        position = torch.arange(image.shape[axis]) + 0.5
        centre = [(m.sum(1 - axis) * position).sum() / m.sum() for m in (image, label)]
        assert abs(centre[0] - centre[1]) < 0.35


@pytest.mark.parametrize("third_axis", [(), (1,)])
def test_inverse_of_any_number_of_channels(third_axis):
    picture = torch.rand((50, 30, *third_axis))
    chain = Compose([Canonical2Dd("image"), ResizeLongestPadd("image", size=32)])
    out = chain({"image": MetaTensor(picture)})["image"]
    affine = out.affine.clone()
    logits = MetaTensor(torch.rand(5, 32, 32)).copy_meta_from(out)
    back = chain.inverse({"image": logits})["image"]
    assert back.shape == (5, 50, 30, *third_axis) and back.applied_operations == []
    assert torch.equal(back.affine, affine)


def test_undoing_crops_then_resizes():
    """Resizing before cropping, or at the size of the low-resolution logits, would shift the mask (B12)."""
    step = ResizeLongestPadd("image", size=64)
    out = step({"image": MetaTensor(torch.rand(3, 25, 100))})["image"]
    logits = torch.rand(2, 64, 64)
    back = step.inverse({"image": MetaTensor(logits).copy_meta_from(out)})["image"].as_tensor()
    expected = F.interpolate(logits[None, :, :16], (25, 100), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(back, expected)


def test_the_source_is_left_alone():
    source = MetaTensor(torch.rand(20, 30))
    before = source.clone()
    chain = Compose([Canonical2Dd("image"), ResizeLongestPadd("image", size=32)])
    chain({"image": source})
    out = chain({"image": source})["image"]
    assert torch.equal(source, before) and source.applied_operations == []
    assert len(out.applied_operations) == 2


def test_bad_arguments():
    with pytest.raises(BlosamError, match="20 x 30 x 7"):
        Canonical2Dd("image")({"image": torch.rand(20, 30, 7)})
    with pytest.raises(BlosamError, match="size is 8"):
        ResizeLongestPadd("image", size=8)
    with pytest.raises(BlosamError, match="no resize mode 'cubic'"):
        ResizeLongestPadd("image", size=64, mode="cubic")
    assert ResizeLongestPadd(["image", "label"], size=64).modes == ("bilinear", "nearest-exact")
    assert ResizeLongestPadd("x", size=64, mode="label").modes == ("nearest-exact",)


def test_extreme_shapes_keep_one_row():
    assert resized_shape(2, 5000, 64) == (1, 64)
    assert ResizeLongestPadd("image", size=64)({"image": torch.rand(3, 2, 5000)})["image"].shape == (
        3,
        64,
        64,
    )
