"""The benchmark of the embedded model on two small drawn data sets: results, resuming, absent real images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "embedded_model.py"


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("embedded_model_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PHANTOM_SIDE", 64)
    return module


def test_benchmark_writes_one_summary_and_resumes(benchmark, tmp_path, capsys):
    words = ["--only", "phantoms_dental", "phantoms_colonoscopy", "lung", "--methods", "unet", "--shots", "2"]
    words += ["--seeds", "1", "--max-steps", "1", "--views", "1", "--image-size", "64", "--phantoms", "4"]
    words += ["--real-data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    assert benchmark.main(words) == 0
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "## phantoms_dental" in summary and "## phantoms_colonoscopy" in summary and "## lung" not in summary
    assert "lung: left out" in capsys.readouterr().out
    files = sorted((tmp_path / "out").rglob("runs/*.json"))
    assert [path.name for path in files] == ["unet_k2_s0.json"] * 2
    times = [path.stat().st_mtime_ns for path in files]
    assert benchmark.main(words) == 0  # the phantoms are drawn anew, and are the same
    assert [path.stat().st_mtime_ns for path in files] == times


def test_failed_data_set_is_reported_and_sets_the_exit_code(benchmark, tmp_path, capsys):
    words = ["--only", "phantoms_chest", "--methods", "unet", "--shots", "4", "--phantoms", "4", "--views", "1"]
    assert benchmark.main([*words, "--image-size", "64", "--out", str(tmp_path)]) == 1
    assert "failed: phantoms_chest" in capsys.readouterr().err
