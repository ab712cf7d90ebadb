"""The published methods inside a comparison: each trains, on the small encoder, and is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blosam.compare.measure import measure
from blosam.compare.options import Job, Options
from blosam.compare.runner import run_job
from blosam.data.datalist import load_split
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError
from blosam.methods import PUBLISHED


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset("chest", folder, 3, seed=0, size=64)
    return folder


@pytest.mark.parametrize("name", [method.name for method in PUBLISHED])
def test_every_published_method_trains_and_is_measured(name, data, tmp_path):
    options = Options(data, tmp_path, (name,), (2,), 1, views=2, image_size=64, max_steps=3, budget=60)
    record = run_job(options, Job(name, 2, 0))
    assert record["steps"] == 3 and record["own"]["recipe"] == name
    assert len([row for row in record["rows"] if row["split"] == "test"]) == 1
    assert 0 < record["parameters"]["trained"] <= record["parameters"]["total"]


@pytest.mark.parametrize("name", ["sam-oracle-point", "sam-oracle-box", "medsam-box"])
def test_prompted_methods_get_the_true_mask_and_are_not_ranked(name, data, tmp_path):
    options = Options(data, tmp_path, (name,), (2,), 1, views=2, image_size=64, max_steps=3, budget=60)
    record = run_job(options, Job(name, 2, 0))
    trained = name == "medsam-box"
    assert record["steps"] == 3 * trained and (record["parameters"]["trained"] > 0) == trained
    assert record["caveat"] == "oracle prompt, not comparable"
    assert record["own"]["recipe"] == ("MedSAM's recipe on our base" if trained else name)
    assert {row["split"] for row in record["rows"]} == {"train", "test"}


def test_released_medsam_weights_are_used_as_they_are(data, tmp_path, monkeypatch):
    from blosam.compare import prompted
    from blosam.networks import build_sam, sam

    small = sam.EncoderConfig(16, 64, dim=24, depth=3, heads=2, global_blocks=(1,))
    monkeypatch.setitem(sam.CONFIGS, "vit_b", small)
    monkeypatch.setattr(prompted, "_SAM_SIZE", 64)
    torch.save(build_sam("vit_b", 64).state_dict(), tmp_path / "medsam_vit_b.pth")
    options = Options(data, tmp_path, ("medsam-box",), (2,), 1, image_size=32, budget=60,
                      medsam_weights=str(tmp_path / "medsam_vit_b.pth"))  # fmt: skip
    record = run_job(options, Job("medsam-box", 2, 0))
    assert record["steps"] == 0 and record["own"]["recipe"] == "medsam-box"
    assert len(record["own"]["medsam_sha256"]) == 64
    with pytest.raises(BlosamError, match="no such file"):
        run_job(replace(options, medsam_weights="nowhere.pth"), Job("medsam-box", 2, 0))


def test_only_networks_that_need_the_truth_are_handed_it(data):
    class Asking(torch.nn.Module):
        needs_truth = True
        image_size = 32

        def forward(self, image, truth):
            assert image.shape == (1, 3, 32, 32) and truth.shape[2] == 64  # the grid of the file
            small = truth[:, :, ::2, ::2].as_tensor().float()
            small = torch.nn.functional.pad(small, (0, 32 - small.shape[-1]))
            return torch.cat((1 - small, small), 1) + 0 * image[:, :1]  # undoing the resizing needs the image's record

    class Plain(torch.nn.Module):
        def forward(self, image):
            return 0 * image[:, :2]

    pairs = load_split(data)["training"][:1]
    assert measure(Asking(), pairs, {"lung": 1}, 64, "cpu")[0]["dice"] > 0.9
    assert measure(Plain(), pairs, {"lung": 1}, 64, "cpu")[0]["dice"] == 0
