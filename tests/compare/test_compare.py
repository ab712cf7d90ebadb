"""`blosam compare` from end to end on small phantoms: files, fairness, resuming, failures and repetition."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
import typer
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from PIL import Image
from typer.testing import CliRunner

from blosam.ablations import ABLATIONS
from blosam.baselines import UNet
from blosam.commands.compare import compare
from blosam.compare import approaches, registry
from blosam.compare.measure import measure
from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError
from blosam.evaluation import PerImageTable

COLUMNS = ["method", "shots", "seed", "split", "image", "class", "dice", "hd95", "surface_dice"]
runner = CliRunner()
app = typer.Typer()
app.command()(compare)


@app.callback()
def _group() -> None:
    """Without a callback, typer would drop the command's name."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "phantoms_chest"
    write_dataset("chest", folder, 6, size=64)
    return folder


def call(data: Path, out: Path, *more: str):
    words = ["compare", "--data", str(data), "--out", str(out), "--methods", "blo-sam,unet", "--shots", "2"]
    words += ["--seeds", "1", "--base-weights", "random", "--views", "2", "--image-size", "64"]
    return runner.invoke(app, [*words, "--budget", "60", "--max-steps", "3", "--device", "cpu", *more])


@pytest.fixture(scope="module")
def finished(phantoms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    result = call(phantoms, out)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def runs(out: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}


def test_table_has_one_row_per_method_image_and_class(finished, phantoms):
    table = rows(finished)
    assert list(table[0]) == COLUMNS
    names = {path.stem for path in (phantoms / "images").iterdir()}
    for method in ("blo-sam", "unet"):
        own = [row for row in table if row["method"] == method]
        assert {row["image"] for row in own} == names and len(own) == len(names)
        assert sorted(row["split"] for row in own) == ["test"] * 4 + ["train"] * 2
        assert all(0 <= float(row["dice"]) <= 1 and row["shots"] == "2" and row["seed"] == "0" for row in own)


def test_every_method_trains_and_tests_on_the_same_images(finished):
    first, second = runs(finished).values()
    assert first["training_images"] == second["training_images"]
    table = rows(finished)
    by_method = {m: [(r["split"], r["image"]) for r in table if r["method"] == m] for m in ("blo-sam", "unet")}
    assert by_method["blo-sam"] == by_method["unet"]
    assert {r["image"] for r in table if r["split"] == "train"} == set(first["training_images"])


def test_runs_say_what_was_done_and_nothing_of_the_machine(finished, phantoms):
    record = runs(finished)["blo-sam_k2_s0"]
    assert record["steps"] == 3
    assert 0 < record["seconds"]["encoding"] < record["seconds"]["training"]
    assert record["seconds"]["processor"] > 0
    assert record["parameters"]["trained"] < record["parameters"]["total"]
    assert sorted(record["d1"] + record["d2"]) == sorted(record["training_images"])
    assert record["shared"]["data"] == "phantoms_chest" and record["shared"]["weights"] == "last"
    assert record["own"]["recipe"] == "blo-sam" and record["own"]["base_weights"] == "random"
    assert str(phantoms.parent) not in json.dumps(runs(finished))


def test_runs_say_what_the_report_shows(finished):
    """Curve, memory, time of an image, and the pictures of the first seed."""
    table = rows(finished)
    for name, record in runs(finished).items():
        assert [row[1] for row in record["curve"]["rows"]] == [0, 1, 2, 3]
        assert set(record["curve"]["held_out"]) <= {r["image"] for r in table if r["split"] == "test"}
        assert 0 < record["inference"]["network_ms"] < record["inference"]["total_ms"]
        assert record["memory"]["before_mib"] <= record["memory"]["peak_mib"]
        assert record["seconds"]["curve"] > 0
        dice = {r["image"]: float(r["dice"]) for r in table if (r["method"], r["split"]) == (record["method"], "test")}
        shown = [dice[record["pictures"][place]["image"]] for place in ("best", "median", "worst")]
        assert shown == [max(dice.values()), sorted(dice.values())[-2], min(dice.values())]  # of four images
        for picture in record["pictures"].values():
            path = finished / "pictures" / picture["file"]
            assert path.name.startswith(name) and max(Image.open(path).size) <= 256
            assert path.stat().st_size < 25_000
    assert len(list((finished / "pictures").iterdir())) == 6


def test_summary_agrees_with_the_table(finished):
    with open(finished / "tables" / "summary.csv", newline="") as file:
        summary = {row["method"]: row for row in csv.DictReader(file)}
    dice = {}
    for method in ("blo-sam", "unet"):
        values = [float(r["dice"]) for r in rows(finished) if r["method"] == method and r["split"] == "test"]
        dice[method] = sum(values) / len(values)
        assert float(summary[method]["dice"]) == pytest.approx(dice[method], abs=2e-6)
    assert float(summary["blo-sam"]["difference_to_unet"]) == pytest.approx(dice["blo-sam"] - dice["unet"], abs=3e-6)
    assert summary["unet"]["difference_to_unet"] == ""
    page = (finished / "report.html").read_text()
    assert "blo-sam" in page and f"{dice['unet']:.3f}" in page and "synthetic" in page
    units = (finished / "tables" / "units.csv").read_text().splitlines()
    assert units[0] == "image,hd95_unit" and len(units) == 7


def test_finished_runs_are_not_repeated(finished, phantoms):
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").iterdir()}
    assert call(phantoms, finished).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").iterdir()} == before


def test_other_settings_are_refused(finished, phantoms):
    result = call(phantoms, finished, "--views", "3")
    assert isinstance(result.exception, BlosamError) and "views 2, now it is 3" in str(result.exception)


def test_the_same_command_gives_the_same_table(finished, phantoms, tmp_path):
    assert call(phantoms, tmp_path).exit_code == 0
    assert (tmp_path / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_a_failed_run_is_noted_tried_again_and_stops_no_other(phantoms, tmp_path, monkeypatch):
    def broken(task):
        raise RuntimeError("out of\nmemory")

    good = approaches.get("blo-sam")
    bad = approaches.Approach("blo-sam", "", broken, good.settings)
    monkeypatch.setitem(registry._REGISTRY, "blo-sam", bad)
    result = call(phantoms, tmp_path)
    assert isinstance(result.exception, BlosamError) and "1 of 2 runs failed" in str(result.exception)
    note = tmp_path / "runs" / "blo-sam_k2_s0.failed.txt"
    assert note.read_text() == "RuntimeError: out of memory\n"
    assert {row["method"] for row in rows(tmp_path)} == {"unet"}
    monkeypatch.setitem(registry._REGISTRY, "blo-sam", good)
    assert call(phantoms, tmp_path).exit_code == 0
    assert not note.exists() and {row["method"] for row in rows(tmp_path)} == {"blo-sam", "unet"}


def test_the_note_of_a_failure_names_the_file_but_not_the_folders_above_the_data(phantoms, tmp_path, monkeypatch):
    def broken(task):
        raise BlosamError(f"{phantoms / 'images' / 'a.png'}: is damaged. Replace it.")

    bad = approaches.Approach("unet", "", broken, approaches.get("unet").settings)
    monkeypatch.setitem(registry._REGISTRY, "unet", bad)
    result = call(phantoms, tmp_path)
    note = (tmp_path / "runs" / "unet_k2_s0.failed.txt").read_text()
    assert note == f"{Path('images', 'a.png')}: is damaged. Replace it.\n"
    assert result.exit_code == 1 and str(phantoms.parent) not in (tmp_path / "report.html").read_text()


def test_a_budget_too_small_for_the_views_is_one_sentence(phantoms, tmp_path):
    result = call(phantoms, tmp_path, "--budget", "0.001", "--methods", "unet")
    assert "fewer --views or a larger --budget" in (tmp_path / "runs" / "unet_k2_s0.failed.txt").read_text()
    assert isinstance(result.exception, BlosamError)


@pytest.mark.slow
def test_worker_processes_give_the_same_table(finished, phantoms, tmp_path):
    result = call(phantoms, tmp_path, "--workers", "2")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert (tmp_path / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_the_clock_and_the_threads_are_noted_and_compared(finished, phantoms):
    for record in runs(finished).values():
        assert record["shared"]["clock"] == "processor" and record["shared"]["threads"] == 1
        assert record["seconds"]["training"] <= record["seconds"]["processor"]
    assert "60 seconds of processor time on one thread" in (finished / "tables" / "summary.md").read_text()
    result = call(phantoms, finished, "--threads", "2")
    assert isinstance(result.exception, BlosamError) and "threads 1, now it is 2" in str(result.exception)
    path = finished / "runs" / "unet_k2_s0.json"
    record = path.read_text()
    try:  # as written when a budget still was time that passes
        path.write_text(record.replace('"clock": "processor",', ""))
        result = call(phantoms, finished)
    finally:
        path.write_text(record)
    assert isinstance(result.exception, BlosamError) and "clock unknown, now it is processor" in str(result.exception)


def test_a_run_uses_the_threads_it_was_given(phantoms, tmp_path, monkeypatch):
    seen = []
    good = approaches.get("unet")

    def watched(task):
        seen.append(torch.get_num_threads())
        return good.train(task)

    monkeypatch.setitem(registry._REGISTRY, "unet", approaches.Approach("unet", "", watched, good.settings))
    before = torch.get_num_threads()
    assert call(phantoms, tmp_path, "--methods", "unet", "--threads", "3").exit_code == 0
    assert seen == [3] and torch.get_num_threads() == before
    assert "summed over 3 threads" in (tmp_path / "tables" / "summary.md").read_text()


def test_list_prints_one_method_a_line_and_what_can_be_varied():
    result = runner.invoke(app, ["compare", "--list"])
    assert [line.split()[0] for line in result.stderr.splitlines()[2:]] == list(ABLATIONS)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == approaches.names()
    assert {"recommended", "blo-sam", "joint", "unet"} <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "blo-sam,nonsense"], "unknown method 'nonsense'"),
        (["--shots", "two"], "--shots two"),
        (["--shots", "1"], "need an image each"),
        (["--shots", "6"], "leave no image"),
        (["--labels", "lung"], "--labels lung"),
        (["--labels", "lung=2"], "must be 1, 2"),
        (["--budget", "0"], "must be positive"),
        (["--image-size", "100"], "--image-size 100: must be at least 32 and divisible by 16"),
        (["--device", "nonsense"], "--device nonsense"),
    ],
)
def test_wrong_options_are_one_error_before_any_run(phantoms, tmp_path, words, message):
    result = call(phantoms, tmp_path, *words)
    assert isinstance(result.exception, BlosamError) and message in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_data_and_out_are_required():
    assert runner.invoke(app, ["compare"]).exit_code == 2


def test_damaged_run_file_is_named(finished, phantoms, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "unet_k2_s0.json").write_text('{"rows": []')
    result = call(phantoms, tmp_path)
    assert isinstance(result.exception, BlosamError) and "unet_k2_s0.json: not a finished run" in str(result.exception)


def test_measuring_equals_the_evaluation_of_the_bundle(phantoms, tmp_path):
    """The transforms are written here and in the bundle's config; both must give the same numbers."""
    config = Path(__file__).resolve().parents[2] / "bundles" / "blosam_lung" / "configs" / "train.json"
    parser = ConfigParser()
    parser.read_config(str(config))
    parser["image_size"] = 64
    names = sorted(os.listdir(phantoms / "images"))[:3]
    pairs = [{k: str(phantoms / part / n) for k, part in (("image", "images"), ("label", "masks"))} for n in names]
    network = UNet(64, init_seed=1).eval()
    loader = DataLoader(Dataset(pairs, parser.get_parsed_content("validate#preprocessing")), batch_size=1)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        postprocessing=parser.get_parsed_content("validate#postprocessing"),
        val_handlers=[PerImageTable(tmp_path, {"lung": 1})],
    )
    evaluator.run()
    own = measure(network, pairs, {"lung": 1}, 64, "cpu")
    assert own == evaluator.state.table["rows"] and len(own) == 3
    assert any(row["dice"] > 0 for row in own)
