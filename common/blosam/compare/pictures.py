"""Small pictures of the best, the median and the worst test image of a run, with true and predicted outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from blosam.atomicio import atomic_write
from blosam.compare.measure import evaluate
from blosam.compare.options import Options
from blosam.evaluation.names import unique_names
from blosam.evaluation.overlay import encode_jpeg
from blosam.evaluation.table import draw_measured, rows_by_columns

PLACES = ("best", "median", "worst")
FOLDER = "pictures"
_LONGEST_SIDE, _QUALITY = 256, 75


class _Drawn:
    """Handler that keeps a picture of every image."""

    def __init__(self, classes: Mapping[str, int]) -> None:
        self.classes = classes
        self.files: list[bytes] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the images of one batch."""
        for item in engine.state.output:
            pred, truth = (rows_by_columns(item[key]) for key in ("pred", "label"))
            size = {"max_side": _LONGEST_SIDE, "min_side": _LONGEST_SIDE // 2}
            drawn = draw_measured(item["image"], pred, truth, self.classes, legend=False, **size)
            self.files.append(encode_jpeg(drawn, _QUALITY))


def chosen(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of the images at each of :data:`PLACES`, by the mean Dice of their classes; equal ones by name.

    Args:
        rows: with ``image`` and ``dice``, of the test images.
    """
    dice: dict[str, list[float]] = {}
    for row in rows:
        dice.setdefault(row["image"], []).append(row["dice"])
    ranked = sorted(dice, key=lambda name: (-sum(dice[name]) / len(dice[name]), name))
    return dict(zip(PLACES, (ranked[0], ranked[(len(ranked) - 1) // 2], ranked[-1]), strict=True))


def save_pictures(
    network: nn.Module, test: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]], options: Options, run: str
) -> dict[str, dict[str, str]]:
    """Write ``OUT/pictures/RUN_best.jpg`` and so on.

    Args:
        network: the trained one.
        test: the test images.
        rows: their measurements.
        options: of the comparison.
        run: name of the run.

    Returns:
        For each place the name of the image and that of the file, for the file of the run.
    """
    names = unique_names([pair["image"] for pair in test])
    pairs = dict(zip(names, test, strict=True))
    places = chosen(rows)
    distinct = list(dict.fromkeys(places.values()))
    handler = _Drawn(options.labels)
    wanted = [pairs[name] for name in distinct]
    evaluate(network, wanted, len(options.labels), options.image_size, options.device, handler)
    drawn = dict(zip(distinct, handler.files, strict=True))
    for place, name in places.items():
        with atomic_write(options.out / FOLDER / f"{run}_{place}.jpg") as file:
            file.write(drawn[name])
    return {place: {"image": name, "file": f"{run}_{place}.jpg"} for place, name in places.items()}
