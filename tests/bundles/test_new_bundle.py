"""docs/bundles.md: a bundle of one's own from a short task file."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from blosam.bundle import Bundle
from blosam.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bundles.md").read_text()


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_bundles", ROOT / "tools" / "build_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundles(tmp_path) -> Path:
    """A folder with our template and the task file of the page, and nothing else."""
    (task,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(task.splitlines()) <= 22
    shutil.copytree(ROOT / "bundles" / "_template", tmp_path / "bundles" / "_template")
    (tmp_path / "bundles" / "_tasks").mkdir()
    (tmp_path / "bundles" / "_tasks" / "skin.json").write_text(task)
    return tmp_path / "bundles"


def write_pairs(folder: Path, count: int) -> None:
    """Colour pictures with a dark spot (1) that has a darker core (2)."""
    chance = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows, columns = np.mgrid[:60, :80]
    for number in range(count):
        x, y = chance.uniform(25, 55), chance.uniform(20, 40)
        distance = np.hypot(rows - y, columns - x)
        mask = (distance < 15).astype(np.uint8) + (distance < 6)
        picture = np.array([220, 170, 150]) - 60 * mask[..., None] + chance.normal(0, 4, (60, 80, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{number}.png")


def test_the_pages_task_file_becomes_a_bundle_that_trains_and_segments(tool, bundles, tmp_path, capsys):
    assert tool.main(["--bundles", str(bundles)]) == 0
    assert tool.main(["--bundles", str(bundles), "--check"]) == 0
    root = bundles / "blosam_skin"
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    schema = json.loads((ROOT / "tests" / "data" / "meta_schema_20240725.json").read_text())
    jsonschema.Draft201909Validator(schema).validate(metadata)
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "spot", "2": "core"} and output["num_channels"] == 3
    readme = (root / "docs" / "README.md").read_text()
    assert "1 = spot, 2 = core" in readme and "Not measured yet." in readme and "$name" not in readme
    write_pairs(tmp_path / "data", 4)
    settings = {"num_views": 2, "train#trainer#max_epochs": 2, "base_weights": "random", "image_size": 64}
    bundle = Bundle(root)
    bundle.run("training", dataset_dir=str(tmp_path / "data"), device="$torch.device('cpu')", **settings)
    inference = json.loads((root / "configs" / "inference.json").read_text()) | {"image_size": 64}
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    prediction = Predictor(root).predict(tmp_path / "data" / "images" / "0.png")
    assert prediction.mask.shape == (60, 80) and prediction.probability.shape == (3, 60, 80)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lables": {}}, "unknown key 'lables'"),
        ({"labels": {"spot": 1, "core": 3}}, "the values of 'labels' are [1, 3]"),
        ({"image_size": 250}, "image_size is 250. Give a multiple of 16"),
        ({"metadata": {"name": "x"}}, "'metadata: task' is missing"),
    ],
)
def test_mistakes_in_a_task_file_are_told_in_one_line(tool, bundles, capsys, change, reason):
    path = bundles / "_tasks" / "skin.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert tool.main(["--bundles", str(bundles)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "skin.json" in line and reason in line
    assert not (bundles / "blosam_skin").exists()
