"""Small line charts as SVG text that takes its colours from the page: light, dark and print all work."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from blosam.evaluation.calibration import FAILURE, Calibration
from blosam.evaluation.report_data import Curves

# matplotlib needs real colours; these odd ones are replaced by the page's variables afterwards.
INK, MUTED, GRID, FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = (f"#0102{n:02x}" for n in range(3, 12))
FURTHER = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
"""Colours of lines that must be told apart, in the order in which they are used."""
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
    FOURTH: "var(--fourth)",
    FIFTH: "var(--fifth)",
    SIXTH: "var(--sixth)",
}
_SIZE = (3.9, 2.7)
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def loss_plot(curves: Curves) -> str:
    """Losses on D1 and D2 over the iterations as SVG text: every value faint, the running mean strong."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("iteration", "loss")
        name = "D1: weights" if len(curves.d2_loss) else "training images"
        for values, colour, label in (
            (curves.d1_loss, FIRST, name),
            (curves.d2_loss, SECOND, "D2: prompt"),
        ):
            losses = np.asarray(values, np.float64)
            known = np.isfinite(losses)
            if not known.any():
                continue
            times, losses = np.asarray(curves.iterations)[known], losses[known]
            axes.plot(times, losses, color=colour, alpha=0.35, linewidth=0.8)
            marker = "o" if len(losses) == 1 else None
            axes.plot(times, running_mean(losses), color=colour, label=label, marker=marker)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
        return svg_text(figure, "loss")


def learning_rate_plot(curves: Curves) -> str:
    """Learning rate of the weights over the iterations. Returns SVG text."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("iteration", "learning rate")
        axes.plot(curves.iterations, curves.learning_rate, color=FIRST)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
        axes.set_ylim(bottom=0)
        return svg_text(figure, "rate")


def validation_plot(curves: Curves) -> str:
    """Dice of the validations over the iterations, the best one marked. Returns SVG text."""
    iterations, dice = zip(*curves.validation, strict=True)
    best = int(np.argmax(dice))
    with mpl.rc_context(STYLE):
        figure, axes = _axes("iteration", "Dice")
        axes.plot(iterations, dice, color=THIRD, marker="o", markersize=3)
        axes.plot(
            iterations[best],
            dice[best],
            "o",
            color=THIRD,
            markersize=8,
            fillstyle="none",
            markeredgewidth=1.5,
        )
        axes.annotate(
            f"best {dice[best]:.3f}",
            (iterations[best], dice[best]),
            (0, -14),
            textcoords="offset points",
            ha="center",
            va="top",
        )
        low = min(dice)
        axes.set_ylim(max(0.0, low - 0.15 * (1.02 - low) - 0.05), 1.02)
        axes.margins(x=0.08)
        return svg_text(figure, "validation")


def prompt_change_plot(iterations: Sequence[int], prompt: np.ndarray) -> str:
    """Distance of the prompt embedding (T x P) from its start over the iterations, as SVG text."""
    track = np.asarray(prompt, np.float64)
    with mpl.rc_context(STYLE):
        figure, axes = _axes("iteration", "distance from the start")
        axes.plot(iterations, np.linalg.norm(track - track[0], axis=1), color=SECOND)
        axes.set_ylim(bottom=0)
        return svg_text(figure, "change")


def prompt_path_plot(prompt: np.ndarray) -> str:
    """Path of the prompt embedding (T x P) in the plane of its two principal components. Returns SVG text."""
    path, share = principal_components(prompt)
    with mpl.rc_context(STYLE):
        names = [f"component {i + 1} ({100 * s:.0f} %)" for i, s in enumerate(share)]
        figure, axes = _axes(*names)
        if len(path) > 1:
            segments = list(np.stack([path[:-1], path[1:]], axis=1))
            fade = list(np.linspace(0.25, 1.0, len(segments)))
            axes.add_collection(LineCollection(segments, colors=[SECOND] * len(segments), alpha=fade))
        axes.plot(*path[0], "o", color=MUTED, markersize=7, label="start")
        axes.plot(*path[-1], "s", color=SECOND, markersize=7, label="end")
        axes.margins(0.12)
        axes.autoscale_view()
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.legend(loc="best")
        return svg_text(figure, "path")


def calibration_plot(calibration: Calibration) -> str:
    """Confidence against Dice, one point per image, as SVG text."""
    with mpl.rc_context(STYLE):
        return svg_text(_calibration_figure(calibration, FIRST, SECOND, MUTED), "calibration")


def calibration_png(calibration: Calibration) -> bytes:
    """The same as a PNG file, for looking at beside the tables."""
    plain = {key: value for key, value in STYLE.items() if not str(value).startswith("#")} | {"grid.color": "#dfe3e9"}
    buffer = io.BytesIO()
    with mpl.rc_context(plain):
        _calibration_figure(calibration, "#0072b2", "#d55e00", "#5d6879").savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _calibration_figure(calibration: Calibration, good: str, bad: str, muted: str) -> Figure:
    """Good images and failures apart by colour and by shape; the line below which a Dice counts as a failure."""
    figure, axes = _axes("confidence", "Dice")
    sure, dice = (np.asarray(values, np.float64) for values in (calibration.confidence, calibration.dice))
    failed = dice < FAILURE
    axes.axhline(FAILURE, color=muted, linewidth=1, linestyle="--")
    for chosen, colour, marker, label in ((~failed, good, "o", "good"), (failed, bad, "X", "failure")):
        axes.scatter(
            sure[chosen], dice[chosen], s=28, color=colour, marker=marker, alpha=0.75, linewidths=0, label=label
        )
    axes.set(
        xlim=(min(0.98 * sure.min(initial=1.0), 0.9) - 0.02, 1.02), ylim=(min(0.7, dice.min(initial=1)) - 0.03, 1.02)
    )
    axes.legend(loc="upper left")
    return figure


def running_mean(values: Sequence[float], share: float = 0.05) -> np.ndarray:
    """Mean over a centred window of ``share`` of the length (at least 1); the window shrinks at both ends."""
    array = np.asarray(values, np.float64)
    reach = int(len(array) * share / 2)
    total = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    # The same reach on both sides at every point: a window cut on one side would bend the ends of the curve.
    near = np.minimum(reach, np.minimum(index, len(array) - 1 - index))
    return (total[index + near + 1] - total[index - near]) / (2 * near + 1)


def principal_components(track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions in which a path varies most.

    Args:
        track: T x P array, T >= 1.

    Returns:
        T x 2 coordinates (the first point at the origin; the sign of each direction is the one in which the
        path ends up) and their 2 shares of the variance in [0, 1]. Directions that do not exist are 0.
    """
    data = np.asarray(track, np.float64)
    centred = data - data.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    scores = np.zeros((len(data), 2))
    count = min(2, len(scale))
    scores[:, :count] = left[:, :count] * scale[:count]
    total = float((scale**2).sum())
    share = np.zeros(2)
    share[:count] = scale[:count] ** 2 / total if total > 0 else 0.0
    scores -= scores[0]
    return scores * np.where(scores[-1] < 0, -1.0, 1.0), share


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_label == "iteration"))
    return figure, axes


def svg_text(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page: own ids, page colours, no fixed size."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[^"]*"(?=[^>]*>)', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\s(?:width|height)="[^"]*"(?=[^>]*>)', r"\1", text, count=1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text
