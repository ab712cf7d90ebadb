"""Names, units and guards of the files that ``blosam predict`` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blosam.errors import BlosamError
from blosam.inference.inputs import Item, output_stems
from blosam.inference.outputs import Outputs, Stack
from blosam.predictor import Prediction

LABELS = {"lung": 1}


def _prediction() -> Prediction:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 5] = 1
    probability = np.stack([1.0 - mask, mask]).astype(np.float32)
    return Prediction(Path("a"), mask, probability, np.zeros((4, 6), np.float32), np.eye(4), None, 0.0)


def test_names_stay_distinct_whatever_the_inputs_are_called():
    paths = ["x/a.png", "x/a_0003.png", "y/a.png", "y/a_overlay.png", "z/A.png"]
    items = [Item(Path(path), position=n, stem=Path(path).stem) for n, path in enumerate(paths, start=1)]
    files = [f"{stem}{ending}".lower() for stem in output_stems(items).values() for ending in (".png", "_overlay.png")]
    assert len(files) == 10 == len(set(files))


def test_records_do_not_name_files_after_the_input(tmp_path):
    outputs = Outputs(tmp_path, "image_0001_00000000", "DOE_JOHN", ("png", "overlay"), LABELS, frames=2)
    assert outputs.planned() == {
        "png": ["{stem}_frame0001.png", "{stem}_frame0002.png"],
        "overlay": ["{stem}_frame0001_overlay.png", "{stem}_frame0002_overlay.png"],
    }
    outputs.add_frame(1, _prediction())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "DOE_JOHN_frame0002.png",
        "DOE_JOHN_frame0002_overlay.png",
    ]
    assert Image.open(tmp_path / "DOE_JOHN_frame0002.png").getpixel((5, 1)) == 255


def test_what_was_written_goes_when_the_input_fails(tmp_path):
    outputs = Outputs(tmp_path, "image_0001_00000000", "", ("png", "nifti"), LABELS)
    outputs.planned()
    outputs.add_frame(0, _prediction())

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise BlosamError("cannot")

    with pytest.raises(BlosamError, match="cannot"):
        outputs.finish({"nifti": broken})
    outputs.discard()
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_stay_unless_forced_and_inputs_always(tmp_path):
    mine = tmp_path / "scan.png"
    mine.write_bytes(b"mine")
    plain = Outputs(tmp_path, "image_0001_00000000", "scan", ("png",), LABELS)
    with pytest.raises(BlosamError, match="--force"):
        plain.planned()
    forced = Outputs(tmp_path, "n", "scan", ("png",), LABELS, may_replace=lambda name: name == "{stem}.png")
    assert forced.planned() == {"png": ["{stem}.png"]}
    status = mine.stat()
    kept = Outputs(
        tmp_path,
        "n",
        "scan",
        ("png",),
        LABELS,
        may_replace=lambda name: True,
        keep=frozenset([(status.st_dev, status.st_ino)]),
    )
    with pytest.raises(BlosamError, match="one of the images to segment"):
        kept.planned()


def test_stack_puts_frames_in_order():
    stack = Stack(count=2, single=False, keep_probability=True)
    first, second = _prediction(), _prediction()
    second.mask[:] = 1
    stack.add(1, second)
    stack.add(0, first)
    assert stack.mask.shape == (2, 4, 6) and stack.probability.shape == (2, 2, 4, 6)
    assert stack.mask[0].sum() == 1 and stack.mask[1].sum() == 24
