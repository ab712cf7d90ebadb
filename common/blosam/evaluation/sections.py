"""The sections of the report as HTML text; every word that comes from outside passes through `text`."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blosam.evaluation import plots
from blosam.evaluation.calibration import Calibration, number, share
from blosam.evaluation.overlay import (
    CLASS_COLOURS,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    data_uri,
    draw_overlay,
    encode_jpeg,
)
from blosam.evaluation.report_data import Case, Curves, Headline, ReportData, Table, TrainingImage
from blosam.evaluation.table import summarise

_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:\\|\\\\|~?/)[^\s\"'<>|,;]*[/\\](?=[^\s\"'<>|,;/\\]|[\s\"'<>|,;]|$)")
_NUMBER = re.compile(r"^[-+−]?[\d.,]+( ?(±|\+-) ?[\d.,]+)?( ?(%|mm|px|pixels|s|x))?$")


def text(value: object) -> str:
    """Any value as safe HTML text: markup is escaped and the folders of absolute paths become ``…/``."""
    return html.escape(_FOLDERS.sub("…/", str(value)), quote=True)


def headline_cards(headlines: Sequence[Headline]) -> str:
    """The row of numbers at the top."""
    cards = []
    for item in headlines:
        value, spread, rest = text(item.value).partition(" ±")
        shown = f"{value} <small>±{rest}</small>" if spread else value
        cards.append(
            f'<div class="headline{" main" if item.main else ""}"><div class="label">{text(item.label)}</div>'
            f'<div class="value">{shown}</div><div class="small">{text(item.note)}</div></div>'
        )
    return f'<div class="headlines">{"".join(cards)}</div>'


def steps_section(steps: Sequence[str]) -> str:
    """What was done, as a numbered list."""
    return section("What was done", "<ol>" + "".join(f"<li>{text(s)}</li>" for s in steps) + "</ol>")


def training_section(training: Sequence[TrainingImage], names: Mapping[int, str], roles_swapped: bool = False) -> str:
    """Every training image beside its mask, with the half it belongs to."""
    figures = []
    for item in training:
        options: dict[str, Any] = {"class_names": names, "legend": False, "max_side": 300, "min_side": 200}
        plain = _picture(draw_overlay(item.image, **options), f"{item.name}, image")
        marked = _picture(
            draw_overlay(item.image, truth=item.mask, fill=0.35, **options),
            f"{item.name}, mask",
        )
        kind = item.role.lower() if item.role in ("D1", "D2") else "other"
        mark = f'<span class="mark {kind}">{text(item.role)}</span>' if item.role else ""
        share = 100 * float((np.asarray(item.mask) > 0).mean())
        figures.append(
            f'<figure><div class="pair">{plain}{marked}</div>'
            f"<figcaption>{mark}<b>{text(item.name)}</b> · mask {share:.0f} % of the image"
            "</figcaption></figure>"
        )
    note = "Each labelled image beside its mask."
    if {"D1", "D2"} <= {item.role for item in training}:
        note += " Images marked D1 teach the weights, images marked D2 teach the prompt"
        note += "; the two change places after every step." if roles_swapped else "."
    layout = "pairs" if len(training) <= 4 else "tight"
    return section(
        f"Training data: {len(training)} labelled image{'s' if len(training) != 1 else ''}",
        f'<p class="note">{note}</p><div class="grid {layout}">{"".join(figures)}</div>',
    )


def curves_section(curves: Curves) -> str:
    """Losses, learning rate, validation and prompt."""
    figures = []
    if len(curves.iterations):
        caption = "Loss: every iteration (faint) and running mean."
        if len(curves.d2_loss) and not curves.roles_swapped:
            caption += " D2 took no part in training the weights, so a widening gap means overfitting."
        figures.append(plot_figure(plots.loss_plot(curves), caption))
    if len(curves.validation):
        caption = "Dice on the validation images; the circled weights were kept."
        figures.append(plot_figure(plots.validation_plot(curves), caption))
    if len(curves.learning_rate):
        figures.append(plot_figure(plots.learning_rate_plot(curves), "Learning rate of the weights."))
    if curves.prompt is not None and len(curves.prompt):
        prompt = np.asarray(curves.prompt).reshape(len(curves.prompt), -1)
        times = curves.prompt_iterations if len(curves.prompt_iterations) else curves.iterations
        caption = f"Prompt embedding ({prompt.shape[1]} numbers): distance from its start."
        figures.append(plot_figure(plots.prompt_change_plot(times, prompt), caption))
        if len(prompt) > 2:
            caption = "Its path, seen in the two directions in which it moved most; faint is early."
            figures.append(plot_figure(plots.prompt_path_plot(prompt), caption))
    return section("Training", f'<div class="grid plots">{"".join(figures)}</div>') if figures else ""


def cases_section(data: ReportData) -> str:
    """Best, median and worst case large, then the grid of all."""
    rows = rows_by_image(data.rows)
    ranked = sorted(data.cases, key=lambda case: -mean_dice(rows.get(case.name, [])))
    parts = [_legend(data)]
    scored = [case for case in ranked if case.name in rows]
    if len(scored) >= 3:
        chosen = [("Best", scored[0]), ("Median", scored[(len(scored) - 1) // 2]), ("Worst", scored[-1])]
        figures = "".join(_case(case, data, rows, 640, label) for label, case in chosen)
        parts.append(f'<div class="grid three">{figures}</div>')
    shown = ranked[: data.grid_limit]
    if len(scored) < 3 or len(ranked) > 3:
        title = "All images, best first" if scored else "All images"
        if len(shown) < len(ranked):
            title = f"The first {len(shown)} of {len(ranked)} images, best first"
        kind = "small" if len(shown) > 4 else "tight" if len(scored) >= 3 else "pairs"
        cells = "".join(_case(case, data, rows, 320) for case in shown)
        parts.append(f'<h3 style="margin-top:1.3rem">{title}</h3><div class="grid {kind}">{cells}</div>')
    return section(
        "Truth and prediction" if any(c.truth is not None for c in data.cases) else "Predictions",
        "".join(parts),
    )


def _case(case: Case, data: ReportData, rows: Mapping[str, list[Mapping[str, Any]]], side: int, label: str = "") -> str:
    """One overlay with its name and numbers, at most ``side`` pixels long."""
    drawn = draw_overlay(
        case.image,
        case.truth,
        case.pred,
        class_names=data.class_names,
        legend=False,
        max_side=side,
        min_side=side // 2,
    )
    own = rows.get(case.name, [])
    numbers = ""
    if own:
        distance = float(np.mean([row["hd95"] for row in own]))
        unit = text({"pixels": "px"}.get(own[0]["unit"], own[0]["unit"]))
        numbers = f'<br><span class="nb">Dice <b>{mean_dice(own):.3f}</b></span>'
        numbers += f'<br><span class="nb">HD95 {distance:.1f} {unit}</span>'
    rank = f'<span class="rank">{text(label)}</span>' if label else ""
    caption = f"<figcaption><b>{text(case.name)}</b>{numbers}</figcaption>"
    return f"<figure>{rank}{_picture(drawn, case.name)}{caption}</figure>"


def table_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per image and class with small bars, worst Dice first, and mean and deviation below."""
    several = len({row["class"] for row in rows}) > 1
    longest = max((row["hd95"] for row in rows), default=0.0)
    unit = {row["unit"] for row in rows}
    same = unit.pop() if len(unit) == 1 else ""
    tolerance = f" within {summarise(())['surface_tolerance']:g} {same}" if same else ""
    distance = f"HD95{f' ({same})' if same else ''}"
    columns = ["Image", *(["Class"] if several else []), "Dice", distance, f"Surface Dice{tolerance}"]
    head = "".join(f"<th{'' if c in ('Image', 'Class') else NUMBER}>{text(c)}</th>" for c in columns)
    body = []
    for row in sorted(rows, key=lambda r: (r["dice"], r["image"])):
        own_unit = "" if same else f" {row['unit']}"
        body.append(
            f'<tr><td class="name">{text(row["image"])}</td>'
            + (f"<td>{text(row['class'])}</td>" if several else "")
            + _number(f"{row['dice']:.3f}", row["dice"])
            + _number(f"{row['hd95']:.1f}{text(own_unit)}", row["hd95"] / longest if longest else 0.0, "low")
            + _number(f"{row['surface_dice']:.3f}", row["surface_dice"])
            + "</tr>"
        )
    foot = "".join(
        f"<tr><td>{text(name)}</td>{'<td></td>' if several else ''}" + "".join(_number(v) for v in values) + "</tr>"
        for name, values in _foot(rows, bool(same))
    )
    note = (
        "Measured on the pixel grid of the source images. Dice: 1 is a perfect overlap. HD95: 95 % of the "
        "boundary lies closer than this. Surface Dice: share of the boundary within the tolerance. "
        "Long orange bars are bad, long blue bars are good."
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody><tfoot>{foot}</tfoot></table>"
    return section("Every image", f'<p class="note">{note}</p><div class="scroll">{table}</div>')


NUMBER = ' class="number"'


def _foot(rows: Sequence[Mapping[str, Any]], same_unit: bool) -> list[tuple[str, list[str]]]:
    """(label, the three cells) of the lines below the table."""
    total = summarise(rows)["all"]
    unit = next(iter(total["hd95"]), "")
    kinds = (
        ("dice", total["dice"], 3),
        ("hd95", total["hd95"].get(unit), 1),
        ("surface_dice", total["surface_dice"].get(unit), 3),
    )
    lines = []
    for name, form in (("Mean ± SD over images", "{mean:.{d}f} ± {std:.{d}f}"), ("Median", "{median:.{d}f}")):
        cells = [form.format(**v, d=d) if v and (same_unit or key == "dice") else "" for key, v, d in kinds]
        lines.append((name, cells))
    return lines


def plain_table(table: Table) -> str:
    """A table of given cells."""
    numeric = [
        _numeric([str(row[i]).partition("\n")[0].strip() for row in table.rows if i < len(row)])
        for i in range(len(table.header))
    ]
    head = "".join(f"<th{NUMBER if n else ''}>{text(c)}</th>" for c, n in zip(table.header, numeric, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{NUMBER if n else ''}>{_lines(c)}</td>" for c, n in zip(row, numeric, strict=False))
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note" style="margin-top:.7rem">{text(table.note)}</p>' if table.note else ""
    content = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}'
    return section(table.title, content)


def _numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers and nothing else, apart from cells that are empty."""
    filled = [cell for cell in cells if cell not in ("", "–")]
    return bool(filled) and all(_NUMBER.match(cell) for cell in filled)


def _lines(cell: object) -> str:
    """A cell whose further lines are smaller."""
    first, *further = str(cell).split("\n")
    return text(first) + "".join(f'<br><small class="below">{text(line)}</small>' for line in further)


def dicom_section(data: ReportData) -> str:
    """The DICOM image as it is and with its mask."""
    case = data.dicom
    if case is None:
        return ""
    options: dict[str, Any] = {
        "class_names": data.class_names,
        "legend": False,
        "max_side": 512,
        "min_side": 256,
    }
    plain = draw_overlay(case.image, **options)
    marked = draw_overlay(case.image, case.truth, case.pred, fill=0.3, **options)
    pictures = (
        f"<figure>{_picture(plain, 'DICOM image')}<figcaption><b>{text(case.name)}</b></figcaption></figure>"
        f"<figure>{_picture(marked, 'DICOM image with mask')}"
        "<figcaption>with the predicted mask</figcaption></figure>"
    )
    facts = _facts_table(data.dicom_facts) if data.dicom_facts else ""
    return section(
        "A DICOM image, segmented",
        f'<div class="grid three">{pictures}<div class="facts">{facts}</div></div>',
    )


def calibration_section(found: Calibration | None) -> str:
    """Does the confidence tell good masks from bad ones: scatter plot and table of thresholds."""
    if found is None or len(found.names) < 3:
        return ""
    summary = found.summary()
    rank = summary["rank_correlation"]
    header = ["Below", "Flagged", "Dice of the kept", "Dice of the flagged", "Failures caught"]
    rows = [
        [f"{item['threshold']:.2f}", share(item["flagged"]), number(item["kept_dice"]), number(item["flagged_dice"])]
        + [share(item["failures_caught"])]
        for item in summary["thresholds"]
    ]
    note = (
        f"Confidence from {found.source} on {summary['images']} images, {summary['failures']} with a Dice below "
        f"{summary['failure_below_dice']}. {found.note} Rank correlation "
        f"{'not defined' if rank is None else f'{rank:.2f}'}. On other images these "
        "numbers will differ, so measure them with `blosam evaluate` before relying on --min-confidence."
    )
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    plot = plot_figure(plots.calibration_plot(found), "One point per image.")
    return section("How sure is it?", f'<p class="note">{text(note)}</p><div class="grid plots">{plot}</div>{table}')


def facts_section(facts: Mapping[str, Mapping[str, str]], command: str) -> str:
    """Versions, seed, timings and the command."""
    groups = "".join(f"<div><h3>{text(name)}</h3>{_facts_table(group)}</div>" for name, group in facts.items() if group)
    again = f'<h3 style="margin-top:1rem">Command</h3><pre>{text(command)}</pre>' if command else ""
    return section("How to get the same numbers", f'<div class="facts">{groups}</div>{again}')


def caveats_section(caveats: Sequence[str]) -> str:
    """What a reader must know before using the numbers."""
    items = "".join(f"<li>{text(c)}</li>" for c in caveats)
    return f'<section class="warning"><h2>Before you use this</h2><ul class="caveats">{items}</ul></section>'


def rows_by_image(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of the table grouped by the image's name."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["image"], []).append(row)
    return groups


def mean_dice(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean Dice of the classes of one image; -1 for an image that was not measured, which ranks it last."""
    return float(np.mean([row["dice"] for row in rows])) if rows else -1.0


def section(title: str, content: str) -> str:
    """A part of the page with its heading; ``content`` is HTML."""
    return f"<section><h2>{text(title)}</h2>{content}</section>"


def _picture(drawn: np.ndarray, alternative: str) -> str:
    height, width = drawn.shape[:2]
    address = data_uri(encode_jpeg(drawn), "jpeg")
    return f'<img src="{address}" width="{width}" height="{height}" alt="{text(alternative)}">'


def plot_figure(svg: str, caption: str) -> str:
    """A chart with its caption, which is also what a screen reader says; a first line of two is a name."""
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{text(": ".join(caption.split(chr(10))))}"', 1)
    name, line_break, rest = caption.partition("\n")
    shown = f"<b>{text(name)}</b><br>{text(rest)}" if line_break else text(caption)
    return f'<figure class="plot">{svg}<figcaption>{shown}</figcaption></figure>'


def _number(shown: str, share: float | None = None, kind: str = "") -> str:
    """A cell with a number and, when ``share`` in [0, 1] is given, a bar of that length."""
    if share is None:
        return f'<td class="number">{shown}</td>'
    width = 100 * min(1.0, max(0.0, share))
    return f'<td class="number">{shown}<span class="bar {kind}"><i style="width:{width:.1f}%"></i></span></td>'


def _facts_table(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<tr><td>{text(k)}</td><td>{text(v)}</td></tr>" for k, v in facts.items())
    return f"<table><tbody>{lines}</tbody></table>"


def _legend(data: ReportData) -> str:
    """Which colour is what in the pictures below."""
    names = data.class_names
    classes = sorted(set(names) or {int(v) for c in data.cases for v in np.unique(c.pred)} - {0})
    if len(classes) <= 1:
        entries = [(TRUTH_COLOUR, "", "truth")] if any(c.truth is not None for c in data.cases) else []
        entries.append((PREDICTION_COLOUR, "", "prediction"))
    else:
        entries = [(CLASS_COLOURS[(i - 1) % len(CLASS_COLOURS)], "area", names.get(i, f"class {i}")) for i in classes]
    items = [
        f'<li><i class="{kind}" style="background:rgb{colour}"></i>{text(name)}</li>' for colour, kind, name in entries
    ]
    if len(classes) > 1 and any(c.truth is not None for c in data.cases):
        items.append("<li>line: truth, area: prediction</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'
