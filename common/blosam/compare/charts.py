"""Charts of a comparison that stay readable with two dozen methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from blosam.compare.observed import mean_curve
from blosam.compare.statistics import REFERENCES
from blosam.evaluation.plots import FIRST, FURTHER, GRID, INK, MUTED, SECOND, STYLE, svg_text

_LABELLED = 4  # methods with a label in the plot over shots, besides the references
_MARKERS = "osD^vP"
_NAME_LENGTH = 26


def forest_plot(statistics: Sequence[Mapping[str, Any]], order: Sequence[str], shots: Sequence[int]) -> str:
    """Dice of every method with its 95 % interval, one panel per number of shots, as SVG text.

    Args:
        statistics: rows of :func:`blosam.compare.statistics.statistics`.
        order: methods from top to bottom.
        shots: numbers of training images, from left to right.
    """
    rows = {(row["method"], row["shots"]): row for row in statistics if row["metric"] == "dice"}
    ends = [v for r in rows.values() for v in (r["mean"], r["ci_low"], r["ci_high"]) if v is not None]
    low, high = min(ends), max(ends)
    room = 0.04 * max(high - low, 0.05)
    with mpl.rc_context(STYLE):
        # A line of text needs 0.2 inches however many methods there are.
        figure = Figure(figsize=(2.0 + 2.3 * len(shots), 0.85 + 0.2 * len(order)), layout="constrained")
        panels = figure.subplots(1, len(shots), sharey=True, squeeze=False)[0]
        for axes, k in zip(panels, shots, strict=True):
            for place, method in enumerate(order):
                if (method, k) in rows:
                    _whisker(axes, rows[method, k], len(order) - 1 - place)
            axes.set_title(f"{k} training images", fontsize=9, color=INK)
            axes.set(xlabel="test Dice", xlim=(low - room, min(high + room, 1.02)), ylim=(-0.7, len(order) - 0.3))
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(order)), [_short(name) for name in reversed(order)])
        return svg_text(figure, "forest")


def _whisker(axes: Axes, row: Mapping[str, Any], height: int) -> None:
    """One mean with its interval; methods that cannot be ranked are hollow and grey."""
    ranked = row["ranked"] == "yes"
    colour = FIRST if ranked else MUTED
    if row["ci_low"] is not None:
        axes.plot([row["ci_low"], row["ci_high"]], [height, height], color=colour, linewidth=1.4)
    axes.plot(row["mean"], height, "o", color=colour, markersize=5, fillstyle="full" if ranked else "none")


def shots_plot(statistics: Sequence[Mapping[str, Any]], best: Sequence[str]) -> str:
    """Dice against the number of training images as SVG text; the best and the references named, the rest grey.

    Args:
        statistics: rows of :func:`blosam.compare.statistics.statistics`.
        best: methods that can be ranked, best first.
    """
    rows = [row for row in statistics if row["metric"] == "dice" and row["method"] in best]
    shots = sorted({row["shots"] for row in rows})
    named = list(dict.fromkeys([*best[:_LABELLED], *(m for m in REFERENCES if m in best)]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.8, 4.0), layout="constrained")
        axes = figure.add_subplot()
        ends = []
        for method in sorted(best, key=lambda m: m in named):  # the named ones are drawn on top
            line = sorted((row["shots"], row["mean"]) for row in rows if row["method"] == method)
            times, dice = np.log2([k for k, _ in line]), [value for _, value in line]
            if method not in named:
                axes.plot(times, dice, color=MUTED, linewidth=0.9, alpha=0.45)
                continue
            place = named.index(method)
            colour = FURTHER[place % len(FURTHER)]
            axes.plot(times, dice, color=colour, marker=_MARKERS[place % len(_MARKERS)], markersize=5)
            ends.append((times[-1], dice[-1], _short(method), colour))
        axes.set(xlabel="training images", ylabel="test Dice")
        axes.xaxis.set_major_locator(FixedLocator(list(np.log2(shots))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(k) for k in shots])
        _label_ends(axes, ends)
        return svg_text(figure, "shots")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the right of the lines, moved apart so that none covers another."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.055  # height of a line of text
    heights: list[float] = []
    ordered = sorted(ends, key=lambda end: end[1])
    for _, value, _, _ in ordered:
        heights.append(max(value, heights[-1] + step) if heights else value)
    over = max(0.0, heights[-1] - high) if heights else 0.0
    right = axes.get_xlim()[1]
    for (_, value, name, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            name, (right, value), (right + 0.05, height - over), color=colour, va="center",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6},
        )  # fmt: skip


def curve_plot(rows: Sequence[Mapping[str, Any]], number: int) -> str:
    """Dice on training and held-out images over the training of one method, as SVG text.

    Args:
        rows: as :func:`blosam.compare.observed.curves` gives them, of one method and one number of shots.
        number: of the chart on the page, which keeps its ids apart.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3, 1.55), layout="constrained")
        axes = figure.add_subplot()
        for key, colour, dashes in (("train_dice", FIRST, "-"), ("held_out_dice", SECOND, "--")):
            for seed in sorted({row["seed"] for row in rows}):
                own = [(100 * r["progress"], r[key]) for r in rows if r["seed"] == seed and r[key] is not None]
                axes.plot(*zip(*own, strict=True), color=colour, linewidth=0.7, alpha=0.35) if own else None
            times, values = mean_curve(rows, key)
            axes.plot([100 * t for t in times], values, color=colour, linestyle=dashes, linewidth=1.7)
        axes.set(xlim=(0, 100), ylim=(0, 1.02))
        axes.xaxis.set_major_locator(FixedLocator([0, 50, 100]))
        axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        axes.grid(color=GRID)
        return svg_text(figure, f"curve{number}")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
