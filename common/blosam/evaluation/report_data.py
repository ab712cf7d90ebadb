"""What a report can show: plain data, every part optional; training, evaluation and comparison share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blosam.evaluation.calibration import Calibration

CAVEATS = (
    "Not for clinical use: this is research software, its masks must not guide a diagnosis or a treatment.",
    "A handful of held-out images gives a rough estimate; other hospitals, devices and diseases may differ.",
)
"""Sentences that belong under every report."""

PHANTOM_CAVEAT = (
    "Phantoms are synthetic: these images were drawn by a program, so the numbers say nothing about patients."
)
"""The sentence for reports on phantoms."""


@dataclass
class Headline:
    """One number at the top of the page, e.g. ``Headline("Held-out Dice", "0.931 ± 0.012", "20 images")``.

    Args:
        label: what it is.
        value: the number as it should be read, with its unit.
        note: a few words below it.
        main: draw it as the most important one.
    """

    label: str
    value: str
    note: str = ""
    main: bool = False


@dataclass
class TrainingImage:
    """One labelled training image.

    Args:
        name: how it is called on the page.
        image: H x W or H x W x 3, float in [0, 1] or uint8.
        mask: H x W class indices.
        role: the half it belongs to, ``D1``, ``D2`` or any other short mark.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    role: str = ""


@dataclass
class Curves:
    """What happened during training; all lists belong to ``iterations``.

    Args:
        iterations: numbers of the recorded iterations, ascending.
        d1_loss: loss of the weights on D1.
        d2_loss: loss of the prompt on D2; empty when everything was trained on all images together.
        learning_rate: learning rate of the weights.
        prompt: T x P array, the prompt embedding (flattened) over time, or None.
        prompt_iterations: T iteration numbers of ``prompt``; empty when they are ``iterations``.
        validation: (iteration, Dice) pairs.
        roles_swapped: D1 and D2 changed places after every step.
    """

    iterations: Sequence[int]
    d1_loss: Sequence[float]
    d2_loss: Sequence[float] = ()
    learning_rate: Sequence[float] = ()
    prompt: np.ndarray | None = None
    prompt_iterations: Sequence[int] = ()
    validation: Sequence[tuple[int, float]] = ()
    roles_swapped: bool = False


@dataclass
class Case:
    """One measured image; its numbers are the rows of the table with the same name.

    Args:
        name: the image's name in the table.
        image: H x W or H x W x 3, float in [0, 1] or uint8.
        truth: H x W class indices, or None when there is no true mask.
        pred: H x W class indices.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray | None
    pred: np.ndarray


@dataclass
class Table:
    """A further table, e.g. methods against each other.

    Args:
        title: heading above it.
        header: names of the columns.
        rows: cells as text, one list per row; cells that look like numbers are set right. What follows a line break
            in a cell is set smaller below it.
        note: one sentence below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class Plots:
    """A section of charts.

    Args:
        title: heading above it.
        charts: SVG texts with their captions, which follow each other as the page has room.
        note: what a reader must know to read them.
        legend: (CSS colour, words) of what all charts have in common.
        size: ``large`` (one a line), ``medium`` (two) or ``small`` (four or five).
    """

    title: str
    charts: Sequence[tuple[str, str]]
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    size: str = "medium"


@dataclass
class Gallery:
    """A section of pictures in named groups, e.g. one group per method.

    Args:
        title: heading above it.
        groups: name of each group and its JPEG files with their captions.
        note: what a reader must know.
        legend: (CSS colour, words) of what the lines are.
    """

    title: str
    groups: Sequence[tuple[str, Sequence[tuple[bytes, str]]]]
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()


@dataclass
class ReportData:
    """All that `report.write_report` can show; a part that is left empty leaves its section out.

    Args:
        title: heading of the page.
        lead: one or two sentences below the heading.
        headlines: the numbers at the top.
        steps: what was done, in plain words, one sentence or two per step.
        training: the labelled images the model was trained on.
        curves: losses, learning rate and prompt over time.
        rows: per image and class as `table.summarise` takes them.
        cases: images with masks; best, median and worst are chosen by the Dice in ``rows``.
        class_names: class index to name, for colours and legends.
        tables: further tables, charts and pictures, in the order in which they are shown.
        dicom: a DICOM image that was segmented as a demonstration.
        dicom_facts: what to say about it, name to value; the caller leaves out everything about the patient.
        facts: groups of name to value, e.g. ``{"Versions": {...}, "Timings": {...}}``.
        calibration: confidence and Dice of held-out images.
        command: the command that makes this report again.
        caveats: what a reader must know before using the numbers.
        grid_limit: most images in the grid of all; the rest is only in the table.
    """

    title: str
    lead: str = ""
    headlines: Sequence[Headline] = ()
    steps: Sequence[str] = ()
    training: Sequence[TrainingImage] = ()
    curves: Curves | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    cases: Sequence[Case] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)
    tables: Sequence[Table | Plots | Gallery] = ()
    dicom: Case | None = None
    dicom_facts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    calibration: Calibration | None = None
    command: str = ""
    caveats: Sequence[str] = CAVEATS
    grid_limit: int = 60


def metric_headlines(
    summary: Mapping[str, Any],
    train_seconds: float | None = None,
    baseline: tuple[str, float, float] | None = None,
) -> list[Headline]:
    """The usual numbers at the top of a report.

    Args:
        summary: what `table.summarise` gives.
        train_seconds: time spent on training, in seconds.
        baseline: name, mean Dice and standard deviation of what to compare with, e.g. ``("U-Net", 0.897,
            0.05)``.

    Returns:
        Dice, the baseline's Dice, HD95, surface Dice and time, as far as they are known.
    """
    total, count = summary["all"], summary["images"]
    if not total["dice"]["n"]:
        return []
    dice = total["dice"]
    images = f"{count} image{'s' if count != 1 else ''}"
    found = [Headline("Held-out Dice", _plus_minus(dice, 3), f"{images} never trained on, mean ± SD", main=True)]
    if baseline is not None:
        name, mean, std = baseline
        difference = dice["mean"] - mean
        sign = "+" if difference >= 0 else "−"
        note = f"same training images; difference {sign}{abs(difference):.3f}"
        found.append(Headline(f"{name} Dice", f"{mean:.3f} ± {std:.3f}", note))
    for unit, values in total["hd95"].items():
        tolerance = f"within {summary['surface_tolerance']:g} {unit}"
        where = f", {values['n']} images" if values["n"] != count else ""
        found.append(
            Headline(
                "HD95",
                f"{_plus_minus(values, 1)} {_short(unit)}",
                f"boundary distance, lower is better{where}",
            )
        )
        found.append(
            Headline("Surface Dice", _plus_minus(total["surface_dice"][unit], 2), f"boundary {tolerance}{where}")
        )
    if train_seconds is not None:
        found.append(Headline("Training time", duration(train_seconds), "on this machine"))
    return found


def _plus_minus(values: Mapping[str, float], digits: int) -> str:
    return f"{values['mean']:.{digits}f} ± {values['std']:.{digits}f}"


def _short(unit: str) -> str:
    return {"pixels": "px"}.get(unit, unit)


def duration(seconds: float) -> str:
    """A time for reading: ``0.8 s``, ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
