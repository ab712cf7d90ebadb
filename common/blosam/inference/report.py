"""The page about a run: what was found in each input, with pictures, warnings and confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blosam.evaluation.report import write_report
from blosam.evaluation.report_data import Case, Headline, ReportData, Table, duration
from blosam.inference.record import Record, RunFolder
from blosam.inference.thumbnails import load

if TYPE_CHECKING:
    from blosam.inference.session import Summary

MAX_PICTURES = 120
_ORDER = ("needs review", "failed", "done", "ignored")  # what a person has to look at comes first
CAVEATS = (
    "Not for clinical use: this is research software, its masks must not guide a diagnosis or a treatment.",
    "The masks were drawn by a program and checked by nobody. Look at every one before you use it.",
)


def write_run_report(path: Path, folder: Path, summary: Summary, labels: Mapping[str, int]) -> Path:
    """Write the page.

    Args:
        path: the HTML file.
        folder: of the results, with the small pictures.
        summary: of the run.
        labels: class name to value.

    Returns:
        The path.

    Raises:
        BlosamError: when it cannot be written.
    """
    records = sorted(summary.records, key=lambda record: (_ORDER.index(record["status"]), record["position"]))
    segmented = [record for record in records if record["status"] in ("done", "needs review")]
    pictures = _cases(RunFolder(folder, ""), segmented)
    bundle = summary.head["bundle"]
    lead = f"{bundle['name']}, version {bundle['version']}, on {len(summary.records)} inputs."
    if len(pictures) < len(segmented):
        lead += f" Pictures of the first {len(pictures)}; the tables have all."
    return write_report(
        path,
        ReportData(
            title="Segmented images",
            lead=lead,
            headlines=_headlines(summary, labels),
            cases=pictures,
            class_names={value: name for name, value in labels.items()},
            tables=_tables(records, labels),
            facts={"Run": _facts(summary.head), "Versions": summary.head["versions"]},
            caveats=CAVEATS,
            grid_limit=MAX_PICTURES,
        ),
    )


def _cases(folder: RunFolder, records: Sequence[Record]) -> list[Case]:
    cases = []
    for record in records[:MAX_PICTURES]:
        stored = load(folder.thumbnails, record["name"])
        if stored is None:
            continue
        image, mask, frame = stored
        name = record["name"]
        if record["geometry"]["frames"] > 1:
            word = "slice" if record["geometry"]["kind"] == "nifti" else "frame"
            name += f", {word} {frame + 1} of {record['geometry']['frames']}"
        if record["status"] == "needs review":
            name += ", needs review"
        cases.append(Case(name, image, None, mask))
    return cases


def _headlines(summary: Summary, labels: Mapping[str, int]) -> list[Headline]:
    segmented = [r for r in summary.records if r["status"] in ("done", "needs review")]
    found = [Headline("Segmented", str(len(segmented)), f"of {len(summary.records)} inputs", main=True)]
    for status, words in (
        ("needs review", "confidence below the limit"),
        ("failed", "see the reasons below"),
        ("ignored", "no images"),
    ):
        if summary.count(status):
            found.append(Headline(status.capitalize(), str(summary.count(status)), words))
    for name in labels:
        empty = sum(record["areas"][name]["pixels"] == 0 for record in segmented)
        if empty:
            found.append(Headline(f"No {name} found", str(empty), "inputs with an empty mask"))
    return [*found, Headline("Time", duration(summary.head["seconds"]), summary.head["device"])]


def _tables(records: Sequence[Record], labels: Mapping[str, int]) -> list[Table]:
    segmented = [record for record in records if record["status"] in ("done", "needs review")]
    others = [record for record in records if record not in segmented]
    tables = []
    if segmented:
        measured = any("mm2" in record["areas"][name] for record in segmented for name in labels)
        header = ["Input", "Status", "Rows x columns", *(f"{name}, pixels" for name in labels)]
        header += [f"{name}, mm2" for name in labels] if measured else []
        header += ["Confidence", "Warnings"]
        note = "Areas in mm2 use the spacing that the file states; for radiographs it may be that of the detector."
        rows = [_row(record, labels, measured) for record in segmented]
        tables.append(Table("What was found", header, rows, note if measured else ""))
    if others:
        rows = [[record["name"], record["status"], record["reason"]] for record in others]
        tables.append(Table("Not segmented", ["Input", "Status", "Reason"], rows))
    return tables


def _row(record: Record, labels: Mapping[str, int], measured: bool) -> list[str]:
    geometry, areas = record["geometry"], record["areas"]
    frames = f", {geometry['frames']} frames" if geometry["frames"] > 1 else ""
    confidence = record["confidence"]
    row = [record["name"], record["status"], f"{geometry['rows']} x {geometry['columns']}{frames}"]
    row += [str(areas[name]["pixels"]) for name in labels]
    row += [f"{areas[name]['mm2']:.0f}" if "mm2" in areas[name] else "" for name in labels] if measured else []
    return [*row, "" if confidence is None else f"{confidence:.2f}", " ".join(record["warnings"])]


def _facts(head: Mapping[str, Any]) -> dict[str, str]:
    settings = head["settings"]
    return {
        "Bundle SHA-256": head["bundle"]["sha256"],
        "Started": head["started"],
        "Device": head["device"],
        "Formats": ", ".join(settings["formats"]),
        "Slice axis": str(settings["axis"]),
        "Processes": str(head["processes"]),
    }
