"""Learning curves and costs of finished runs as tables; runs of earlier versions leave cells empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blosam.compare import curve
from blosam.compare.statistics import Runs, by_method, mean_or_none
from blosam.evaluation.table import write_rows

CURVE_COLUMNS = ("method", "shots", "seed", *curve.COLUMNS)
COST_COLUMNS = (
    "method", "shots", "seeds", "parameters", "trained_parameters", "steps", "encoding_seconds", "training_seconds",
    "memory_mib", "memory_growth_mib", "memory_kind", "inference_ms", "inference_network_ms", "device",
)  # fmt: skip


def curves(runs: Runs) -> list[dict[str, Any]]:
    """One row per run and point, with :data:`CURVE_COLUMNS`."""
    return [
        {"method": run["method"], "shots": run["shots"], "seed": run["seed"]}
        | dict(zip(run["curve"]["columns"], row, strict=True))
        for run in runs
        for row in run.get("curve", {}).get("rows", ())
    ]


def mean_curve(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Mean over seeds of a curve, at the points nominally meant; a point that some seed lacks is left out.

    Args:
        rows: of one method and one number of shots.
        key: ``train_dice``, ``held_out_dice`` or ``loss``.

    Returns:
        Progress and values.
    """
    seeds: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        if row[key] is not None:
            seeds.setdefault(row["seed"], []).append((row["progress"], row[key]))
    points: dict[float, list[tuple[float, float]]] = {}
    for values in seeds.values():
        for progress, value in values:
            nominal = max(point for point in curve.POINTS if point <= progress + 1e-9)
            points.setdefault(nominal, []).append((progress, value))
    complete = [np.mean(points[point], axis=0) for point in sorted(points) if len(points[point]) == len(seeds)]
    return [float(p) for p, _ in complete], [float(v) for _, v in complete]


def costs(runs: Runs) -> list[dict[str, Any]]:
    """One row per method and number of shots, means over seeds, with :data:`COST_COLUMNS`."""
    found = []
    for (shots, method), group in by_method(runs).items():
        memory = [run.get("memory", {}) for run in group]
        inference = [run.get("inference", {}) for run in group]
        growth = [m["peak_mib"] - m["before_mib"] if m else None for m in memory]
        kinds = sorted({m["kind"] for m in memory if m})
        found.append(
            {
                "method": method,
                "shots": shots,
                "seeds": len(group),
                "parameters": group[0]["parameters"]["total"],
                "trained_parameters": group[0]["parameters"]["trained"],
                "steps": mean_or_none(run["steps"] for run in group),
                "encoding_seconds": mean_or_none(run["seconds"].get("encoding") for run in group),
                "training_seconds": mean_or_none(run["seconds"].get("training") for run in group),
                "memory_mib": mean_or_none(m.get("peak_mib") for m in memory),
                "memory_growth_mib": mean_or_none(growth),
                "memory_kind": " or ".join(kinds),
                "inference_ms": mean_or_none(i.get("total_ms") for i in inference),
                "inference_network_ms": mean_or_none(i.get("network_ms") for i in inference),
                "device": " or ".join(sorted({run.get("machine", {}).get("device", "") for run in group} - {""})),
            }
        )
    return found


def write_observed(folder: Path, points: Runs, spent: Runs) -> None:
    """Write ``curves.csv`` and ``costs.csv`` from what :func:`curves` and :func:`costs` give."""
    write_rows(folder / "curves.csv", points, CURVE_COLUMNS)
    write_rows(folder / "costs.csv", spent, COST_COLUMNS)
