"""Draw docs/overview.png, the picture at the top of the README, from what ``make demo`` left behind.

python tools/make_overview.py runs/demo docs/overview.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from blosam.data import d1_d2_split
from blosam.evaluation.overlay import draw_overlay
from blosam.predictor import Predictor

INK, BLUE, ORANGE, PAPER = "#1f2430", "#0072b2", "#d55e00", "#f4f6f9"


def picture(image: Path, mask: np.ndarray | None, side: int = 220) -> np.ndarray:
    """A square cut-out of an image with its mask's outline; side x side x 3 uint8."""
    array = np.asarray(Image.open(image).convert("L"))
    drawn = draw_overlay(array, pred=mask, legend=False, fill=0.25) if mask is not None else np.stack([array] * 3, -1)
    square = min(drawn.shape[:2])
    top, left = ((n - square) // 2 for n in drawn.shape[:2])
    return np.asarray(Image.fromarray(drawn[top : top + square, left : left + square]).resize((side, side)))


def box(axes: plt.Axes, place: tuple[float, float, float, float], title: str, text: str, colour: str) -> None:
    """A rounded box with a heading and two lines of text; place = left, bottom, width, height."""
    left, bottom, width, height = place
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.12", fc="white", ec=colour, lw=1.8
        )
    )
    axes.text(
        left + width / 2, bottom + height * 0.68, title, ha="center", va="center", size=12, weight="bold", color=colour
    )
    axes.text(left + width / 2, bottom + height * 0.32, text, ha="center", va="center", size=9.5, color=INK)


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two places."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, lw=1.6, color=INK))


def draw(demo: Path, target: Path) -> None:
    """Compose and save the picture (about 12 x 4 inches)."""
    split = json.loads((demo / "results" / "split.json").read_text())
    pairs = split["training"][:4]
    d1, _ = d1_d2_split(pairs, 0)
    order = [i for i in range(4) if i in d1] + [i for i in range(4) if i not in d1]
    predictor = Predictor(demo / "bundle")
    figure, axes = plt.subplots(figsize=(12, 4.2), dpi=110)
    figure.patch.set_facecolor(PAPER)
    axes.set_xlim(0, 12), axes.set_ylim(0, 4.2), axes.axis("off")
    for row, (name, colour) in enumerate((("D1", BLUE), ("D2", ORANGE))):
        bottom = 2.25 - 1.85 * row
        axes.text(0.35, bottom + 0.75, name, size=15, weight="bold", color=colour, ha="center", va="center")
        for column in range(2):
            pair = pairs[order[2 * row + column]]
            mask = (np.asarray(Image.open(pair["label"]).convert("L")) > 127).astype(np.uint8)
            left = 0.75 + 1.6 * column
            axes.imshow(picture(Path(pair["image"]), mask), extent=(left, left + 1.5, bottom, bottom + 1.5), zorder=2)
        arrow(axes, (4.0, bottom + 0.75), (4.6, bottom + 0.75))
    box(axes, (4.7, 2.4, 2.7, 1.2), "decoder weights", "lower level: learn on D1,\nprompt held fixed", BLUE)
    box(axes, (4.7, 0.55, 2.7, 1.2), "prompt embedding", "upper level: learns on D2,\nthrough the new weights", ORANGE)
    arrow(axes, (5.7, 2.35), (5.7, 1.8)), arrow(axes, (6.4, 1.8), (6.4, 2.35))
    arrow(axes, (7.5, 2.08), (8.1, 2.08))
    new = Path(split["test"][1]["image"])
    for column, mask in enumerate((None, predictor.predict(new).mask)):
        left = 8.25 + 1.85 * column
        axes.imshow(picture(new, mask), extent=(left, left + 1.7, 1.25, 2.95), zorder=2)
    arrow(axes, (9.9, 2.1), (10.15, 2.1))
    axes.text(10.0, 3.2, "a new image: no click, no box, no text", ha="center", size=11, color=INK)
    axes.text(2.3, 3.95, "four labelled images (drawn phantoms)", ha="center", size=11, color=INK)
    axes.set_aspect("equal")
    figure.savefig(target, bbox_inches="tight", pad_inches=0.1, facecolor=PAPER)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of a finished demo")
    parser.add_argument("target", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    draw(arguments.demo, arguments.target)


if __name__ == "__main__":
    main()
