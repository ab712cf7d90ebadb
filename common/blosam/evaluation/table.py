"""The per-image table of an evaluation: an ignite handler that measures, summarises and writes it."""

from __future__ import annotations

import csv
import json
import logging
import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image

import blosam
from blosam import processes
from blosam.atomicio import atomic_write
from blosam.engines.distributed import is_padding
from blosam.errors import BlosamError
from blosam.evaluation.metrics import SURFACE_TOLERANCE, image_metrics
from blosam.evaluation.names import safe_file_name, unique_names
from blosam.evaluation.overlay import draw_overlay, encode_png

logger = logging.getLogger(__name__)

COLUMNS = ("image", "class", "dice", "hd95", "surface_dice", "unit")
"""Columns of ``metrics.csv`` and keys of a row."""

Row = dict[str, Any]
"""One image and class: ``image`` and ``class`` are names, the rest is as in `metrics.image_metrics`."""


class PerImageTable:
    """Measures every image of a MONAI evaluator at its native resolution and writes the table at the end.

    ``engine.state.output`` must be a list of dicts (decollated) with ``pred`` and ``label``: class indices
    in MONAI's W x H order (a channel axis of size 1 is dropped), and ``image``: a MetaTensor whose ``meta``
    names the file (``filename_or_obj``) and may hold ``spacing``, the (row, column) pixel distance in mm.

    When the engine completes, ``metrics.csv`` (one row per image and class) and ``summary.json`` lie in the
    folder and ``engine.state.table`` is ``{"rows": list of rows, "summary": dict, "overlays": dict of name
    to PNG path}``.
    """

    def __init__(self, output_dir: str | Path, classes: Mapping[str, int], save_overlays: bool = False) -> None:
        """Set where to write and what to measure.

        Args:
            output_dir: folder of ``metrics.csv``, ``summary.json`` and ``overlays/``; made when missing.
            classes: foreground classes, name to label value >= 1, e.g. ``{"lung": 1}``.
            save_overlays: also write ``overlays/NNN_NAME.png`` with true and predicted outline of every
                image.

        Raises:
            BlosamError: there is no class, or a label value is smaller than 1.
        """
        if not classes or min(classes.values()) < 1:
            raise BlosamError(f"classes {dict(classes)} name no foreground value >= 1. Give e.g. {{'lung': 1}}.")
        self.output_dir = Path(output_dir)
        self.classes = dict(classes)
        self.save_overlays = save_overlays
        self._measured: list[tuple[str, list[Row], Path | None]] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator; called by MONAI for every handler."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        """Forget the images of an earlier run."""
        self._measured = []

    def iteration_completed(self, engine: Engine) -> None:
        """Measure the images of one batch.

        Raises:
            BlosamError: prediction and label of an image differ in shape; the message names the image.
        """
        if is_padding(engine):
            return
        for item in engine.state.output:
            pred, label, image = item["pred"], item["label"], item["image"]
            meta = getattr(image, "meta", {})
            path = str(meta.get("filename_or_obj") or f"image-{len(self._measured) + 1:04d}")
            maps = [rows_by_columns(m) for m in (pred, label)]
            try:
                rows = image_metrics(*maps, list(self.classes.values()), _spacing(meta))
            except BlosamError as error:
                raise BlosamError(f"{Path(path).name}: {error}") from error
            names = {value: name for name, value in self.classes.items()}
            rows = [{**row, "class": names[row["class"]]} for row in rows]
            overlay = self._write_overlay(path, image, *maps) if self.save_overlays else None
            self._measured.append((path, rows, overlay))

    def _write_overlay(self, source: str, image: torch.Tensor, pred: np.ndarray, truth: np.ndarray) -> Path:
        drawn = draw_measured(image, pred, truth, self.classes)
        number = len(self._measured) * processes.world_size() + processes.rank() + 1  # as one process would count
        name = f"{number:03d}_{safe_file_name(unique_names([source])[0])}.png"
        path = self.output_dir / "overlays" / name
        with atomic_write(path) as file:
            file.write(encode_png(drawn))
        return path

    def completed(self, engine: Engine) -> None:
        """Write the table (the first process alone, when there are several) and put it into the state."""
        measured = processes.interleaved(processes.gathered(self._measured))
        names = unique_names([path for path, _, _ in measured])
        rows = [{"image": name, **row} for name, (_, group, _) in zip(names, measured, strict=True) for row in group]
        summary = {**summarise(rows), "versions": versions()}
        overlays = {name: str(file) for name, (_, _, file) in zip(names, measured, strict=True) if file is not None}
        engine.state.table = {"rows": rows, "summary": summary, "overlays": overlays}
        if processes.is_main():
            write_rows(self.output_dir / "metrics.csv", rows)
            with atomic_write(self.output_dir / "summary.json", "w") as file:
                file.write(json.dumps(summary, indent=2) + "\n")
            logger.info(
                "%s over %d images, table in %s",
                headline(summary),
                len(names),
                self.output_dir / "metrics.csv",
            )


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation, median and count of a table, per class and over all.

    Args:
        rows: rows with the keys of `COLUMNS`.

    Returns:
        ``images`` (their number), ``surface_tolerance``, ``classes`` (name to statistics) and ``all``
        (statistics over images, every image counting once with the mean of its classes). Statistics are
        ``dice``: ``{mean, std, median, n}`` and ``hd95`` and ``surface_dice``: one such dict per unit,
        ``{"mm": {...}}``, since millimetres and pixels cannot be averaged. ``std`` is the sample standard
        deviation (n - 1; 0 for n = 1).
    """
    table = [dict(row) for row in rows]
    images: dict[str, list[Row]] = {}
    classes: dict[str, list[Row]] = {}
    for row in table:
        images.setdefault(row["image"], []).append(row)
        classes.setdefault(row["class"], []).append(row)
    means = [
        {
            "unit": group[0]["unit"],
            **{k: statistics.fmean(r[k] for r in group) for k in ("dice", "hd95", "surface_dice")},
        }
        for group in images.values()
    ]
    return {
        "images": len(images),
        "surface_tolerance": SURFACE_TOLERANCE,
        "all": _statistics(means),
        "classes": {name: _statistics(group) for name, group in classes.items()},
    }


def _statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    units = sorted({row["unit"] for row in rows})
    per_unit = {
        key: {unit: mean_std([row[key] for row in rows if row["unit"] == unit]) for unit in units}
        for key in ("hd95", "surface_dice")
    }
    return {"dice": mean_std([row["dice"] for row in rows]), **per_unit}


def mean_std(values: Sequence[float]) -> dict[str, float | int | None]:
    """``mean``, sample ``std``, ``median`` and ``n`` of some numbers; None without any."""
    if not values:
        return {"mean": None, "std": None, "median": None, "n": 0}
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.fmean(values),
        "std": std,
        "median": statistics.median(values),
        "n": len(values),
    }


def headline(summary: Mapping[str, Any]) -> str:
    """One line, means over images: ``Dice 0.931 +- 0.012, HD95 6.1 pixels, surface Dice 0.52``."""
    total = summary["all"]
    if not total["dice"]["n"]:
        return "no image measured"
    text = f"Dice {total['dice']['mean']:.3f} +- {total['dice']['std']:.3f}"
    for unit, values in total["hd95"].items():
        text += f", HD95 {values['mean']:.1f} {unit}, surface Dice {total['surface_dice'][unit]['mean']:.2f}"
    return text


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Path:
    """Write rows as CSV, atomically, with six digits after the point; other keys of a row are left out."""
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()})
    return Path(path)


def read_rows(path: str | Path) -> list[Row]:
    """Read what `write_rows` wrote; ``dice``, ``hd95`` and ``surface_dice`` become floats.

    Raises:
        BlosamError: the file is missing or is not such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[Row] = list(csv.DictReader(file))
        for row in rows:
            row.update({key: float(row[key]) for key in ("dice", "hd95", "surface_dice")})
    except OSError as error:
        raise BlosamError(f"{path}: cannot be read ({error.strerror}). Run the evaluation first.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BlosamError(f"{path}: not a table of metrics. Run the evaluation again.") from error
    return rows


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on: this package, Python, and the libraries that are installed."""
    found = {"blosam": blosam.__version__, "python": platform.python_version()}
    for package in ("torch", "monai", "segment-anything", "pytorch-ignite", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def native_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The source picture back from the network's input, for drawing on it.

    Args:
        image: 3 x S x S (or any C x S x S), the longest side of the source resized to S, padded bottom and
            right.
        shape: (rows, columns) of the source.

    Returns:
        rows x columns x 3 uint8. It went through S x S, so it is smooth where S is smaller than the source.
    """
    size, longest = image.shape[-1], max(shape)
    rows, columns = (max(1, min(size, int(n * size / longest + 0.5))) for n in shape)
    picture = np.clip(image[:3, :rows, :columns] * 255 + 0.5, 0, 255).astype(np.uint8)
    picture = np.broadcast_to(picture, (3, rows, columns)) if picture.shape[0] == 1 else picture
    resized = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize(
        shape[::-1], Image.Resampling.BICUBIC
    )
    return np.asarray(resized)


def draw_measured(
    image: torch.Tensor, pred: np.ndarray, truth: np.ndarray, classes: Mapping[str, int], **options: Any
) -> np.ndarray:
    """What `draw_overlay` makes of an image as an evaluator has it, C x S x S, and its H x W masks."""
    names = {value: name for name, value in classes.items()}
    return draw_overlay(native_image(_array(image), truth.shape), truth, pred, class_names=names, **options)


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """The values as an array, from whatever device they are on."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)


def rows_by_columns(labels: torch.Tensor | np.ndarray) -> np.ndarray:
    """Rows x columns int map from MONAI's W x H order with axes of size 1 before or after it."""
    array = _array(labels)
    if array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return np.ascontiguousarray(np.rint(array).astype(np.int64).T)


def _spacing(meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """(row, column) pixel distance in mm from meta data; None when absent or not finite and positive."""
    value = meta.get("spacing")
    if value is None:
        return None
    numbers = [float(v) for v in (value.flatten().tolist() if hasattr(value, "flatten") else value)]
    if len(numbers) < 2 or not all(math.isfinite(v) and v > 0 for v in numbers[:2]):
        return None
    return numbers[0], numbers[1]
