"""A bundle with random weights and a small input: what is tested here is everything around the masks."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from blosam.bundle import Bundle
from blosam.networks.export import to_torchscript
from blosam.weightsio import save_state_dict

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64


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


# --- for bundles from anywhere ---


def _small_bundle(target: Path, name: str = "blosam_lung", side: int = SIDE) -> Path:
    """A bundle copy for small images, with the weights its network starts from."""
    ignore = shutil.ignore_patterns("models", "results", "predictions")
    shutil.copytree(ROOT / "bundles" / name, target, ignore=ignore)
    config = target / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"image_size": side}))
    network = Bundle(target).parser().get_parsed_content("network_def")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # the mask tokens alone leave the logits nearly equal
        network.mask_decoder.mask_tokens.weight.add_(torch.randn(2, 256, generator=generator))
    save_state_dict(network.state_dict(), target / "models" / "model.pt")
    metadata = json.loads((target / "configs" / "metadata.json").read_text())
    to_torchscript(network.eval(), target / "models" / "model.ts", metadata, {"inference.json": config.read_text()})
    return target


def _zipped(bundle: Path, target: Path, prefix: str = "") -> Path:
    """A zip of a bundle folder, below ``prefix``."""
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(bundle.rglob("*")):
            file.write(path, prefix + str(path.relative_to(bundle)))
    return target


@pytest.fixture(scope="session")
def small_bundle() -> Callable[..., Path]:
    """Makes a small bundle: folder, name of the committed one, side."""
    return _small_bundle


@pytest.fixture(scope="session")
def zipped() -> Callable[..., Path]:
    """Makes a zip: bundle folder, file, prefix."""
    return _zipped


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """The small bundle's folder; do not change it."""
    return _small_bundle(tmp_path_factory.mktemp("small") / "blosam_lung")
