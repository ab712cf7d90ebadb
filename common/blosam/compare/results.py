"""Files of a comparison: one record per run, the table of all images, and the summaries over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blosam.atomicio import atomic_write
from blosam.compare import approaches
from blosam.compare.budget import WALL
from blosam.errors import BlosamError
from blosam.evaluation.table import mean_std, summarise, write_rows

COLUMNS = ("method", "shots", "seed", "split", "image", "class", "dice", "hd95", "surface_dice")
"""Columns of ``results.csv``; the unit of ``hd95`` is in ``tables/units.csv``."""

ROW_COLUMNS = ("split", "image", "class", "dice", "hd95", "surface_dice", "unit")
"""What a run's file keeps per image and class."""

SUMMARY_COLUMNS = (
    "method", "recipe", "shots", "seeds", "dice", "dice_std", "train_dice", "surface_dice", "hd95", "hd95_unit",
    "difference_to_unet", "difference_std", "steps", "seconds", "encoding_seconds",
    "processor_seconds", "trained_parameters", "parameters", "caveat",
)  # fmt: skip
UNIT_COLUMNS = ("image", "hd95_unit")
PAIRED_COLUMNS = ("method", "shots", "seed", "dice", "unet_dice", "difference")
BASELINE = "unet"
Record = dict[str, Any]


def write_run(path: Path, record: Mapping[str, Any]) -> None:
    """Write one run, atomically: settings readable, one line per image and class."""
    compact = ("curve", "pictures")
    head = {key: value for key, value in record.items() if key not in ("rows", *compact)} | {"columns": ROW_COLUMNS}
    lines = [json.dumps([_rounded(row[key]) for key in ROW_COLUMNS]) for row in record["rows"]]
    text = json.dumps(head, indent=1).removesuffix("\n}")
    text += "".join(f',\n "{key}": {json.dumps(record[key])}' for key in compact if key in record)
    with atomic_write(path, "w") as file:
        file.write(text + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")


def read_run(path: Path) -> Record:
    """Read what :func:`write_run` wrote.

    Raises:
        BlosamError: when it is no such file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["rows"] = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
        needed = {"method", "shots", "seed", "shared", "own", "steps", "seconds", "parameters"}
        if not needed <= record.keys() or any(set(ROW_COLUMNS) - row.keys() for row in record["rows"]):
            raise KeyError("incomplete")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlosamError(f"{path}: not a finished run. Delete it; the next comparison makes it again.") from error
    return record


def run_files(out: Path) -> list[Path]:
    """Files of the finished runs in a comparison's folder."""
    # Another process may be writing one, under a temporary name that begins with a dot.
    return sorted(path for path in (out / "runs").glob("*.json") if not path.name.startswith("."))


def read_runs(out: Path) -> list[Record]:
    """All finished runs of a comparison's folder, by method (in the registry's order), shots and seed."""
    order = {name: number for number, name in enumerate(approaches.names())}
    runs = [read_run(path) for path in run_files(out)]
    return sorted(runs, key=lambda r: (order.get(r["method"], len(order)), r["method"], r["shots"], r["seed"]))


def write_tables(out: Path, runs: Sequence[Record]) -> None:
    """Write ``results.csv``, and ``summary.csv``, ``summary.md``, ``paired.csv`` and ``units.csv`` in ``tables/``.

    The tables of the report are written with it, because they take longer than a run may wait for.
    """
    rows = [{**row, **{key: run[key] for key in ("method", "shots", "seed")}} for run in runs for row in run["rows"]]
    write_rows(out / "results.csv", rows, COLUMNS)
    tables = out / "tables"
    units = sorted({row["image"]: row["unit"] for row in rows}.items())
    write_rows(tables / "units.csv", [{"image": name, "hd95_unit": unit} for name, unit in units], UNIT_COLUMNS)
    write_rows(tables / "paired.csv", paired(runs), PAIRED_COLUMNS)
    write_rows(tables / "summary.csv", summary(runs), SUMMARY_COLUMNS)
    with atomic_write(tables / "summary.md", "w") as file:
        file.write(markdown(runs))


def mean_dice(rows: Iterable[Mapping[str, Any]], split: str) -> float:
    """Mean Dice over the images of a split, every image counting once with the mean of its classes."""
    images: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == split:
            images.setdefault(row["image"], []).append(row["dice"])
    return statistics.fmean(statistics.fmean(classes) for classes in images.values())


def paired(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """Test Dice of every run minus that of the U-Net with the same images and seed; nothing without a U-Net."""
    dice = {(r["method"], r["shots"], r["seed"]): mean_dice(r["rows"], "test") for r in runs}
    found = []
    for (method, shots, seed), value in dice.items():
        reference = dice.get((BASELINE, shots, seed))
        if method != BASELINE and reference is not None:
            values = (method, shots, seed, value, reference, value - reference)
            found.append(dict(zip(PAIRED_COLUMNS, values, strict=True)))
    return found


def summary(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """One row per method and number of shots, with the keys of ``SUMMARY_COLUMNS``.

    ``dice`` is the mean over seeds of the mean test Dice and ``dice_std`` the sample standard deviation over seeds.
    ``hd95`` is left empty when images have different units; differences are left empty without a U-Net.
    """
    groups: dict[tuple[str, int], list[Record]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["shots"]), []).append(run)
    differences: dict[tuple[str, int], list[float]] = {}
    for row in paired(runs):
        differences.setdefault((row["method"], row["shots"]), []).append(row["difference"])
    return [_summary_row(key, group, differences.get(key, [])) for key, group in groups.items()]


def _summary_row(key: tuple[str, int], runs: Sequence[Record], differences: Sequence[float]) -> dict[str, Any]:
    tests = [summarise(row for row in run["rows"] if row["split"] == "test")["all"] for run in runs]
    dice = mean_std([test["dice"]["mean"] for test in tests])
    units = {unit for test in tests for unit in test["hd95"]}
    unit = units.pop() if len(units) == 1 else ""
    difference = mean_std(differences)
    return {
        "method": key[0],
        "recipe": runs[0]["own"].get("recipe", key[0]),
        "shots": key[1],
        "seeds": len(runs),
        "dice": dice["mean"],
        "dice_std": dice["std"],
        "train_dice": statistics.fmean(mean_dice(run["rows"], "train") for run in runs),
        "surface_dice": statistics.fmean(t["surface_dice"][unit]["mean"] for t in tests) if unit else "",
        "hd95": statistics.fmean(t["hd95"][unit]["mean"] for t in tests) if unit else "",
        "hd95_unit": unit,
        "difference_to_unet": difference["mean"] if differences else "",
        "difference_std": difference["std"] if differences else "",
        "steps": statistics.fmean(run["steps"] for run in runs),
        "seconds": statistics.fmean(run["seconds"]["training"] for run in runs),
        "encoding_seconds": statistics.fmean(run["seconds"]["encoding"] for run in runs),
        "processor_seconds": statistics.fmean(run["seconds"]["processor"] for run in runs),
        "trained_parameters": runs[0]["parameters"]["trained"],
        "parameters": runs[0]["parameters"]["total"],
        "caveat": runs[0].get("caveat", ""),
    }


def readable(runs: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the summary as people read it; the report and ``summary.md`` share it."""
    header = ["Method", "Shots", "Test Dice", "Train Dice", "Surface Dice", "HD95", "Minus U-Net", "per seed",
              "Steps", "Seconds", "Trained"]  # fmt: skip
    each: dict[tuple[str, int], list[str]] = {}
    for row in paired(runs):
        each.setdefault((row["method"], row["shots"]), []).append(f"{row['difference']:+.3f}")
    cells = []
    for row in sorted(summary(runs), key=lambda r: (r["shots"], bool(r["caveat"]), -r["dice"])):
        name = row["method"] if row["recipe"] == row["method"] else f"{row['method']} ({row['recipe']})"
        name += f" [{row['caveat']}]" if row["caveat"] else ""
        distance = f"{row['hd95']:.1f} {row['hd95_unit']}" if row["hd95_unit"] else ""
        difference = row["difference_to_unet"]
        cells.append(
            [
                name,
                str(row["shots"]),
                f"{row['dice']:.3f} ± {row['dice_std']:.3f}",
                f"{row['train_dice']:.3f}",
                f"{row['surface_dice']:.3f}" if row["hd95_unit"] else "",
                distance,
                f"{difference:+.3f} ± {row['difference_std']:.3f}" if difference != "" else "",
                ", ".join(each.get((row["method"], row["shots"]), [])),
                f"{row['steps']:.0f}",
                f"{row['seconds']:.0f}",
                f"{row['trained_parameters']:,}",
            ]
        )
    return header, cells


def protocol(runs: Sequence[Record]) -> list[str]:
    """How the numbers were made, one sentence each."""
    shared = runs[0]["shared"]
    seeds = sorted({run["seed"] for run in runs})
    return [
        f"Data: {shared['data']}. For each number of shots and each seed ({', '.join(map(str, seeds))}), every method "
        "trains on the same images; all images of other patients or groups are the test.",
        f"Every method sees the same {shared['views']} augmented views of each image at {shared['image_size']} pixels, "
        "and bilevel methods the same halves D1 and D2.",
        f"Every method trains for at most {shared['budget']:g} seconds {_clock(shared)}, encoding the views included, "
        f"and at most {shared['max_steps']} steps; its learning rate has decayed when the first of the two is used up.",
        "The weights after the last step are measured, for every method: no image chooses a checkpoint.",
        "Dice, HD95 and surface Dice are measured on the pixel grid of the source images. Values are means over seeds "
        "of the mean over test images, ± the sample standard deviation over seeds.",
    ]


def markdown(runs: Sequence[Record]) -> str:
    """The summary as a Markdown table with the protocol above it."""
    header, cells = readable(runs)
    lines = [f"- {sentence}" for sentence in protocol(runs)]
    lines += ["", f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def _clock(shared: Mapping[str, Any]) -> str:
    """What the seconds of the budget are."""
    if shared.get("clock", WALL) == WALL:  # runs of earlier versions do not say
        shared_by = shared.get("runs_per_gpu", 1)
        return "on the clock" if shared_by == 1 else f"on the clock of a GPU that {shared_by} runs share"
    threads = shared["threads"]
    return "of processor time on one thread" if threads == 1 else f"of processor time, summed over {threads} threads"


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
