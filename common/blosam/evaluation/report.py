"""One self-contained ``report.html``: no script, nothing fetched, fit for showing and for printing."""

from __future__ import annotations

from pathlib import Path

from blosam import __version__
from blosam.atomicio import atomic_write
from blosam.evaluation import gallery, sections
from blosam.evaluation.report_data import (
    CAVEATS,
    PHANTOM_CAVEAT,
    Case,
    Curves,
    Gallery,
    Headline,
    Plots,
    ReportData,
    Table,
    TrainingImage,
    duration,
    metric_headlines,
)
from blosam.evaluation.report_style import STYLE

__all__ = [
    "CAVEATS",
    "PHANTOM_CAVEAT",
    "Case",
    "Curves",
    "Gallery",
    "Headline",
    "Plots",
    "ReportData",
    "Table",
    "TrainingImage",
    "duration",
    "metric_headlines",
    "render_report",
    "write_report",
]

# A browser that honours this fetches nothing, whatever a hostile file name might have smuggled in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(path: str | Path, report: ReportData) -> Path:
    """Write a report, atomically.

    Args:
        path: the HTML file; missing folders are made.
        report: what it shows; empty parts are left out.

    Returns:
        The path.

    Raises:
        BlosamError: the file cannot be written, or an image and its mask differ in shape.
    """
    content = render_report(report)
    with atomic_write(path, "w") as file:
        file.write(content)
    return Path(path)


def render_report(report: ReportData) -> str:
    """The page as HTML text.

    Names, captions and commands are escaped, and absolute paths in them are shortened to their last part, so
    that the page does not tell where it was made.

    Raises:
        BlosamError: an image and its mask differ in shape.
    """
    parts = [f"<header><h1>{sections.text(report.title)}</h1>"]
    if report.lead:
        parts.append(f'<p class="lead">{sections.text(report.lead)}</p>')
    parts.append("</header>")
    if report.headlines:
        parts.append(sections.headline_cards(report.headlines))
    if report.caveats:
        parts.append(sections.caveats_section(report.caveats))
    if report.steps:
        parts.append(sections.steps_section(report.steps))
    parts.extend(_further(part) for part in report.tables)
    if report.training:
        swapped = report.curves is not None and report.curves.roles_swapped
        parts.append(sections.training_section(report.training, report.class_names, swapped))
    if report.curves is not None:
        parts.append(sections.curves_section(report.curves))
    if report.cases:
        parts.append(sections.cases_section(report))
    if report.rows:
        parts.append(sections.table_section(report.rows))
    parts.append(sections.calibration_section(report.calibration))
    parts.append(sections.dicom_section(report))
    if report.command or any(report.facts.values()):
        parts.append(sections.facts_section(report.facts, report.command))
    parts.append(f"<footer>Made by blosam {sections.text(__version__)}.</footer>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{sections.text(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(part for part in parts if part)}\n</main>\n</body>\n</html>\n"
    )


def _further(part: Table | Plots | Gallery) -> str:
    if isinstance(part, Plots):
        return gallery.plots_section(part)
    return gallery.gallery_section(part) if isinstance(part, Gallery) else sections.plain_table(part)
