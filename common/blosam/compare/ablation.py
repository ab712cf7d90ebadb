"""Tables, charts and sections of the ablations that the runs of a comparison hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from blosam.ablations import ABLATIONS, EXAMPLES, NotApplicableError, split, variants
from blosam.compare.results import Record, mean_dice
from blosam.evaluation.plots import FURTHER, STYLE, svg_text
from blosam.evaluation.report_data import Plots, Table
from blosam.evaluation.table import mean_std, write_rows
from blosam.methods import COMPARED

COLUMNS = (
    "base", "shots", "value", "method", "seeds", "dice", "dice_std", "train_dice", "difference_to_base",
    "difference_std", "trained_parameters", "steps", "seconds",
)  # fmt: skip
Rows = list[dict[str, Any]]
_MARKERS = "osD^vP"


def tables(runs: Iterable[Record]) -> dict[str, Rows]:
    """For each ablation with at least two values its rows, with the keys of :data:`COLUMNS` and ``each``.

    ``each`` holds the test Dice of every seed; differences are paired by seed. ``examples`` is there for methods that
    were run with four numbers of training images or more.
    """
    groups: dict[tuple[str, int], list[Record]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["shots"]), []).append(run)
    found: dict[str, Rows] = {}
    for ablation, base in _varied(groups):
        encoder = next(group[0]["own"]["encoder"] for (name, _), group in groups.items() if split_base(name) == base)
        for value, method in _values(base, ablation, encoder).items():
            for shots in sorted({k for name, k in groups if name == method}):
                found.setdefault(ablation, []).append(_row(groups, base, method, value, shots))
    for base in _with_many_examples(groups):
        counts = sorted(k for name, k in groups if name == base)
        found.setdefault("examples", []).extend(_row(groups, base, base, str(k), k) for k in counts)
    kept = {name: rows for name, rows in found.items() if len({row["value"] for row in rows}) > 1}
    return {name: kept[name] for name in ABLATIONS if name in kept}


def split_base(name: str) -> str:
    """What a variant was made of; a method that is none is its own base."""
    parts = split(name)
    return name if parts is None else parts[0]


def write_ablations(folder: Path, runs: Sequence[Record]) -> None:
    """Write ``ablation_NAME.csv`` for each ablation; nothing without one."""
    for name, rows in tables(runs).items():
        write_rows(folder / f"ablation_{name}.csv", rows, COLUMNS)


def sections(runs: Sequence[Record]) -> list[Table | Plots]:
    """A chart for each varied method and a table, for each ablation; empty without one."""
    parts: list[Table | Plots] = []
    for name, rows in tables(runs).items():
        ablation = ABLATIONS[name]
        bases = list(dict.fromkeys(row["base"] for row in rows))
        charts = [_chart(name, base, [row for row in rows if row["base"] == base]) for base in bases]
        note = f"What is varied: {ablation.summary}. Everything else is as in the method itself."
        parts.append(Plots(f"Ablation: {name}", charts, note))
        parts.append(_table(name, rows))
    return parts


def value_plot(rows: Sequence[dict[str, Any]], axis: str, connected: bool, prefix: str) -> str:
    """Value against Dice as SVG text: mean and deviation over seeds, and a faint point for each seed.

    Args:
        rows: as :func:`tables` gives them, of one method.
        axis: what the values are.
        connected: whether lines join the values.
        prefix: keeps the ids of the chart apart on the page.
    """
    values = list(dict.fromkeys(row["value"] for row in rows))
    # With examples, every value has a number of images of its own, and one line joins them.
    series = [None] if axis == ABLATIONS["examples"].axis else sorted({row["shots"] for row in rows})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for number, shots in enumerate(series):
            own = [row for row in rows if shots in (None, row["shots"])]
            colour, marker = FURTHER[number % len(FURTHER)], _MARKERS[number % len(_MARKERS)]
            shift = 0.12 * (number - (len(series) - 1) / 2)
            places = np.array([values.index(row["value"]) + shift for row in own])
            for place, row in zip(places, own, strict=True):
                axes.plot([place] * len(row["each"]), row["each"], ".", color=colour, alpha=0.35, markersize=5)
            axes.errorbar(
                places,
                [row["dice"] for row in own],
                [row["dice_std"] for row in own],
                color=colour,
                marker=marker,
                markersize=5,
                capsize=3,
                linewidth=1.4 if connected else 0.0,
                elinewidth=1.2,
                label=f"{shots} images",
            )
        turned = max(map(len, values)) > 6
        axes.set_xticks(range(len(values)), values, rotation=30 if turned else 0, ha="right" if turned else "center")
        axes.set(xlabel=axis, ylabel="test Dice", xlim=(-0.5, len(values) - 0.5))
        if len(series) > 1:
            axes.legend(loc="best")
        return svg_text(figure, prefix)


def _varied(groups: dict[tuple[str, int], list[Record]]) -> list[tuple[str, str]]:
    """Every ablation with the method that was varied, from the names of the runs."""
    parts = [split(name) for name, _ in groups]
    return list(dict.fromkeys((part[1], part[0]) for part in parts if part is not None))


def _values(base: str, ablation: str, encoder: str) -> dict[str, str]:
    try:
        return variants(base, ablation, encoder)
    except NotApplicableError:  # the method was another one when the runs were made
        return {}


def _with_many_examples(groups: dict[tuple[str, int], list[Record]]) -> list[str]:
    """Presets that were run with as many numbers of training images as the ablation has."""
    bases = dict.fromkeys(name for name, _ in groups if name in ("recommended", *COMPARED))
    return [base for base in bases if sum(name == base for name, _ in groups) >= len(EXAMPLES)]


def _row(groups: dict[tuple[str, int], list[Record]], base: str, method: str, value: str, shots: int) -> dict[str, Any]:
    runs = sorted(groups[method, shots], key=lambda run: run["seed"])
    each = [mean_dice(run["rows"], "test") for run in runs]
    reference = {run["seed"]: mean_dice(run["rows"], "test") for run in groups.get((base, shots), [])}
    differences = [d - reference[run["seed"]] for d, run in zip(each, runs, strict=True) if run["seed"] in reference]
    difference = mean_std(differences)
    dice = mean_std(each)
    return {
        "base": base,
        "shots": shots,
        "value": value,
        "method": method,
        "seeds": len(runs),
        "dice": dice["mean"],
        "dice_std": dice["std"],
        "train_dice": statistics.fmean(mean_dice(run["rows"], "train") for run in runs),
        "difference_to_base": difference["mean"] if differences else "",
        "difference_std": difference["std"] if differences else "",
        "trained_parameters": runs[0]["parameters"]["trained"],
        "steps": statistics.fmean(run["steps"] for run in runs),
        "seconds": statistics.fmean(run["seconds"]["training"] for run in runs),
        "each": each,
    }


def _chart(name: str, base: str, rows: Rows) -> tuple[str, str]:
    ablation = ABLATIONS[name]
    seeds = max(row["seeds"] for row in rows)
    own = next((row["value"] for row in rows if row["method"] == base), "")
    caption = f"{base}: mean ± standard deviation over {seeds} seeds, points are single seeds."
    if own and name != "examples":
        caption += f" {base} itself has {own}."
    return value_plot(rows, ablation.axis, ablation.numeric, f"ablation-{name}-{base.replace('+', '-')}"), caption


def _table(name: str, rows: Rows) -> Table:
    header = ["Method", "Images", ABLATIONS[name].axis, "Test Dice", "Train Dice", "Minus the method itself"]
    header += ["Trained", "Steps", "Seconds"]
    cells = [
        [
            row["base"],
            str(row["shots"]),
            row["value"],
            f"{row['dice']:.3f} ± {row['dice_std']:.3f}",
            f"{row['train_dice']:.3f}",
            "" if row["method"] == row["base"] else _difference(row),
            f"{row['trained_parameters']:,}",
            f"{row['steps']:.0f}",
            f"{row['seconds']:.0f}",
        ]
        for row in sorted(rows, key=lambda row: (row["base"], row["shots"]))
    ]
    return Table(f"Ablation: {name}, in numbers", header, cells, "Differences are paired by seed.")


def _difference(row: dict[str, Any]) -> str:
    if row["difference_to_base"] == "":
        return ""
    return f"{row['difference_to_base']:+.3f} ± {row['difference_std']:.3f}"
