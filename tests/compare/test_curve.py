"""The learning curve: what it notes, that it takes no time of the budget, and that the weights never notice it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from blosam.compare import approaches
from blosam.compare.approaches import Task
from blosam.compare.budget import Budget
from blosam.compare.curve import COLUMNS, HELD_OUT, POINTS, LearningCurve, held_out_subset
from blosam.compare.measure import training_transform
from blosam.compare.options import Options
from blosam.data import FewShotDataset
from blosam.data.datalist import load_split
from blosam.data.phantoms.write import write_dataset

SIZE = 64


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "phantoms_chest"
    write_dataset("chest", folder, 5, size=SIZE)
    return folder


class Threshold(nn.Module):
    """Foreground is what is brighter than the one weight; dropout and batch statistics would show a careless look."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(1)
        self.norm.eval()  # as frozen layers are

    def forward(self, image):
        if self.training:
            torch.rand(1)
        grey = self.dropout(image.mean(1, keepdim=True))
        return torch.cat([torch.zeros_like(grey), grey - self.weight], dim=1)


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> dict[str, str]:
    paths = {key: folder / f"{name}_{key}.png" for key in ("image", "label")}
    Image.fromarray(image).save(paths["image"])
    Image.fromarray(mask).save(paths["label"])
    return {key: str(path) for key, path in paths.items()}


@pytest.fixture
def pairs(tmp_path) -> list[dict[str, str]]:
    """32 x 16 images, half as wide as high, so that half of the square is padding, which is bright."""
    found = []
    for number in range(3):
        image = np.full((32, 16), 40, np.uint8)
        image[: 8 * (number + 1)] = 200
        mask = np.zeros((32, 16), np.uint8)
        mask[:16] = 255
        found.append(write_pair(tmp_path, f"im{number}", image, mask))
    return found


def dice(bright: int) -> float:
    """Of an upper part of ``bright`` rows with the upper 16 rows."""
    return 2 * min(bright, 16) / (bright + 16)


def test_a_training_by_hand(pairs):
    """Weight 0.9 finds nothing, 0.5 the bright part, 0.0 everything; the padding (mean colour 0.45) never counts."""
    network, budget = Threshold(), Budget(1000.0, 20)
    curve = LearningCurve(pairs[:2], pairs[2:], 1, 32, "cpu")
    network.train()
    network.norm.eval()
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    with curve.follow(network, budget) as step_done:
        budget.progress(0)
        for step in range(20):
            network.weight.data.fill_(0.5 if step < 9 else 0.0)
            step_done(torch.tensor(float(step), requires_grad=True))
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert network.norm.num_batches_tracked == 0
    record = curve.record()
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    assert tuple(record["columns"]) == COLUMNS and record["held_out"] == ["im2_image"]
    assert [row["step"] for row in rows] == [0, 2, 5, 10, 15, 20]
    assert [row["progress"] for row in rows] == pytest.approx(POINTS)
    assert [row["loss"] for row in rows] == pytest.approx([0.0, 0.5, 2.0, 4.5, 7.0, 9.5])  # running means
    bright, all_of_it = (dice(8) + dice(16)) / 2, dice(32)
    assert [row["train_dice"] for row in rows] == pytest.approx([0, bright, bright, *[all_of_it] * 3], abs=1e-5)
    assert [row["held_out_dice"] for row in rows] == pytest.approx([0, dice(24), dice(24), *[all_of_it] * 3], abs=1e-5)


def test_looking_takes_no_time_of_the_budget_but_is_told(pairs, monkeypatch):
    budget = Budget(100.0, 1000)
    curve = LearningCurve(pairs[:1], pairs[1:], 1, 32, "cpu")
    now = [0.0]
    monkeypatch.setattr(budget, "_clock", lambda: now[0])
    budget._started = 0.0
    look = curve._dice

    def slow() -> list[float]:
        now[0] += 50.0
        return look()

    monkeypatch.setattr(curve, "_dice", slow)
    with curve.follow(Threshold(), budget) as step_done:
        budget.progress(0)
        for _ in range(10):
            now[0] += 10.0
            step_done(1.0)
    assert budget.elapsed == pytest.approx(100.0) and now[0] == pytest.approx(100.0 + 50.0 * 6)
    # 10 and 20 seconds: the points at 10 % and 25 %, the latter in the step after it.
    assert [row[0] for row in curve.rows] == pytest.approx([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    assert curve.seconds > 0 and curve.processor_seconds > 0


def test_several_points_passed_in_one_step_are_one(pairs):
    budget = Budget(1000.0, 2)
    curve = LearningCurve(pairs[:1], pairs[1:], 1, 32, "cpu")
    with curve.follow(Threshold(), budget) as step_done:
        budget.progress(0)
        step_done(2.0)
        step_done(4.0)
    assert [row[:3] for row in curve.record()["rows"]] == [[0.0, 0, 2.0], [0.5, 1, 2.0], [1.0, 2, 3.0]]


def test_held_out_images_are_few_and_chosen_by_the_seed():
    test = [{"image": str(i)} for i in range(30)]
    first = held_out_subset(test, 0)
    assert first == held_out_subset(test, 0) and len(first) == HELD_OUT
    assert [int(pair["image"]) for pair in first] == sorted(int(pair["image"]) for pair in first)
    assert held_out_subset(test, 1) != first
    assert held_out_subset(test[:2], 0) == test[:2]


def trained(method: str, data: Path, tmp_path: Path, looked_at: bool):
    """A short training of a registered method, with or without a curve."""
    options = Options(data, tmp_path, (method,), (2,), 1, base_weights="random", views=2, image_size=SIZE,
                      max_steps=6, budget=600.0)  # fmt: skip
    split = load_split(data, 2, 0)
    curve = LearningCurve(split["training"], split["test"], 1, SIZE, "cpu") if looked_at else None
    dataset = FewShotDataset(split["training"], training_transform(1, SIZE), 1, 0)
    torch.manual_seed(5)
    result = approaches.get(method).train(Task(dataset, options, 0, curve))
    return result, torch.rand(1), curve


@pytest.mark.parametrize(
    "method", ["blo-sam", "s-sam", "unet", "ssp", pytest.param("deeplabv3", marks=pytest.mark.slow)]
)
def test_weights_and_random_numbers_are_the_same_with_and_without(method, phantoms, tmp_path):
    """A bilevel preset, one with singular values, plain networks (one with batch statistics), and episodes."""
    plain, after, _ = trained(method, phantoms, tmp_path, looked_at=False)
    seen, after_seen, curve = trained(method, phantoms, tmp_path, looked_at=True)
    theirs = seen.network.state_dict()
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(after, after_seen) and plain.steps == seen.steps == 6
    rows = curve.record()["rows"]
    assert [row[1] for row in rows] == [0, 1, 2, 3, 5, 6]
    assert all(0 <= value <= 1 for row in rows for value in row[3:]) and all(row[2] > 0 for row in rows)
