"""Stopping and resuming the bundle's own training: every layer, mixed precision, patience, MONAI Label's loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from PIL import Image

from blosam import weightsio
from blosam.networks import BloSam

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "blosam_lung" / "configs" / "train.json"
EPOCHS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for index in range(4):
        mask = np.zeros((48, 64), np.uint8)
        mask[8 : 30 + index, 10:40] = 255
        Image.fromarray((0.6 * mask + generator.integers(0, 100, mask.shape)).astype(np.uint8)).save(
            folder / "images" / f"{index}.png"
        )
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A model.pt from another day, which MONAI Label would start from."""
    path = tmp_path_factory.mktemp("earlier") / "model.pt"
    weightsio.save_state_dict(BloSam("tiny", 64, init_seed=8).state_dict(), path)
    return path


def trainer_of(folder: Path, out: Path, resume: bool, label_model: Path | None, **settings):
    """What one process of the command builds, with the changes MONAI Label makes to the config."""
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    changes = {
        "dataset_dir": str(folder), "output_dir": str(out / "results"), "ckpt_dir": str(out / "models"),
        "image_size": 64, "base_weights": "random", "num_views": 2, "device": "$torch.device('cpu')",
        "val_interval": 2, "resume": resume, "train#trainer#max_epochs": EPOCHS, **settings,
    }  # fmt: skip
    for key, value in changes.items():
        parser[key] = value
    if label_model is not None:
        loader = {"_target_": "CheckpointLoader", "load_path": str(label_model), "load_dict": {"model": "@network"}}
        parser["train#handlers"].insert(0, loader)
    torch.manual_seed(3)  # as set_determinism does at the start of each process
    return parser.get_parsed_content("train#trainer")


MODES = {
    "every layer": ({"method": "all-layers"}, True),
    "second order": ({"method": "blo-sam-2nd"}, True),
    "swapped roles, views auto": ({"method": "blo-sam-swap", "num_views": "auto"}, False),
    "every layer, bfloat16, patience": ({"method": "all-layers", "amp": True, "patience": 9}, False),
    "second order, bfloat16": ({"method": "blo-sam-2nd", "amp": True}, True),
}


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.slow] if "bfloat16" in mode else []) for mode in MODES]
)
def test_interrupted_training_goes_on_bit_for_bit(mode, folder, earlier, tmp_path):
    """With all layers the state is written every 10 epochs only: Ctrl-C must still keep the last complete one."""
    settings, label = MODES[mode]
    model = earlier if label else None
    if settings.get("num_views") == "auto":
        settings = {**settings, "train#bank#seconds": 1e-9}
    trainer_of(folder, tmp_path / "whole", False, model, **settings).run()
    stopped = trainer_of(folder, tmp_path / "parts", False, model, **settings)

    def interrupt(engine):
        raise KeyboardInterrupt

    stopped.add_event_handler(Events.ITERATION_COMPLETED(once=(EPOCHS - 1) * len(stopped.data_loader) + 1), interrupt)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    state = torch.load(tmp_path / "parts/models/last.pt", weights_only=True)
    assert state["engine"]["epoch"] == EPOCHS - 1
    resumed = trainer_of(folder, tmp_path / "parts", True, model, **settings)
    resumed.run()
    assert resumed.state.epoch == EPOCHS
    for name in ("models/model.pt", "models/last.pt"):
        whole, parts = (torch.load(tmp_path / p / name, weights_only=True) for p in ("whole", "parts"))
        whole, parts = (s.get("trained", s) for s in (whole, parts))
        assert whole.keys() == parts.keys()
        assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []
    histories = [(tmp_path / part / "results/history.csv").read_text() for part in ("whole", "parts")]
    assert histories[0] == histories[1]
