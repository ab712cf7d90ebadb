"""The handler on MONAI's evaluator: names, spacing that is not mixed up, files, and the summary by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from PIL import Image

from blosam.errors import BlosamError
from blosam.evaluation.table import (
    PerImageTable,
    headline,
    mean_std,
    native_image,
    read_rows,
    summarise,
    write_rows,
)


def item(pred: np.ndarray, truth: np.ndarray, path: str, spacing: Any = None, size: int = 32) -> dict[str, Any]:
    """One decollated output for H x W maps: W x H order as after MONAI's inverse transforms."""
    meta = {"filename_or_obj": path} | ({} if spacing is None else {"spacing": spacing})
    return {
        "pred": MetaTensor(torch.from_numpy(pred.T.copy())[None].float()),
        "label": MetaTensor(torch.from_numpy(truth.T.copy())[None]),
        "image": MetaTensor(torch.rand(3, size, size), meta=meta),
    }


def run(table: PerImageTable, items: list[dict[str, Any]]) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=items,
        network=torch.nn.Identity(),
        iteration_update=lambda engine, batch: [batch],
        val_handlers=[table],
    )
    evaluator.run()
    return evaluator


def maps(height: int = 20, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth, one pixel each, 6 columns apart in one row."""
    pred, truth = np.zeros((height, width), np.int64), np.zeros((height, width), np.int64)
    pred[3, 10], truth[3, 16] = 1, 1
    return pred, truth


@pytest.mark.parametrize("spacing", [(5.0, 0.5), [5.0, 0.5], torch.tensor([5.0, 0.5]), torch.tensor([[5.0, 0.5]])])
def test_spacing_is_row_then_column(tmp_path: Path, spacing: Any) -> None:
    rows = run(PerImageTable(tmp_path, {"lung": 1}), [item(*maps(), "a.png", spacing)]).state.table["rows"]
    assert rows[0]["hd95"] == pytest.approx(6 * 0.5) and rows[0]["unit"] == "mm"


@pytest.mark.parametrize("spacing", [None, (0.0, 1.0), (float("nan"), 1.0)])
def test_without_usable_spacing_distances_are_pixels(tmp_path: Path, spacing: Any) -> None:
    rows = run(PerImageTable(tmp_path, {"lung": 1}), [item(*maps(), "a.png", spacing)]).state.table["rows"]
    assert rows[0]["hd95"] == 6 and rows[0]["unit"] == "pixels"


def test_files_and_state_agree(tmp_path: Path) -> None:
    pred, truth = maps()
    classes = {"left": 1, "right": 2}
    items = [item(pred, truth, "/secret/folder/a.png"), item(truth * 2, truth * 2, "/secret/folder/b.png")]
    table = PerImageTable(tmp_path / "new" / "results", classes)
    state = run(table, items).state
    folder = tmp_path / "new" / "results"
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.csv", "summary.json"]
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == "image,class,dice,hd95,surface_dice,unit"
    assert lines[1] == "a,left,0.000000,6.000000,0.000000,pixels"
    assert [line.split(",")[:3] for line in lines[3:]] == [
        ["b", "left", "1.000000"],
        ["b", "right", "1.000000"],
    ]
    assert read_rows(folder / "metrics.csv") == state.table["rows"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == state.table["summary"]
    assert summary["versions"].keys() >= {"blosam", "torch", "monai", "numpy"}
    assert summary["classes"]["left"]["dice"] == {
        "mean": 0.5,
        "std": pytest.approx(math.sqrt(0.5)),
        "median": 0.5,
        "n": 2,
    }
    assert summary["all"]["dice"]["mean"] == pytest.approx(0.75)
    assert "secret" not in (folder / "metrics.csv").read_text() + (folder / "summary.json").read_text()
    run(table, items[:1])
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3, "a second run starts anew"


def test_overlays_have_the_native_shape_and_safe_names(tmp_path: Path) -> None:
    pred, truth = maps(400, 500)
    state = run(
        PerImageTable(tmp_path, {"lung": 1}, save_overlays=True),
        [item(pred, truth, "x/<b>.png"), item(pred, truth, "y/c.png")],
    ).state
    files = sorted((tmp_path / "overlays").iterdir())
    assert [f.name for f in files] == ["001__b_.png", "002_c.png"]
    assert state.table["overlays"] == {"<b>": str(files[0]), "c": str(files[1])}
    with Image.open(files[0]) as picture:
        assert picture.width == 500 and picture.height > 400


def test_native_image_removes_the_padding_and_keeps_the_orientation() -> None:
    image = np.full((3, 64, 64), 0.485, np.float32)
    image[:, :32] = 0.0
    image[:, :16, 32:] = 1.0  # bright upper right quarter of a 32 x 64 picture
    picture = native_image(image, (50, 100))
    assert picture.shape == (50, 100, 3) and picture.dtype == np.uint8
    assert (picture[2:22, 55:] == 255).all()
    assert (picture[30:] == 0).all() and (picture[:, :45] == 0).all()


def test_a_shape_that_does_not_fit_names_the_image(tmp_path: Path) -> None:
    with pytest.raises(BlosamError, match=r"^a\.png: prediction of shape \(20, 48\).*\(20, 47\)"):
        run(PerImageTable(tmp_path, {"lung": 1}), [item(maps()[0], maps()[1][:, :-1], "/secret/a.png")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(BlosamError, match="cannot write"):
        run(PerImageTable(tmp_path / "file", {"lung": 1}), [item(*maps(), "a.png")])
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("classes", [{}, {"background": 0, "lung": 1}])
def test_refuses_classes_without_foreground(tmp_path: Path, classes: dict[str, int]) -> None:
    with pytest.raises(BlosamError, match="foreground"):
        PerImageTable(tmp_path, classes)


def test_several_processes_give_one_table_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pred, truth = maps()
    theirs = [("/x/b.png", [{"class": "lung", "dice": 0.5, "hd95": 1.0, "surface_dice": 0.2, "unit": "pixels"}], None)]

    def gather(shards: list[Any], own: Any) -> None:
        shards[:] = [theirs, own]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    table = PerImageTable(tmp_path, {"lung": 1})
    engine = Engine(lambda engine, batch: [batch])
    table.attach(engine)
    state = engine.run([item(pred, truth, "/x/a.png")])
    assert [r["image"] for r in state.table["rows"]] == ["b", "a"]
    assert state.table["summary"]["all"]["dice"]["mean"] == 0.25
    assert list(tmp_path.iterdir()) == [], "only the first process writes"


def row(image: str, name: str, dice: float, hd95: float, unit: str = "mm") -> dict[str, Any]:
    return {"image": image, "class": name, "dice": dice, "hd95": hd95, "surface_dice": dice / 2, "unit": unit}


def test_summary_by_hand() -> None:
    rows = [row("a", "x", 0.5, 4), row("a", "y", 1.0, 0), row("b", "x", 0.9, 2), row("b", "y", 0.8, 6, "mm")]
    rows += [row("c", "x", 0.1, 30, "pixels"), row("c", "y", 0.3, 50, "pixels")]
    summary = summarise(rows)
    means = np.array([0.75, 0.85, 0.2])
    assert summary["images"] == 3
    assert summary["all"]["dice"]["mean"] == pytest.approx(means.mean())
    assert summary["all"]["dice"]["std"] == pytest.approx(means.std(ddof=1))
    assert summary["all"]["dice"]["median"] == 0.75
    assert summary["all"]["hd95"]["mm"]["mean"] == pytest.approx(3) and summary["all"]["hd95"]["mm"]["n"] == 2
    assert summary["all"]["hd95"]["pixels"] == {"mean": 40, "std": 0.0, "median": 40, "n": 1}
    assert summary["classes"]["x"]["hd95"]["mm"] == {
        "mean": 3,
        "std": pytest.approx(2**0.5),
        "median": 3,
        "n": 2,
    }
    assert summary["classes"]["y"]["dice"]["n"] == 3
    assert headline(summarise(rows[:4])) == "Dice 0.800 +- 0.071, HD95 3.0 mm, surface Dice 0.40"


def test_nothing_measured() -> None:
    assert mean_std([]) == {"mean": None, "std": None, "median": None, "n": 0}
    assert headline(summarise([])) == "no image measured"


def test_csv_takes_other_columns_and_quotes_names(tmp_path: Path) -> None:
    rows = [{"method": "a,b", "image": 'q"', **row("i", "x", 1 / 3, 2)}]
    path = write_rows(tmp_path / "r.csv", rows, ("method", "image", "class", "dice", "hd95", "surface_dice"))
    (back,) = read_rows(path)
    assert back["method"] == "a,b" and back["dice"] == pytest.approx(1 / 3, abs=1e-6) and "unit" not in back


@pytest.mark.parametrize("content", [None, "image,dice\na,1\n", "image,dice,hd95,surface_dice\na,x,1,1\n"])
def test_read_rows_refuses(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BlosamError, match=r"m\.csv: "):
        read_rows(path)
