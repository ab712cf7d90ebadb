"""The model zoo's checks: our bundles pass, and each defect is told in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("verify_bundle", ROOT / "tools" / "verify_bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(lung, tmp_path) -> Path:
    """A copy of a trained bundle to spoil."""
    return Path(shutil.copytree(lung.root, tmp_path / "bundle", ignore=shutil.ignore_patterns("last.pt", "results")))


def change(bundle: Path, config: str, **values) -> None:
    path = bundle / "configs" / f"{config}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def failure(tool, bundle: Path) -> str:
    with pytest.raises(tool.Failure) as caught:
        tool.verify(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_trained_bundles_pass_every_check(tool, trained):
    assert tool.verify(trained.root) == ["files", "version", "schema", "properties", "shapes", "TorchScript"]


def test_missing_files_are_named(tool, copy):
    (copy / "docs" / "data_license.txt").unlink()
    assert failure(tool, copy).startswith("files: docs/data_license.txt missing")


def test_missing_weights_name_the_command_or_the_address(tool, copy):
    (copy / "models" / "model.pt").unlink()
    assert "Run `make models`" in failure(tool, copy)
    entry = "{path: models/model.pt, url: 'https://example.org/model.pt', hash_val: '00', hash_type: sha256}"
    (copy / "large_files.yml").write_text(f"large_files:\n  - {entry}\n")
    assert "address in large_files.yml" in failure(tool, copy)


def test_a_large_file_with_another_digest_is_refused(tool, copy):
    entry = "{path: models/model.pt, url: 'https://example.org/model.pt', hash_val: '00', hash_type: sha256}"
    (copy / "large_files.yml").write_text(f"large_files:\n  - {entry}\n")
    assert "models/model.pt is not the file of large_files.yml" in failure(tool, copy)


def test_version_schema_properties_and_shapes(tool, copy):
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    change(copy, "metadata", version="9.9.9")
    assert failure(tool, copy).startswith("version: version '9.9.9' has no line in the changelog")
    change(copy, "metadata", version=metadata["version"], authors=7)
    assert failure(tool, copy).startswith("schema: metadata.json breaks MONAI's schema at authors")
    formats = json.loads(json.dumps(metadata["network_data_format"]))
    formats["outputs"]["pred"]["num_channels"] = 5
    change(copy, "metadata", authors="the blosam contributors", network_data_format=formats)
    assert failure(tool, copy).startswith("shapes: output channel number")
    inference = json.loads((copy / "configs" / "inference.json").read_text())
    inference["other_inferer"] = inference.pop("inferer")
    (copy / "configs" / "inference.json").write_text(json.dumps(inference))
    assert failure(tool, copy).startswith("properties: inference.json lacks or misnames what MONAI calls inferer")


def test_weights_that_do_not_fit_and_a_stale_export(tool, copy, lung):
    models = copy / "models"
    config = str(copy / "configs" / "inference.json")
    lung.monai("ckpt_export network_def", config, filepath=models / "model.ts", ckpt_file=models / "model.pt")
    path = copy / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in state.items()}, path)
    assert failure(tool, copy).startswith("TorchScript: models/model.ts computes other masks")
    torch.save(dict(list(state.items())[1:]), path)
    assert "do not fit this network: 1 missing" in failure(tool, copy)


def test_the_command_prints_a_line_a_bundle_and_exits_with_1_on_failure(tool, lung, copy, capsys):
    assert tool.main([str(lung.root)]) == 0
    (copy / "LICENSE").unlink()
    assert tool.main([str(copy)]) == 1
    printed = capsys.readouterr()
    assert "blosam_lung: files, version, schema" in printed.out and "bundle: files: LICENSE missing" in printed.err
