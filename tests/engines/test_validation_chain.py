"""The bundle's own validation, from files to the key metric, at the resolution of the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from PIL import Image
from torch.nn import functional

from blosam.engines import FrozenFeatureInferer

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "blosam_lung" / "configs" / "train.json"
ROWS, COLUMNS, SIZE = 40, 72, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four wide PNG images with one off-centre object each."""
    folder = tmp_path_factory.mktemp("wide")
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(4):
        mask = np.zeros((ROWS, COLUMNS), np.uint8)
        mask[4 : 16 + 2 * index, 6 : 50 + index] = 255
        picture = 0.6 * mask + generator.integers(0, 100, mask.shape)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    return folder


def parser_of(folder: Path, out: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    settings = {
        "dataset_dir": str(folder), "output_dir": str(out / "results"), "ckpt_dir": str(out / "models"),
        "image_size": SIZE, "method": "blo-sam", "base_weights": "random", "num_views": 1,
        "device": "$torch.device('cpu')", "val_interval": 1, "train#trainer#max_epochs": 3,
    }  # fmt: skip
    for key, value in settings.items():
        parser[key] = value
    return parser


def native_mask(network, image: torch.Tensor) -> np.ndarray:
    """ROWS x COLUMNS classes, without MONAI: network, padding off, bilinear to the file's size, argmax."""
    with torch.no_grad():
        logits = network(torch.as_tensor(image)[None].contiguous())
    longest = max(ROWS, COLUMNS)
    content = logits[:, :, : round(ROWS * SIZE / longest), : round(COLUMNS * SIZE / longest)]
    native = functional.interpolate(content, (ROWS, COLUMNS), mode="bilinear", align_corners=False)
    return native.argmax(1)[0].numpy()


def test_predictions_are_compared_on_the_grid_of_the_files(folder, tmp_path):
    """A plain tensor from the inferer would silently stay at 64 x 64: MONAI's Invertd leaves it alone."""
    parser = parser_of(folder, tmp_path)
    evaluator = parser.get_parsed_content("validate#evaluator")
    assert isinstance(evaluator.inferer, FrozenFeatureInferer)
    network = parser.get_parsed_content("network").eval()
    with torch.no_grad():  # both classes must occur, or a wrong grid could not be told from a right one
        network.prompt_parameters()[0].normal_(generator=torch.Generator().manual_seed(1))
    seen = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.extend(e.state.output))
    for run in range(2):  # the second time with kept features
        evaluator.run(run + 1)
    assert len(seen) == 4
    images = [item["image"].as_tensor().float() for item in parser.get_parsed_content("validate#dataset")]
    dices = []
    for index, output in enumerate(seen):
        pred, truth = (np.asarray(output[key])[0].T for key in ("pred", "label"))  # MONAI's order is columns x rows
        assert pred.shape == truth.shape == (ROWS, COLUMNS)
        expected = native_mask(network, images[index % 2])
        assert 0 < expected.mean() < 1
        assert np.mean(pred != expected) < 1e-3  # ties of rounding
        dices.append(2 * (pred * truth).sum() / (pred.sum() + truth.sum()))
    assert evaluator.state.metrics["val_mean_dice"] == pytest.approx(np.mean(dices[2:]), abs=1e-6)
