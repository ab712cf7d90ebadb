"""The app folder of `blosam label`: copies that keep what was trained, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from blosam.bundle import Bundle
from blosam.errors import BlosamError
from blosam.label.folder import prepare_app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path) -> Path:
    to = tmp_path / "given" / "lung"
    shutil.copytree(ROOT / "bundles" / "blosam_lung", to, ignore=shutil.ignore_patterns("models", "results"))
    save(to, 1.0)
    return to


def save(bundle: Path, value: float) -> None:
    """Stand-in weights: this module looks at the bytes only."""
    (bundle / "models").mkdir(exist_ok=True)
    torch.save({"weight": torch.full((2,), value)}, bundle / "models" / "model.pt")


def weight(bundle: Path) -> float:
    return torch.load(bundle / "models" / "model.pt")["weight"][0].item()


def test_copies_a_bundle_without_results_and_training_state(bundle, tmp_path):
    (bundle / "models" / "last.pt").write_bytes(b"state")
    (bundle / "results").mkdir()
    (copy,) = prepare_app(tmp_path / "app", [bundle])
    assert copy.root == (tmp_path / "app" / "model" / "lung").resolve()
    assert copy.labels == Bundle(bundle).labels and weight(copy.root) == 1.0
    assert not (copy.root / "models" / "last.pt").exists() and not (copy.root / "results").exists()
    assert "LabelApp" in (tmp_path / "app" / "main.py").read_text()


def test_what_was_trained_in_the_copy_is_kept(bundle, tmp_path):
    (copy,) = prepare_app(tmp_path / "app", [bundle])
    save(copy.root, 5.0)
    (again,) = prepare_app(tmp_path / "app", [bundle])
    assert weight(again.root) == 5.0 and weight(bundle) == 1.0


def test_an_untouched_copy_follows_its_bundle(bundle, tmp_path):
    prepare_app(tmp_path / "app", [bundle])
    save(bundle, 2.0)
    (copy,) = prepare_app(tmp_path / "app", [bundle])
    assert weight(copy.root) == 2.0


def test_refuses_when_both_were_changed(bundle, tmp_path):
    (copy,) = prepare_app(tmp_path / "app", [bundle])
    save(copy.root, 5.0)
    train = Bundle(bundle).read("train") | {"num_views": 3}
    (bundle / "configs" / "train.json").write_text(json.dumps(train))
    with pytest.raises(BlosamError, match="has changed since it was copied"):
        prepare_app(tmp_path / "app", [bundle])
    assert weight(copy.root) == 5.0


def test_refuses_unknown_bundles_equal_names_and_foreign_folders(bundle, tmp_path):
    with pytest.raises(BlosamError, match="not a bundle"):
        prepare_app(tmp_path / "app", [tmp_path / "nowhere"])
    other = tmp_path / "other" / "lung"
    shutil.copytree(bundle, other)
    with pytest.raises(BlosamError, match="two bundles are called lung"):
        prepare_app(tmp_path / "app", [bundle, other])
    assert not (tmp_path / "app").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(BlosamError, match="thesis.txt"):
        prepare_app(tmp_path / "mine", [bundle])
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
