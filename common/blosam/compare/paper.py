"""The medical table of the BLO-SAM paper, to stand beside a comparison on the same data set.

Zhang, Liang, Xie, BLO-SAM (ICML 2024), Dice in per cent: means of Table 3, standard deviations over three samplings
of Table 8. Where the two tables disagree about the mean, both values are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blosam.compare.statistics import Runs
from blosam.errors import BlosamError

SETS = {
    "kvasir": "Kvasir-SEG (polyps in colonoscopy frames)",
    "jsrt": "JSRT (lungs in chest radiographs)",
    "dental": "children's dental panoramic radiographs (teeth)",
}
"""Data sets of the paper's medical table, by the names ``--paper`` takes."""

CHOICES = ("auto", "none", *SETS)
_WORDS = {"kvasir": "kvasir", "jsrt": "jsrt", "dental": "dental", "panoramic": "dental"}
_SHOTS = {"dental": (4, 8), "kvasir": (4, 8), "jsrt": (2, 4)}

COLUMNS = ("data_set", "method", "preset", "shots", "paper_dice", "our_dice", "our_std_over_seeds", "caveat")

NOTE = (
    "Not comparable one to one: the paper measures Dice on low-resolution masks (64 x 64 for 256-pixel inputs) and "
    "does not say in which order its files were, ours is measured on the pixel grid of the source images with our "
    "division into training and test images. The paper trained SAM's ViT-B on a GPU without a limit of time. Its "
    "SAM and Med-SA rows use prompts made from the true mask."
)


@dataclass(frozen=True)
class PaperRow:
    """A line of the paper's table.

    Args:
        name: as the paper prints it.
        presets: our methods that stand for it, the closest first.
        dice: for each data set the values with its smaller and its larger number of training images.
    """

    name: str
    presets: tuple[str, ...]
    dice: Mapping[str, tuple[str, str]]


def _row(name: str, presets: str, *cells: str) -> PaperRow:
    pairs = {key: (cells[2 * i], cells[2 * i + 1]) for i, key in enumerate(("dental", "kvasir", "jsrt"))}
    return PaperRow(name, tuple(presets.split()), pairs)


TABLE = (
    _row("DeepLab", "deeplabv3", "56.8 ± 0.3", "63.9 ± 1.0", "31.9 ± 0.7", "37.8 ± 0.3", "61.1 ± 0.3", "76.4 ± 0.5"),
    _row("SwinUnet", "swin-unetr", "28.6 ± 1.6", "50.6 ± 1.1", "37.8 ± 0.3", "39.0 ± 0.8", "62.1 ± 0.1", "76.4 ± 0.3"),
    _row("HSNet", "hsnet", "70.2 ± 1.3", "72.2 ± 0.4", "30.0 ± 0.7", "35.1 ± 0.8", "83.1 ± 0.5", "84.5 ± 0.4"),
    _row("SSP", "ssp", "33.7 ± 0.5", "51.7 ± 1.2", "27.4 ± 0.3", "27.7 ± 0.4", "83.2 ± 0.3", "90.1 ± 0.6"),
    _row("SAM", "sam-oracle-box sam-oracle-point", "21.2 ± 1.6", "21.2 ± 1.6", "14.7 ± 3.8", "14.7 ± 3.8",
         "31.4 ± 0.1", "31.4 ± 0.1"),
    _row("Med-SA", "med-sa", "69.8 or 69.7 ± 0.3", "75.1 or 76.2 ± 0.4", "33.5 ± 3.5", "59.3 ± 0.4", "82.9 ± 0.5",
         "91.7 ± 0.4"),
    _row("SAMed", "samed joint", "69.9 or 69.8 ± 0.5", "76.4 or 75.1 ± 2.2", "42.7 ± 0.5", "57.1 ± 0.7", "84.4 ± 0.5",
         "91.8 ± 0.4"),
    _row("BLO-SAM", "blo-sam", "73.2 ± 0.7", "77.3 ± 0.2", "59.7 ± 0.2", "61.6 ± 0.3", "87.1 ± 0.3", "93.7 ± 0.1"),
)  # fmt: skip


def data_set(choice: str, folder: str) -> str:
    """Which data set of the paper a comparison is about.

    Args:
        choice: one of :data:`CHOICES`; ``auto`` goes by the words in the folder's name.
        folder: name of the data folder.

    Returns:
        A key of :data:`SETS`, or an empty text. Folders of phantoms are never one.

    Raises:
        BlosamError: for another choice.
    """
    if choice not in CHOICES:
        raise BlosamError(f"--paper {choice}: unknown. Choose among {', '.join(CHOICES)}.")
    if choice != "auto":
        return "" if choice == "none" else choice
    words = re.split(r"[^a-z]+", folder.lower())
    if any(word.startswith("phantom") for word in words):
        return ""
    return next((_WORDS[word] for word in words if word in _WORDS), "")


def beside(name: str, statistics: Sequence[Mapping[str, Any]], runs: Runs) -> list[dict[str, Any]]:
    """The paper's values with ours, one row per method, preset and number of shots, with :data:`COLUMNS`.

    Args:
        name: a key of :data:`SETS`.
        statistics: as :func:`blosam.compare.statistics.statistics` gives them.
        runs: for the caveats.
    """
    ours = {(row["method"], row["shots"]): row for row in statistics if row["metric"] == "dice"}
    caveats = {run["method"]: run.get("caveat", "") for run in runs}
    found = []
    for line in TABLE:
        presets = [preset for preset in line.presets if preset in caveats] or line.presets[:1]
        for preset in presets:
            for shots, theirs in zip(_SHOTS[name], line.dice[name], strict=True):
                own = ours.get((preset, shots), {})
                values = (name, line.name, preset, shots, theirs, own.get("mean"), own.get("std_over_seeds"))
                found.append(dict(zip(COLUMNS, (*values, caveats.get(preset, "")), strict=True)))
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of :func:`beside` for reading, in per cent as the paper prints them."""
    shots = sorted({row["shots"] for row in rows})
    header = ["Paper's method", "Our preset", *(f"{who}, {k} images" for k in shots for who in ("Paper", "Ours"))]
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        name = f"{row['preset']}\n{row['caveat']}" if row["caveat"] else row["preset"]
        cells = lines.setdefault((row["method"], row["preset"]), [row["method"], name])
        third, _, eighth = row["paper_dice"].rpartition(" or ")
        theirs = f"{eighth}\n{third} in Table 3" if third else eighth
        cells += [theirs, _percent(row["our_dice"], row["our_std_over_seeds"])]
    return header, list(lines.values())


def _percent(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"
