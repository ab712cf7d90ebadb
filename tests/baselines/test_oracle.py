"""Prompts from the true mask: where they lie, what a promptable SAM makes of them, and MedSAM's recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blosam import weights
from blosam.baselines import OracleSam, train_boxes
from blosam.baselines.oracle import bounding_box, interior_point, medsam_loss, objects, to_frame
from blosam.compare.budget import Budget
from blosam.data import FeatureBank, ResizeLongestPadd
from blosam.errors import BlosamError
from blosam.networks import PromptableSam, build_sam, load_base
from blosam.networks.base_weights import read_state, resize_position_tables


@st.composite
def drawings(draw) -> np.ndarray:
    """A disc in an image of any shape, at least 6 pixels wide when the longest side is 64 pixels."""
    height, width = draw(st.integers(20, 300)), draw(st.integers(20, 300))
    radius = max(3, max(height, width) / 64 * 3)
    row, column = (draw(st.integers(*_inside(side, radius))) for side in (height, width))
    rows, columns = np.ogrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def _inside(side: int, radius: float) -> tuple[int, int]:
    margin = int(min(radius, (side - 1) // 2))
    return margin, side - 1 - margin


@settings(max_examples=40, deadline=None)
@given(drawings())
def test_prompts_lie_in_the_object_whatever_the_shape_of_the_image(mask):
    label = torch.from_numpy(mask)[None].to(torch.uint8)
    framed = ResizeLongestPadd("label", size=64)({"label": label})["label"][0].numpy() > 0
    (part,) = objects(mask)
    x, y = to_frame(torch.tensor(interior_point(part)), *mask.shape, 64).tolist()
    assert framed[round(y), round(x)]
    box = to_frame(torch.tensor(bounding_box(part)), *mask.shape, 64).tolist()
    rows, columns = np.nonzero(framed)
    assert np.allclose(box, [columns.min(), rows.min(), columns.max(), rows.max()], atol=1.5)  # tips may be missed


def test_objects_are_connected_parts_without_specks_largest_first():
    mask = np.zeros((40, 50), bool)
    mask[2:10, 3:13] = True  # 80
    mask[20:40, 20:40] = True  # 400
    mask[10, 13] = True  # touches the first one at a corner
    mask[0, 49] = True  # a slip of the pen
    assert [part.sum() for part in objects(mask)] == [400, 81]
    assert objects(np.zeros((4, 4), bool)) == []
    assert bounding_box(mask & (np.arange(40)[:, None] > 15)) == (20, 20, 39, 39)
    ring = np.ones((21, 21), bool)
    ring[4:17, 4:17] = False
    x, y = interior_point(ring)
    assert ring[int(y), int(x)]
    square = np.zeros((9, 9), bool)
    square[:5, :5] = True  # the border of the image counts: the middle, not the corner
    assert interior_point(square) == (2.0, 2.0)


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_masks_are_those_of_segment_anything(kind):
    network = weights.load_base(PromptableSam("tiny", 64)).eval()
    sam = build_sam("tiny", 64)
    base = read_state(weights.find("tiny"))
    sam.load_state_dict(resize_position_tables(base, "tiny", 64), strict=False)
    places = torch.tensor([[20.0, 30.0], [40.0, 8.0]]) if kind == "points" else torch.tensor([[5.0, 6, 40, 50]])
    given_ = {"points": None, "boxes": None, "masks": None}
    given_[kind] = (places[:, None], torch.ones(2, 1)) if kind == "points" else places
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        embedding = network.encode(image)
        found = network.masks(embedding, **{kind: places})
        sparse, dense = sam.prompt_encoder(**given_)
        several = kind == "points"
        logits, quality = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, several)
        best = quality.argmax(1)
        expected = torch.stack([masks[index] for masks, index in zip(logits, best, strict=True)])
    expected = torch.nn.functional.interpolate(expected[:, None], (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_all_of_sams_heads_are_loaded_and_other_normalisations_refused(tmp_path):
    network = PromptableSam("tiny", 64)
    load_base(network, weights.find("tiny"))
    base = read_state(weights.find("tiny"))
    assert all(torch.equal(network.state_dict()[name], base[name].float()) for name in base)
    with pytest.raises(BlosamError, match="z-score"):
        PromptableSam("tiny", 64, normalisation="z-score")
    with pytest.raises(BlosamError, match="unknown prompt"):
        OracleSam(network, "text", 2)


def test_min_max_stretches_every_image():
    network = PromptableSam("tiny", 64, normalisation="min-max").eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.encode(image), network.encode(0.2 + 0.5 * image), rtol=1e-3, atol=1e-4)


class Boxes(torch.nn.Module):
    """A promptable network that fills the box it is given."""

    image_size = 32

    def encode(self, image):
        return image.mean((2, 3))

    def masks(self, embedding, boxes):
        x = y = torch.arange(32)
        x0, y0, x1, y1 = (side.view(-1, 1, 1) for side in boxes.unbind(1))
        inside = (x >= x0) & (x <= x1) & (y[:, None] >= y0) & (y[:, None] <= y1)
        return torch.where(inside, 5.0, -5.0)


def test_a_class_is_the_union_of_its_objects():
    truth = torch.zeros(2, 1, 64, 32, dtype=torch.uint8)
    truth[0, 0, 8:16, 4:12] = 1
    truth[0, 0, 40:56, 4:12] = 1
    truth[0, 0, 8:16, 20:28] = 2
    logits = OracleSam(Boxes(), "box", 3)(torch.rand(2, 3, 32, 32), truth)
    found = logits.argmax(1)
    small = truth[:, 0, 0::2, 0::2].long()
    assert torch.equal(found[..., :16], small) and not found[1].any() and not found[..., 16:].any()


def test_medsam_trains_encoder_and_decoder_but_not_the_prompt_encoder():
    torch.manual_seed(0)
    image, label = torch.rand(3, 64, 64) * 0.2, torch.zeros(1, 64, 64, dtype=torch.uint8)
    label[0, 20:44, 16:40] = 1
    image[:, 20:44, 16:40] += 0.6
    network = OracleSam(weights.load_base(PromptableSam("tiny", 64)), "box", 2)
    before = {name: tensor.clone() for name, tensor in network.sam.state_dict().items()}
    bank = FeatureBank([{"image": image, "label": label}] * 2, network, num_views=1)
    assert train_boxes(network, bank, Budget(60, 4)) == 4
    moved = {name.split(".")[0] for name, tensor in network.sam.state_dict().items() if not tensor.equal(before[name])}
    assert moved == {"image_encoder", "mask_decoder"}
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 6_220


def test_medsam_trains_the_published_number_of_parameters():
    with torch.device("meta"):
        sam = PromptableSam("vit_b", 1024)
    trained = [*sam.image_encoder.parameters(), *sam.mask_decoder.parameters()]
    assert sum(p.numel() for p in trained) == 93_729_252
    assert sum(p.numel() for p in sam.parameters()) == 93_735_472


def test_medsam_loss_against_numpy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 4, 4)), rng.integers(0, 2, (2, 4, 4)).astype(float)
    p = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    dice = [1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum()) for a, b in zip(p, target, strict=True)]
    found = medsam_loss(torch.tensor(logits), torch.tensor(target))
    assert float(found) == pytest.approx(np.mean(dice) + entropy, abs=1e-4)
