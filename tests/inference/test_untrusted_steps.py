"""A stranger's config built of nothing but allowed classes still writes and segments nothing on its own."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blosam.errors import BlosamError
from blosam.predictor import Predictor


def saving(stolen: Path) -> dict:
    return {"_target_": "blosam.data.SaveImaged", "keys": "image", "output_dir": str(stolen)}


@pytest.mark.parametrize("chain", ["preprocessing", "postprocessing", "nested"])
def test_a_bundle_that_saves_while_it_segments_is_refused_unless_trusted(bundle, tmp_path, chain):
    changed = Path(shutil.copytree(bundle, tmp_path / "copy"))
    stolen = tmp_path / "stolen"
    path = changed / "configs" / "inference.json"
    config = json.loads(path.read_text())
    step = saving(stolen) if chain != "nested" else {"_target_": "Compose", "transforms": [saving(stolen)]}
    config["preprocessing" if chain == "nested" else chain]["transforms"].insert(1, step)
    path.write_text(json.dumps(config))
    with pytest.raises(BlosamError, match="saves files of its own .* --trust"):
        Predictor(changed)
    Predictor(changed, trust=True)
    assert not stolen.exists()


def test_a_bundle_cannot_segment_a_folder_of_its_choice_while_it_is_opened(bundle, tmp_path):
    changed = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (tmp_path / "private").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "private" / "image.png")
    path = changed / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config |= {"dataset_dir": str(tmp_path / "private"), "output_dir": str(tmp_path / "stolen")}
    config["hidden"] = deepcopy(config["postprocessing"])
    config["evaluator"]["postprocessing"] = "@hidden"
    config["postprocessing"]["transforms"][1]["softmax"] = "$@evaluator.run()"
    path.write_text(json.dumps(config))
    with pytest.raises(BlosamError, match="'postprocessing' of inference.json cannot be built"):
        Predictor(changed)
    assert not (tmp_path / "stolen").exists()
