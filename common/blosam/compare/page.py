"""``report.html`` of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blosam.compare import approaches
from blosam.compare.results import Record, protocol, readable, summary
from blosam.evaluation.report import write_report
from blosam.evaluation.report_data import CAVEATS, PHANTOM_CAVEAT, Headline, ReportData, Table


def write_page(path: Path, runs: Sequence[Record]) -> Path:
    """Write the report of some finished runs.

    Raises:
        BlosamError: when it cannot be written.
    """
    header, cells = readable(runs)
    shared = runs[0]["shared"]
    known = {run["method"]: run["own"].get("recipe", run["method"]) for run in runs}
    return write_report(
        path,
        ReportData(
            title=f"Methods compared on {shared['data']}",
            lead="The same few labelled images, the same views and the same time for every method.",
            headlines=_headlines(runs),
            steps=protocol(runs),
            tables=[
                Table(
                    "Summary",
                    header,
                    cells,
                    "Best test Dice first within each number of shots. Minus U-Net: paired by seed.",
                ),
                Table("Test Dice by number of training images", *_by_shots(runs)),
                Table("Methods", ["Method", "Recipe", "What it does"], [[m, r, _about(m)] for m, r in known.items()]),
            ],
            facts={
                "Settings": {key: str(value) for key, value in shared.items()},
                "Versions": runs[0].get("versions", {}),
            },
            command=_command(runs),
            caveats=(*([PHANTOM_CAVEAT] if "phantom" in shared["data"] else []), *CAVEATS),
        ),
    )


def _headlines(runs: Sequence[Record]) -> list[Headline]:
    """Test Dice of every method with the most shots, best first."""
    rows = [row for row in summary(runs) if not row["caveat"]]  # what cannot be ranked is in the table only
    if not rows:
        return []
    most = max(row["shots"] for row in rows)
    ranked = sorted((row for row in rows if row["shots"] == most), key=lambda row: -row["dice"])
    return [
        Headline(row["method"], f"{row['dice']:.3f} ± {row['dice_std']:.3f}", f"Dice, {most} images", main=not place)
        for place, row in enumerate(ranked)
    ]


def _by_shots(runs: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Methods down, shots across."""
    rows = {(row["method"], row["shots"]): row for row in summary(runs)}
    shots = sorted({k for _, k in rows})
    methods = list(dict.fromkeys(method for method, _ in rows))
    shown = {key: f"{row['dice']:.3f} ± {row['dice_std']:.3f}" for key, row in rows.items()}
    cells = [[method, *(shown.get((method, k), "") for k in shots)] for method in methods]
    return ["Method", *(f"{k} images" for k in shots)], cells


def _about(method: str) -> str:
    return approaches.get(method).summary if method in approaches.names() else ""


def _command(runs: Sequence[Record]) -> str:
    shared = runs[0]["shared"]
    encoders = [run["own"]["encoder"] for run in runs if "encoder" in run["own"]]
    words = {
        "--data": "DIR",
        "--methods": ",".join(dict.fromkeys(run["method"] for run in runs)),
        "--shots": ",".join(map(str, sorted({run["shots"] for run in runs}))),
        "--seeds": str(max(run["seed"] for run in runs) + 1),
        "--out": "OUT",
        **({"--encoder": encoders[0]} if encoders else {}),
        "--budget": f"{shared['budget']:g}",
        "--max-steps": str(shared["max_steps"]),
        "--views": str(shared["views"]),
        "--views-kind": shared["views_kind"],
        "--image-size": str(shared["image_size"]),
        "--labels": ",".join(f"{name}={value}" for name, value in shared["labels"].items()),
    }
    return "blosam compare " + " ".join(f"{key} {value}" for key, value in words.items())
