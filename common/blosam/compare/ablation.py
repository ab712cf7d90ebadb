"""Tables of the ablations that the runs of a comparison hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from blosam.ablations import ABLATIONS, EXAMPLES, NotApplicableError, split, variants
from blosam.compare.results import Record, mean_dice
from blosam.evaluation.table import mean_std, write_rows
from blosam.methods import METHODS

COLUMNS = (
    "base", "shots", "value", "method", "seeds", "dice", "dice_std", "train_dice", "difference_to_base",
    "difference_std", "trained_parameters", "steps", "seconds",
)  # fmt: skip
Rows = list[dict[str, Any]]


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
        values = _values(base, ablation, encoder)
        varied = {k for name, k in groups if name != base and name in values.values()}  # numbers of images
        for value, method in values.items():
            for shots in sorted(varied & {k for name, k in groups if name == method}):
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
    bases = dict.fromkeys(name for name, _ in groups if name in ("recommended", *METHODS))
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
