"""Confidence: the number against NumPy, views undone exactly, noise lowers it, folder and model.ts agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from blosam.data.transforms import PIXEL_MEAN
from blosam.errors import BlosamError
from blosam.inference.confidence import (
    FREE_VIEWS,
    UPRIGHT_VIEWS,
    View,
    agreement,
    by_iou_head,
    by_views,
    choose_source,
    is_degenerate,
    views_for,
)
from blosam.inference.sources import open_bundle

SIDE, ROWS, COLUMNS = 96, 96, 71


class Threshold(nn.Module):
    """Foreground where the image is bright: it sees exactly what a view shows, so its answers agree."""

    def __init__(self, sharpness: float = 40.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of two classes."""
        foreground = self.sharpness * (image[:, :1] - 0.5)
        return torch.cat([torch.zeros_like(foreground), foreground], 1)


def padded(content: np.ndarray) -> torch.Tensor:
    """Rows x columns of grey values as the network's input."""
    image = torch.tensor(PIXEL_MEAN)[:, None, None].repeat(1, SIDE, SIDE)
    image[:, : content.shape[0], : content.shape[1]] = torch.from_numpy(content).float()
    return image


def asymmetric() -> np.ndarray:
    """A smooth blob off the centre with a corner cut out."""
    content = np.full((ROWS, COLUMNS), 0.1)
    content[20:70, 10:45] = 0.9
    content[20:40, 30:45] = 0.1
    return ndimage.gaussian_filter(content, 1.5)


@pytest.mark.parametrize("view", [*UPRIGHT_VIEWS, *FREE_VIEWS], ids=str)
def test_views_are_undone_exactly(view):
    """An asymmetric picture that went through a view and back is the picture, where the view has seen it."""
    content = torch.from_numpy(asymmetric()).float()[None]
    plain = View(view.scale, view.shift, 1.0, view.flip)
    back, seen = plain.undo(plain.apply(content), ROWS, COLUMNS)
    assert back.shape == content.shape and 0.85 < seen.float().mean() <= 1
    error = (back - content).abs()[0][seen]
    assert error.max() < (1e-6 if view.scale == 1 else 0.12)
    assert error.mean() < 0.006
    wrong, _ = View(view.scale, (-view.shift[0], -view.shift[1]), 1.0, () if view.flip else (-1,)).undo(
        plain.apply(content), ROWS, COLUMNS
    )
    assert (wrong - content).abs().mean() > 5 * max(float(error.mean()), 1e-3)


def test_shift_and_flip_move_single_pixels_as_numpy_does():
    content = torch.arange(20.0).reshape(1, 4, 5) / 20
    view = View(shift=(0.25, -0.2), flip=(-1,))  # one row down, one column left, after mirroring
    expected = np.pad(content[0].numpy()[:, ::-1], ((1, 0), (0, 1)), mode="edge")[:4, 1:]
    np.testing.assert_array_equal(view.apply(content)[0].numpy(), expected)
    back, seen = view.undo(view.apply(content), 4, 5)
    np.testing.assert_array_equal(back[0][seen].numpy(), content[0][seen].numpy())
    assert seen.sum() == 3 * 4 and not seen[3].any() and not seen[:, 4].any()


def test_agreement_against_a_loop():
    random = np.random.default_rng(0)
    first, second = random.random((2, 3, 6, 7))
    seen = random.random((6, 7)) < 0.8
    expected = []
    for k in range(3):
        shared = total = 0.0
        for i in range(6):
            for j in range(7):
                if seen[i, j]:
                    shared += first[k, i, j] * second[k, i, j]
                    total += first[k, i, j] + second[k, i, j]
        expected.append(2 * shared / total)
    found = agreement(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(seen))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert agreement(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0


def test_by_views_against_numpy():
    """The whole number, with views that NumPy can follow: brightness and whole pixels."""
    content = asymmetric()
    views = (View(gamma=0.6), View(shift=(0.125, 0.0)))
    down = round(ROWS * 0.125)
    probability = lambda values: 1 / (1 + np.exp(-8.0 * (values - 0.5)))  # noqa: E731
    first, bright = probability(content), probability(content**0.6)
    dice = [2 * (first * bright).sum() / (first + bright).sum()]
    kept = first[: ROWS - down]  # what moved out at the bottom was not seen; the rest comes back as it was
    dice.append(2 * (kept * kept).sum() / (2 * kept).sum())
    found = by_views(Threshold(8.0), padded(content), views)
    assert found == pytest.approx(np.mean(dice), abs=1e-5)


def test_noise_and_blunt_answers_lower_it():
    content = asymmetric()
    noise = np.random.default_rng(1).normal(0, 1, content.shape)
    values = [by_views(Threshold(), padded(np.clip(content + s * noise, 0, 1))) for s in (0.0, 0.1, 0.2, 0.4)]
    assert values[0] > 0.9 and values == sorted(values, reverse=True) and values[-1] < values[0] - 0.1
    blunt = [by_views(Threshold(sharpness), padded(content)) for sharpness in (40.0, 10.0, 3.0, 1.0)]
    assert blunt == sorted(blunt, reverse=True)


@pytest.mark.parametrize("value", [0.05, 0.97], ids=["nothing", "everything"])
def test_degenerate_masks_get_zero(value):
    content = np.full((ROWS, COLUMNS), value)
    content[5, 5] = 0.4  # not flat, and on the same side as... nothing that the network finds
    assert by_views(Threshold(), padded(content)) == 0
    assert is_degenerate(torch.zeros(4, 4)) and is_degenerate(torch.ones(4, 4))
    assert not is_degenerate(torch.tensor([[0, 1], [0, 0]]))


def test_folder_and_torchscript_give_one_confidence(bundle):
    torch.manual_seed(0)
    image = torch.rand(3, 64, 64)
    values = []
    for source in (bundle, bundle / "models" / "model.ts"):
        with open_bundle(source) as opened:
            assert not opened.iou_trained
            values.append(by_views(opened.network(opened.parser("cpu"), "cpu"), image, views_for(opened.metadata)))
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_iou_head_is_read_for_the_classes_in_the_mask(bundle):
    with open_bundle(bundle) as opened:
        network = opened.network(opened.parser("cpu"), "cpu")
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(image[None])
        iou = network.decode_with_iou(network.encode(image[None]))[1]
    share = (logits.argmax(1) == 1).float().mean()
    assert 0 < share < 0.98
    assert by_iou_head(network, image) == pytest.approx(float(iou[0, 1].clamp(0, 1)), abs=1e-6)


def test_views_follow_the_modality_and_sources_are_checked():
    def metadata(modality: str) -> dict:
        return {"network_data_format": {"inputs": {"image": {"modality": modality}}}}

    assert views_for(metadata("DX")) == views_for({}) == UPRIGHT_VIEWS
    assert views_for(metadata("ES")) == FREE_VIEWS
    assert not any(view.flip for view in UPRIGHT_VIEWS)
    assert choose_source("auto", True) == choose_source("auto", False) == "views"
    assert choose_source("iou", True) == "iou" and choose_source("none", False) == "none"
    with pytest.raises(BlosamError, match="not trained"):
        choose_source("iou", False)
    with pytest.raises(BlosamError, match="unknown"):
        choose_source("guess", True)
