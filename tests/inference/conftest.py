"""A bundle with random weights and a small input: what is tested here is everything around the masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from blosam.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A lung bundle of 64 x 64 pixels whose masks have foreground and background."""
    target = tmp_path_factory.mktemp("bundle") / "lung"
    shutil.copytree(ROOT / "bundles" / "blosam_lung", target, ignore=shutil.ignore_patterns("models", "results"))
    config = target / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": 64}))
    torch.manual_seed(3)
    network = Bundle(target).parser("inference").get_parsed_content("network_def")
    (target / "models").mkdir()
    torch.save(network.state_dict(), target / "models" / "model.pt")
    return target
