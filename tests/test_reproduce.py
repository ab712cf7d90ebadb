"""`make reproduce` on drawn folders of the three layouts, and what it says when something is not in place."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from blosam import reproduce
from blosam.data.phantoms.write import write_dataset

SPEC = importlib.util.spec_from_file_location("reproduce_tool", Path(__file__).parents[1] / "tools" / "reproduce.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.fixture
def folders(tmp_path) -> Path:
    write_dataset("chest", tmp_path / "drawn", 10, seed=0, size=32)
    for place in ("teeth/train", "teeth/test", "kvasir", "lung"):
        for kind in ("images", "masks"):
            shutil.copytree(tmp_path / "drawn" / kind, tmp_path / "public" / place / kind)
    for path in list((tmp_path / "public" / "kvasir").rglob("*.png")):  # as published: JPEG, masks too
        picture = Image.open(path).convert("L")
        if path.parent.name == "masks":
            picture = picture.point(lambda value: 255 * (value > 0))
        picture.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    return tmp_path / "public"


def test_table_of_small_folders(folders, tmp_path, capsys, monkeypatch):
    small = tuple(replace(public, shots=(2,)) for public in reproduce.SETS)
    monkeypatch.setattr(reproduce, "SETS", small)
    words = ["--data", str(folders), "--out", str(tmp_path / "out"), "--encoder", "tiny", "--device", "cpu"]
    words += ["--max-steps", "1", "--views", "1", "--image-size", "32", "--seeds", "1", "--budget", "60"]
    assert tool.main([*words, "--methods", "blo-sam,sam-oracle-box", "--any-count"]) == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("| blo-sam "))
    assert len(re.findall(r"\| \d+\.\d ± 0\.0 ", row)) == 3  # ours, of one sampling, beside the paper's
    for name in ("teeth", "kvasir", "lung"):
        assert (tmp_path / "out" / name / "report.html").is_file()
    assert (tmp_path / "out" / "table.md").read_text() in table


def test_what_is_missing_is_said_with_where_it_belongs(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BLOSAM_WEIGHTS_DIR", str(tmp_path / "none"))
    assert tool.main(["--data", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    for words in ("Kvasir-SEG", "JSRT", "Dental Panoramic", f"{tmp_path / 'nowhere' / 'lung' / 'images'}/: 247 images",
                  "1000 masks", "70 images", "sam_vit_b_01ec64.pth", "ec2df62732614e57", "licence:"):  # fmt: skip
        assert words in said, words
    assert "lung: there is no such folder. Make it, or name another with --lung" in said and "dataset_dir" not in said
    assert "make reproduce" in said.splitlines()[-1]
    assert tool.main(["--data", str(folders)]) == 2
    said = capsys.readouterr().err
    assert "10 images instead of 247" in said and "10 images instead of 1000" in said and "instead of 70" in said


def test_paper_table_is_complete():
    rows = {line.split(" | ")[0].strip("| "): line for line in reproduce.table(Path("no results")).splitlines()}
    assert set(reproduce.METHODS) <= set(rows)
    assert rows["blo-sam"].count("93.7 ± 0.1") == 1 and "51.7 ± 1.2" in rows["ssp"].split(" | ")[2]
