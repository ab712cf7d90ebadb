"""Sections of the report of a comparison, from the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blosam.compare import charts, paper
from blosam.compare.observed import mean_curve
from blosam.compare.pictures import FOLDER, PLACES
from blosam.compare.results import Record, mean_dice
from blosam.compare.statistics import LEVEL, REFERENCES, by_method, missing_seeds, p_text
from blosam.evaluation.overlay import CLASS_COLOURS, PREDICTION_COLOUR, TRUTH_COLOUR
from blosam.evaluation.report_data import Gallery, Plots, Table

Rows = Sequence[Mapping[str, Any]]


def ranking_table(shots: int, statistics: Rows, tests: Rows, runs: Sequence[Record]) -> Table:
    """All methods with one number of training images: the ranked ones best first, then those that cannot be ranked.

    Args:
        shots: training images.
        statistics: rows of :func:`blosam.compare.statistics.statistics`.
        tests: rows of :func:`blosam.compare.statistics.tests`.
        runs: all of the comparison.
    """
    groups, missing, bases = by_method(runs), missing_seeds(runs), _different_bases(runs)
    values = {(row["method"], row["metric"]): row for row in statistics if row["shots"] == shots}
    own = [row for row in values.values() if row["metric"] == "dice"]
    own.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, -row["mean"]))
    results = {(t["reference"].partition(" ")[0], t["method"]): t for t in tests if t["shots"] == shots}
    references = [m for m in REFERENCES if any(row["method"] == m for row in own)]
    rows = []
    for row in own:
        method = row["method"]
        group = groups[shots, method]
        notes = (group[0].get("caveat", ""), _lacking(missing.get((shots, method), [])), bases.get(method, ""))
        below = [note for note in notes if note]
        train = sum(mean_dice(run["rows"], "train") for run in group) / len(group)
        rows.append(
            [
                str(row["rank"]) if row["rank"] else "–",
                "\n".join([method, *below]),
                _with_interval(row, 3),
                f"{train:.3f}",
                _with_interval(values.get((method, "hd95")), 1),
                _with_interval(values.get((method, "surface_dice")), 3),
                *(_tested(results.get((name, method)), row) for name in ("best", *references)),
            ]
        )
    unit = {row["unit"] for row in values.values() if row["metric"] == "hd95"}
    header = ["", "Method", "Test Dice ± seeds", "Train Dice", f"HD95{f' ({unit.pop()})' if len(unit) == 1 else ''}"]
    header += ["Surface Dice", "Minus the best", *(f"Minus {name}" for name in references)]
    return Table(f"Ranking with {shots} training images", header, rows, _ranking_note(own))


def _ranking_note(own: Rows) -> str:
    images = max((row["images"] for row in own), default=0)
    note = (
        f"{images} test images. Small numbers: 95 % intervals; p of paired Wilcoxon tests with Holm's correction. ≈: "
        f"no difference from the best was shown (p ≥ {LEVEL}), which is not a proof of equality."
    )
    if any(row["rank"] is None for row in own):
        note += " Rows without a rank cannot be compared with the others, for the reason below their name."
    return note


def _different_bases(runs: Sequence[Record]) -> dict[str, str]:
    """Encoder and base weights of every method that has them; empty when all have the same.

    Commands with different ``--encoder`` may share a folder, to compare encoders; the table has to say so.
    """
    found = {
        run["method"]: f"{run['own']['encoder']} from {run['own']['base_weights']}"
        for run in runs
        if {"encoder", "base_weights"} <= run["own"].keys()
    }
    return found if len(set(found.values())) > 1 else {}


def _lacking(seeds: Sequence[int]) -> str:
    return f"without seed {', '.join(map(str, seeds))}" if seeds else ""


def _with_interval(row: Mapping[str, Any] | None, digits: int) -> str:
    """Mean, deviation over seeds (Dice alone) and below them the interval."""
    if row is None:
        return ""
    shown = f"{row['mean']:.{digits}f}"
    if row["metric"] == "dice" and row["std_over_seeds"] is not None:
        shown += f" ± {row['std_over_seeds']:.{digits}f}"
    return shown if row["ci_low"] is None else f"{shown}\n{row['ci_low']:.{digits}f}–{row['ci_high']:.{digits}f}"


def _tested(result: Mapping[str, Any] | None, row: Mapping[str, Any]) -> str:
    """A difference with its corrected p value."""
    if result is None:
        return "–" if row["rank"] else ""
    equal = " ≈" if result["reference"].startswith("best") and result["p_holm"] >= LEVEL else ""
    sign = "−" if round(result["difference"], 3) < 0 else "+"
    return f"{sign}{abs(result['difference']):.3f}\n{p_text(result['p_holm'])}{equal}"


def curves_part(points: Rows, order: Sequence[str], shots: int) -> Plots | None:
    """One small chart per method: Dice on training and held-out images while it trains."""
    plotted = []
    for number, method in enumerate(order):
        rows = [row for row in points if row["method"] == method and row["shots"] == shots]
        ends = [mean_curve(rows, key)[1] for key in ("train_dice", "held_out_dice")]
        if not rows or not all(ends):
            continue
        train, held_out = (values[-1] for values in ends)
        caption = f"{method}\ntraining {train:.2f}, held out {held_out:.2f}"
        plotted.append((charts.curve_plot(rows, number), caption))
    if not plotted:
        return None
    note = (
        f"Dice over the training ({shots} training images; 0 to 100 % of the budget) at training resolution: strong "
        "lines are means over seeds, faint ones single seeds. Held out are up to 6 test images, the same for every "
        "method; they choose nothing. A growing distance between the lines, or a held-out line that falls, is "
        "overfitting. Looking costs a method no time. Other numbers of images and the losses: tables/curves.csv."
    )
    legend = [("var(--first)", "training images"), ("var(--second)", "held-out images (dashed)")]
    return Plots("Learning curves", plotted, note, legend, "small")


def cost_table(costs: Rows, order: Sequence[str], shots: int) -> Table:
    """Parameters, memory, and the time of training and of an image."""
    rows = {row["method"]: row for row in costs if row["shots"] == shots}
    cells = [
        [
            method,
            _number(row["parameters"] / 1e6, 2),
            _number(row["trained_parameters"] / 1e6, 3),
            _number(row["memory_growth_mib"], 0),
            _number(row["memory_mib"], 0),
            _number(row["steps"], 0),
            _number(row["encoding_seconds"], 1),
            _number(row["training_seconds"], 1),
            _number(row["inference_network_ms"], 0),
            _number(row["inference_ms"], 0),
        ]
        for method, row in ((name, rows[name]) for name in order if name in rows)
    ]
    header = ["Method", "Parameters (M)", "Trained (M)", "Memory, growth (MiB)", "Memory, peak (MiB)", "Steps"]
    header += ["Encoding (s)", "Training (s)", "Network (ms)", "Image (ms)"]
    kinds = " or ".join(sorted({row["memory_kind"] for row in rows.values()} - {""})) or "not recorded"
    devices = " or ".join(sorted({row["device"] for row in rows.values()} - {""})) or "unknown"
    note = (
        f"{shots} training images, means over seeds, device: {devices}. Memory is the peak during training ({kinds}), "
        "its growth is what the training added to what was there before (interpreter, libraries). Training is the time "
        "that counts against the budget, encoding included. Image: median from the file to its mask on the grid of the "
        "file; network: the network's part of it."
    )
    return Table("What a method costs", header, cells, note)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def gallery(folder: Path, runs: Sequence[Record], order: Sequence[str], shots: int) -> Gallery | None:
    """Best, median and worst test image of every method, from the pictures beside the runs."""
    groups = []
    chosen = {run["method"]: run for run in runs if run["shots"] == shots and run.get("pictures")}
    for method in order:
        shown = []
        for place in PLACES:
            picture = chosen.get(method, {}).get("pictures", {}).get(place)
            path = folder / FOLDER / picture["file"] if picture else None
            if picture is None or path is None or not path.is_file():
                continue
            rows = [r for r in chosen[method]["rows"] if r["split"] == "test" and r["image"] == picture["image"]]
            shown.append((path.read_bytes(), f"{place} {mean_dice(rows, 'test'):.3f}\n{picture['image']}"))
        if shown:
            groups.append((method, shown))
    if not groups:
        return None
    seed = next(iter(chosen.values()))["seed"]
    note = f"By the Dice of the run with {shots} training images and seed {seed}."
    return Gallery("Best, median and worst test image", groups, note, _outline_legend(runs[0]["shared"]["labels"]))


def _outline_legend(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    if len(labels) == 1:
        return [(f"rgb{TRUTH_COLOUR}", "truth"), (f"rgb{PREDICTION_COLOUR}", "prediction")]
    colours = [(f"rgb{CLASS_COLOURS[(value - 1) % len(CLASS_COLOURS)]}", name) for name, value in labels.items()]
    return [*colours, ("transparent", "line: truth, area: prediction")]


def paper_table(rows: Rows) -> Table | None:
    """The paper's numbers beside ours; nothing when the data set is another one.

    Args:
        rows: of :func:`blosam.compare.paper.beside`.
    """
    if not rows:
        return None
    title = f"The BLO-SAM paper's table beside ours: {paper.SETS[rows[0]['data_set']]}, Dice in %"
    return Table(title, *paper.table(rows), paper.NOTE)
