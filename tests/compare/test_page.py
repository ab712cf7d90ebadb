"""The report of a comparison, by what it says: ranking, intervals, curves, costs, pictures, failures, the paper."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from blosam.compare import approaches, charts, paper
from blosam.compare.page import main_shots, write_page
from blosam.compare.results import read_runs, write_run, write_tables
from blosam.errors import BlosamError
from blosam.evaluation.overlay import encode_jpeg

LONG = "blo-sam~trainable=whole-decoder,rank=16,lambda=0.8"
BASE = {"recommended": 0.9, "blo-sam": 0.85, LONG: 0.7, "unet": 0.8, "hsnet": 0.95}


class Cells(HTMLParser):
    """Cells of all tables, by heading of their section; a line break in a cell becomes a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.heading, self.into = "", ""

    def handle_starttag(self, tag, attrs):
        if tag == "h2":
            self.heading, self.into = "", "h2"
        elif tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        elif tag in ("td", "th"):
            self.into = "cell"
            self.tables[self.heading][-1].append("")
        elif tag == "br" and self.into == "cell":
            self.tables[self.heading][-1][-1] += "|"

    def handle_endtag(self, tag):
        if tag in ("h2", "td", "th"):
            self.into = ""

    def handle_data(self, data):
        if self.into == "h2":
            self.heading += data
        elif self.into == "cell":
            self.tables[self.heading][-1][-1] += data


def tables_of(path: Path) -> dict[str, list[list[str]]]:
    parser = Cells()
    parser.feed(path.read_text())
    return parser.tables


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(run_of) -> list[dict]:
    """Five methods, 2 and 4 images, 2 seeds, 10 test images; one cannot be ranked."""
    generator = np.random.default_rng(0)
    found = []
    for method, base in BASE.items():
        for shots in (2, 4):
            for seed in (0, 1):
                dice = {f"im{n}": base + 0.005 * n + float(generator.normal(0, 0.003)) for n in range(10)}
                caveat = "random backbone, not comparable" if method == "hsnet" else ""
                found.append(run_of(method, shots, seed, dice, caveat=caveat))
    return found


def write(runs: list[dict], out: Path, choice: str = "auto") -> Path:
    for run in runs:
        write_run(out / "runs" / f"{run['method']}_k{run['shots']}_s{run['seed']}.json", run)
    write_tables(out, read_runs(out))
    return write_page(out / "report.html", read_runs(out), choice)


def test_ranking_has_intervals_and_tests_and_leaves_out_what_cannot_be_compared(runs, tmp_path):
    tables = tables_of(write(runs, tmp_path))
    header, *lines = tables["Ranking with 4 training images"]
    assert header[1:3] == ["Method", "Test Dice ± seeds"] and header[-2:] == ["Minus blo-sam", "Minus unet"]
    assert [(line[0], line[1].split("|")[0]) for line in lines] == [
        ("1", "recommended"), ("2", "blo-sam"), ("3", "unet"), ("4", LONG), ("–", "hsnet"),
    ]  # fmt: skip
    assert lines[4][1] == "hsnet|random backbone, not comparable" and lines[4][6:] == ["", "", ""]
    rows = {(r["method"], r["shots"], r["metric"]): r for r in table(tmp_path / "tables" / "statistics.csv")}
    for line in lines:
        row = rows[line[1].split("|")[0], "4", "dice"]
        mean, low, high = (f"{float(row[key]):.3f}" for key in ("mean", "ci_low", "ci_high"))
        assert line[2].startswith(mean) and line[2].endswith(f"|{low}–{high}")
    assert re.fullmatch(r"\+0\.10\d\|p = 0\.00\d|\+0\.[01]\d\d\|p = 0\.00\d", lines[0][-1])
    assert lines[0][6] == "–" and lines[2][-1] == "–"
    assert "Holm" in (tmp_path / "report.html").read_text()


def test_the_command_names_what_the_runs_needed_but_no_folder(runs, tmp_path):
    assert "--backbone-weights" not in write(runs, tmp_path / "without").read_text()
    for run in runs:
        own = {"hsnet": {"backbone_sha256": "ab"}, "blo-sam": {"encoder": "tiny", "base_weights": "random"}}
        run["own"] |= own.get(run["method"], {})
    page = write(runs, tmp_path / "with").read_text()
    assert "--encoder tiny --base-weights random --backbone-weights FILE --budget 45" in page
    assert "--medsam-weights" not in page and str(tmp_path) not in page


def test_a_head_start_on_phantoms_is_told(runs, tmp_path):
    words = "pretrained on other drawings of the same program"
    for name, own, data, told in (
        ("scratch", {"encoder": "tiny", "base_weights": "random"}, "phantoms_chest", False),
        ("pretrained", {"encoder": "tiny", "base_weights": "tiny.safetensors"}, "phantoms_chest", True),
        ("real", {"encoder": "tiny", "base_weights": "tiny.safetensors"}, "chest", False),
    ):
        runs[0]["own"] |= own
        for run in runs:
            run["shared"]["data"] = data
        assert (words in write(runs, tmp_path / name).read_text()) == told


def test_methods_on_different_encoders_or_weights_say_so(runs, tmp_path):
    for run in runs:
        if run["method"] in ("recommended", "blo-sam"):
            run["own"] |= {"encoder": "tiny", "base_weights": "tiny.safetensors"}
    names = [line[1] for line in tables_of(write(runs, tmp_path / "same"))["Ranking with 4 training images"][1:4]]
    assert names == ["recommended", "blo-sam", "unet"]
    for run in runs:
        if run["method"] == "blo-sam":
            run["own"]["base_weights"] = "random"
    names = [line[1] for line in tables_of(write(runs, tmp_path / "other"))["Ranking with 4 training images"][1:4]]
    assert names == ["recommended|tiny from tiny.safetensors", "blo-sam|tiny from random", "unet"]


def test_equal_methods_are_marked_as_not_shown_to_differ(run_of, tmp_path):
    generator = np.random.default_rng(1)
    found = [
        run_of(method, 2, 0, {f"im{n}": 0.8 + float(generator.normal(0, 0.03)) for n in range(8)})
        for method in ("recommended", "joint")
    ]
    second = tables_of(write(found, tmp_path))["Ranking with 2 training images"][2]
    assert second[0] == "2" and second[6].endswith("≈")


def test_costs_and_curves_are_shown_and_written(runs, tmp_path):
    path = write(runs, tmp_path)
    header, first, *_ = tables_of(path)["What a method costs"]
    shown = dict(zip(header, first, strict=True))
    assert shown == {
        "Method": "recommended", "Parameters (M)": "4.00", "Trained (M)": "0.500", "Memory, growth (MiB)": "250",
        "Memory, peak (MiB)": "850", "Steps": "100", "Encoding (s)": "1.0", "Training (s)": "10.5",
        "Network (ms)": "70", "Image (ms)": "90",
    }  # fmt: skip
    page = path.read_text()
    assert page.count("training 0.90, held out 0.70") == 2 * len(BASE)  # caption, and for screen readers
    rows = table(tmp_path / "tables" / "curves.csv")
    assert len(rows) == 20 * 6 and rows[5]["held_out_dice"] == "0.700000" and rows[1]["loss"] == "0.900000"
    assert len(table(tmp_path / "tables" / "costs.csv")) == 10
    assert "http" not in re.sub(r'"(data:[^"]*)"', "", page).replace("http-equiv", "")


def test_ids_of_charts_are_unique(runs, tmp_path):
    found = re.findall(r'\bid="([^"]+)"', write(runs, tmp_path).read_text())
    assert len(found) == len(set(found)) > 20


def test_pictures_of_the_main_number_of_shots(runs, tmp_path):
    (tmp_path / "pictures").mkdir()
    picture = encode_jpeg(np.full((30, 40, 3), 90, np.uint8))
    for run in runs:
        if run["seed"] == 0 and run["method"] != "unet":
            stem = f"{run['method']}_k{run['shots']}_s0"
            run["pictures"] = {
                place: {"image": name, "file": f"{stem}_{place}.jpg"}
                for place, name in (("best", "im9"), ("median", "im5"), ("worst", "im0"))
            }
            for place in ("best", "median", "worst"):
                (tmp_path / "pictures" / f"{stem}_{place}.jpg").write_bytes(picture)
    (tmp_path / "pictures" / "hsnet_k4_s0_worst.jpg").unlink()
    page = write(runs, tmp_path).read_text()
    assert page.count("data:image/jpeg") == 4 * 3 - 1
    best = next(r for r in runs if (r["method"], r["shots"], r["seed"]) == ("recommended", 4, 0))["rows"][-1]["dice"]
    assert f"best {best:.3f}<br>im9" in page and main_shots(runs) == 4


def test_failed_and_missing_runs_are_named(runs, tmp_path):
    kept = [r for r in runs if (r["method"], r["seed"]) != ("unet", 1)]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "unet_k2_s1.failed.txt").write_text("RuntimeError: out of memory <here>\n")
    tables = tables_of(write(kept, tmp_path))
    assert tables["Runs that are missing"][1:] == [
        ["unet_k2_s1", "RuntimeError: out of memory <here>"],
        ["unet_k4_s1", "not carried out yet"],
    ]
    line = next(row for row in tables["Ranking with 4 training images"] if row[1].startswith("unet"))
    assert line[1] == "unet|without seed 1" and "±" not in line[2]


def test_runs_of_earlier_versions_leave_cells_empty(runs, tmp_path):
    for run in runs:
        for key in ("memory", "inference", "curve"):
            del run[key]
        for key in ("clock", "threads"):
            del run["shared"][key]
    path = write(runs, tmp_path)
    tables = tables_of(path)
    assert tables["What a method costs"][1] == ["recommended", "4.00", "0.500", "", "", "100", "1.0", "10.5", "", ""]
    assert "Learning curves" not in path.read_text() and len(tables["Ranking with 2 training images"]) == 6
    assert table(tmp_path / "tables" / "curves.csv") == []


def test_one_method_one_seed_one_test_image_is_a_report(run_of, tmp_path):
    tables = tables_of(write([run_of("unet", 3, 0, {"only": 0.5})], tmp_path))
    assert tables["Ranking with 3 training images"][1] == ["1", "unet", "0.500", "0.950", "20.0", "0.250", "–", "–"]


def test_charts_name_every_method_once_and_shorten_long_names(runs, tmp_path):
    write(runs, tmp_path)
    rows = [
        {"method": f"method number {n} of many", "shots": k, "metric": "dice", "mean": 0.5 + 0.01 * n, "ci_low": 0.4,
         "ci_high": 0.9, "ranked": "yes"}
        for n in range(22) for k in (2, 4, 8)
    ]  # fmt: skip
    names = [row["method"] for row in rows[::3]]
    forest = charts.forest_plot(rows, [*names[:-1], LONG], [2, 4, 8])
    assert all(forest.count(f">{name}<") == 1 for name in names[:-1])
    assert LONG not in forest and f">{LONG[:25]}…<" in forest
    shots = charts.shots_plot(rows, names)
    labels = [name for name in names if f">{name}<" in shots]
    assert labels == names[:4]


def test_labels_beside_lines_never_cover_each_other():
    rows = [
        {"method": f"m{n}", "shots": k, "metric": "dice", "mean": 0.8 + 0.0001 * n, "ranked": "yes"}
        for n in range(4) for k in (2, 4)
    ]  # fmt: skip
    drawn = charts.shots_plot(rows, ["m0", "m1", "m2", "m3"])
    heights = []
    for n in range(4):
        start = drawn[: drawn.index(f">m{n}<")].rpartition("<text")[2]
        heights.append(float(re.search(r'(?:translate\(\S+ |\by=")([\d.]+)', start).group(1)))
    assert all(abs(a - b) >= 9 for i, a in enumerate(heights) for b in heights[:i])  # points of a 9-point font


@pytest.mark.parametrize(
    ("choice", "folder", "expected"),
    [
        ("auto", "Kvasir-SEG", "kvasir"),
        ("auto", "jsrt_247", "jsrt"),
        ("auto", "childrens_dental_panoramic", "dental"),
        ("auto", "phantoms_dental", ""),
        ("auto", "lung", ""),
        ("none", "Kvasir-SEG", ""),
        ("jsrt", "anything", "jsrt"),
    ],
)
def test_data_sets_of_the_paper(choice, folder, expected):
    assert paper.data_set(choice, folder) == expected


def test_another_choice_is_refused():
    with pytest.raises(BlosamError, match="--paper lungs"):
        paper.data_set("lungs", "x")


def test_the_papers_table_stands_beside_ours(runs, tmp_path):
    path = write(runs, tmp_path, "jsrt")
    title = next(name for name in tables_of(path) if name.startswith("The BLO-SAM paper"))
    header, *lines = tables_of(path)[title]
    assert header[2:] == ["Paper, 2 images", "Ours, 2 images", "Paper, 4 images", "Ours, 4 images"]
    own = {(r["method"], r["shots"]): r for r in table(tmp_path / "tables" / "statistics.csv") if r["metric"] == "dice"}
    ours = own["blo-sam", "2"]
    shown = f"{100 * float(ours['mean']):.1f} ± {100 * float(ours['std_over_seeds']):.1f}"
    assert lines[-1][:4] == ["BLO-SAM", "blo-sam", "87.1 ± 0.3", shown]
    assert next(line for line in lines if line[0] == "HSNet")[1] == "hsnet|random backbone, not comparable"
    assert next(line for line in lines if line[0] == "DeepLab")[3] == ""
    assert "low-resolution" in path.read_text()
    rows = table(tmp_path / "tables" / "paper.csv")
    assert len(rows) == 2 * len(paper.TABLE) and rows[-1]["paper_dice"] == "93.7 ± 0.1"


def test_where_the_papers_tables_disagree_both_values_are_shown(runs, tmp_path):
    tables = tables_of(write(runs, tmp_path, "dental"))
    lines = next(rows for name, rows in tables.items() if name.startswith("The BLO-SAM paper"))
    assert next(line for line in lines if line[0] == "SAMed")[4] == "75.1 ± 2.2|76.4 in Table 3"


def test_presets_that_stand_for_the_papers_methods_exist():
    wanted = {preset for row in paper.TABLE for preset in row.presets if "oracle" not in preset}
    assert wanted <= set(approaches.names())
