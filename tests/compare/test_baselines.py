"""The baselines inside a comparison, as users run it."""

from __future__ import annotations

import csv
import json
import sys

from blosam import cli
from blosam.data.phantoms.write import write_dataset


def test_baselines_run_and_random_backbones_are_not_ranked(tmp_path, monkeypatch, capfd):
    write_dataset("chest", tmp_path / "data", 4, seed=0, size=64)
    methods = "swin-unetr,hsnet,ssp,deeplabv3"
    words = ["compare", "--data", tmp_path / "data", "--out", tmp_path / "out", "--methods", methods, "--shots", "2"]
    words += ["--seeds", 1, "--views", 2, "--image-size", 64, "--max-steps", 2, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["blosam", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, capfd.readouterr().err
    with (tmp_path / "out" / "tables" / "summary.csv").open(newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"swin-unetr", "hsnet", "ssp", "deeplabv3"}
    assert all(float(row["steps"]) == 2 for row in rows.values())
    assert rows["swin-unetr"]["caveat"] == ""
    assert rows["hsnet"]["caveat"] == rows["deeplabv3"]["caveat"] == "random backbone, not comparable"
    assert int(rows["hsnet"]["trained_parameters"]) == 2_573_794
    assert int(rows["ssp"]["trained_parameters"]) == 8_317_952
    record = json.loads((tmp_path / "out" / "runs" / "ssp_k2_s0.json").read_text())
    assert len([row for row in record["rows"] if row[0] == "test"]) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not comparable" in page
