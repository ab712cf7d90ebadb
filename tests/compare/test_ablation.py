"""Ablations in a comparison: every variant trains, tables against hand-made numbers, charts, and the command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from blosam.ablations import ABLATIONS, variants
from blosam.commands.compare import compare
from blosam.compare import approaches
from blosam.compare.ablation import tables, write_ablations
from blosam.compare.ablation_page import sections, value_plot
from blosam.compare.options import Job, Options
from blosam.compare.runner import run_job
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError
from blosam.evaluation.report_data import Plots, Table

runner = CliRunner()
app = typer.Typer()
app.command()(compare)
VARIANTS = [
    name for key, item in ABLATIONS.items() for name in variants(item.base, key, "tiny").values() if "+" in name
]
QUICK = [f"blo-sam+trainable-{value}" for value in ("prompt", "lora", "encoder-lora")] + ["blo-sam+lambda-0"]


@app.callback()
def _group() -> None:
    """Without a callback, typer would drop the command's name."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablation") / "phantoms_chest"
    write_dataset("chest", folder, 6, size=64)
    return folder


def call(data: Path, out: Path, *more: str):
    words = ["compare", "--data", str(data), "--out", str(out), "--shots", "2", "--seeds", "1", "--views", "2"]
    words += ["--image-size", "64", "--budget", "60", "--max-steps", "2", "--device", "cpu", "--base-weights", "random"]
    return runner.invoke(app, [*words, *more])


def record(method: str, shots: int, seed: int, dice: float, **own) -> dict:
    measured = [("test", dice - 0.05), ("test", dice + 0.05), ("train", 1.0)]
    common = {"class": "lung", "hd95": 1.0, "surface_dice": 1.0, "unit": "pixels"}
    rows = [{"split": part, "image": f"image{n}", "dice": v, **common} for n, (part, v) in enumerate(measured)]
    return {
        "method": method,
        "shots": shots,
        "seed": seed,
        "rows": rows,
        "own": {"encoder": "tiny", **own},
        "steps": 400,
        "seconds": {"training": 44.0},
        "parameters": {"trained": 1000, "total": 2000},
    }


RUNS = [
    *(record("blo-sam", 2, seed, dice) for seed, dice in enumerate((0.5, 0.6))),
    *(record("blo-sam+rank-8", 2, seed, dice) for seed, dice in enumerate((0.55, 0.7, 0.9))),
    record("blo-sam+rank-8", 4, 0, 0.8),
    record("unet", 2, 0, 0.4),
    record("blo-sam", 8, 0, 0.9),  # nothing was varied with 8 images
]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_every_variant_trains_and_is_measured(name, phantoms, tmp_path):
    options = Options(phantoms, tmp_path, (name,), (2,), 1, views=2, image_size=64, max_steps=2, budget=60)
    result = run_job(options, Job(name, 2, 0))
    assert result["steps"] == 2 and result["own"]["recipe"] == name
    assert 0 < result["parameters"]["trained"] <= result["parameters"]["total"]


def test_table_holds_means_spreads_and_differences_paired_by_seed():
    found = tables(RUNS)
    assert list(found) == ["rank"]
    four, eight, single = found["rank"]
    assert (four["value"], four["method"], four["shots"], four["seeds"]) == ("4", "blo-sam", 2, 2)
    assert four["dice"] == pytest.approx(0.55) and four["dice_std"] == pytest.approx(0.1 / 2**0.5)
    assert four["difference_to_base"] == 0.0
    assert (eight["value"], eight["seeds"], eight["each"]) == ("8", 3, pytest.approx([0.55, 0.7, 0.9]))
    assert eight["difference_to_base"] == pytest.approx(0.075)  # of the two seeds that both have
    assert single["shots"] == 4 and single["difference_to_base"] == "" and single["dice"] == pytest.approx(0.8)


def test_examples_need_four_numbers_of_images_and_a_preset():
    runs = [record("joint", k, 0, 0.1 * k**0.5) for k in (2, 4, 8)] + [record("unet", k, 0, 0.1) for k in (2, 4, 8, 16)]
    assert tables(runs) == {}
    [(name, rows)] = tables([*runs, record("joint", 16, 0, 0.4)]).items()
    assert name == "examples" and [row["value"] for row in rows] == ["2", "4", "8", "16"]


def test_files(tmp_path):
    write_ablations(tmp_path, RUNS)
    with open(tmp_path / "ablation_rank.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == ["4", "8", "8"] and rows[0]["method"] == "blo-sam"


def test_each_ablation_has_a_chart_and_a_table():
    plots, table = sections(RUNS)
    assert isinstance(plots, Plots) and isinstance(table, Table)
    [(svg, caption)] = plots.charts
    assert svg.startswith("<svg") and "blo-sam itself has 4" in caption
    assert table.rows[0][:4] == ["blo-sam", "2", "4", "0.550 ± 0.071"] and "+0.075" in table.rows[1][5]
    assert sections([record("unet", 2, 0, 0.5)]) == []


def test_chart_names_every_value_and_number_of_images():
    svg = value_plot(tables(RUNS)["rank"], "rank", True, "x")
    assert all(f">{word}<" in svg for word in ("4", "8", "2 images", "4 images", "test Dice"))


def test_command_runs_the_variants_and_writes_table_and_section(phantoms, tmp_path):
    result = call(phantoms, tmp_path, "--ablate", "lambda", "--workers", "1")
    assert result.exit_code == 0, result.output + repr(result.exception)
    names = {path.stem for path in (tmp_path / "runs").glob("*.json")}
    assert names == {f"blo-sam{end}_k2_s0" for end in ("", *(f"+lambda-{w}" for w in ("0", "0.2", "0.5", "1")))}
    with open(tmp_path / "tables" / "ablation_lambda.csv", newline="") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0", "0.2", "0.5", "0.8", "1"]
    page = (tmp_path / "report.html").read_text()
    assert "Ablation: lambda" in page and "blo-sam with weight of Dice: 0.2" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert call(phantoms, tmp_path, "--methods", "blo-sam+lambda-0.2").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == before


def test_examples_take_the_numbers_of_images_that_the_data_allow(phantoms, tmp_path):
    options = Options(phantoms, tmp_path, ("joint", "unet"), (3,), 2).with_ablations(["examples"])
    assert {(job.method, job.shots) for job in options.jobs()} == {
        ("joint", 3),
        ("unet", 3),
        ("joint", 2),
        ("joint", 4),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ablate", "nonsense"], "--ablate nonsense: unknown"),
        (["--methods", "nonsense+rank-8"], "unknown method 'nonsense'"),
        (["--methods", "blo-sam+rank-7"], r"unknown method 'blo-sam\+rank-7'"),
        (["--methods", "blo-sam+late-50"], "blo-sam adapts nothing in the encoder"),
        (["--methods", "unet+rank-8"], "unknown method 'unet'"),
    ],
)
def test_wrong_names_are_one_error_before_any_run(phantoms, tmp_path, words, message):
    result = call(phantoms, tmp_path, *words)
    assert isinstance(result.exception, BlosamError) and not (tmp_path / "runs").exists()
    with pytest.raises(BlosamError, match=message):
        raise result.exception


def test_a_variant_is_an_approach():
    assert approaches.get("blo-sam+rank-8").summary == "blo-sam with rank: 8"
