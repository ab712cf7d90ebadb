"""The committed bundles are what the generator writes, and their files agree with one another."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(ROOT.glob("bundles/blosam_*"))


def _tool():
    spec = importlib.util.spec_from_file_location("build_bundles", ROOT / "tools" / "build_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / "configs" / f"{name}.json").read_text())


def test_check_passes_on_the_committed_bundles_and_names_a_changed_file(tmp_path):
    tool = _tool()
    assert tool.build(check=True) == []
    assert [path.name for path in BUNDLES] == ["blosam_lung", "blosam_polyp", "blosam_teeth"]
    changed = tmp_path / "bundles"
    for source in ROOT.glob("bundles/**/*"):
        if source.is_file() and not {"models", "results", "predictions"} & set(source.parts):
            target = changed / source.relative_to(ROOT / "bundles")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    path = changed / "blosam_lung" / "configs" / "train.json"
    path.write_text(path.read_text().replace('"tiny"', '"vit_b"'))
    assert tool.build(check=True, bundles=changed) == ["blosam_lung/configs/train.json"]
    assert '"vit_b"' in path.read_text(), "--check must not write"


def test_check_is_a_command_with_an_exit_code():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_bundles.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_metadata_follows_monais_schema(bundle):
    schema = json.loads((ROOT / "tests" / "data" / "meta_schema_20240725.json").read_text())
    metadata = _read(bundle, "metadata")
    jsonschema.Draft201909Validator(schema).validate(metadata)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["schema"].endswith("meta_schema_20240725.json")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_train_inference_and_metadata_agree(bundle):
    train, inference, metadata = (_read(bundle, name) for name in ("train", "inference", "metadata"))
    for key in ("labels", "image_size", "encoder"):
        assert train[key] == inference[key]
    side = [inference["image_size"]] * 2
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert image["spatial_shape"] == side and pred["spatial_shape"] == side
    named = {int(index): name for index, name in pred["channel_def"].items()}
    assert named == {0: "background", **{value: name for name, value in inference["labels"].items()}}
    assert pred["num_channels"] == len(named)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_inference_does_not_need_metadata_and_handlers_are_dicts(bundle):
    inference = (bundle / "configs" / "inference.json").read_text()
    assert "_meta_" not in inference  # MONAI Label does not load it
    for name in ("train", "inference"):
        config = _read(bundle, name)
        for handlers in (config.get("handlers", []), config.get("train", {}).get("handlers", [])):
            assert all(isinstance(handler, dict) and "_target_" in handler for handler in handlers)
    assert _read(bundle, "train")["training"] == "@run"
