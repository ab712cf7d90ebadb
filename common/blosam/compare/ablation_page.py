"""The ablations in the report of a comparison: a chart of value against Dice and a table for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from blosam.ablations import ABLATIONS
from blosam.compare.ablation import Rows, tables
from blosam.compare.results import Record
from blosam.evaluation.plots import FURTHER, STYLE, svg_text
from blosam.evaluation.report_data import Plots, Table

_MARKERS = "osD^vP"


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
