"""Sections with several charts or pictures: what a comparison shows of every method."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from blosam.evaluation.overlay import data_uri
from blosam.evaluation.report_data import Gallery, Plots
from blosam.evaluation.sections import plot_figure, section, text

_LAYOUTS = {"medium": "grid plots", "small": "grid charts"}


def plots_section(part: Plots) -> str:
    """Charts, as many beside each other as their size allows."""
    figures = "".join(plot_figure(svg, caption) for svg, caption in part.charts)
    if part.size == "large":
        content = figures.replace('class="plot"', 'class="plot large"')
    else:
        content = f'<div class="{_LAYOUTS[part.size]}">{figures}</div>'
    return section(part.title, _note(part.note) + _legend(part.legend) + content)


def gallery_section(part: Gallery) -> str:
    """Pictures in groups of three."""
    groups = []
    for name, pictures in part.groups:
        figures = "".join(_figure(name, content, caption) for content, caption in pictures)
        groups.append(f'<div class="group"><h3>{text(name)}</h3><div class="triple">{figures}</div></div>')
    content = f'<div class="grid groups">{"".join(groups)}</div>'
    return section(part.title, _note(part.note) + _legend(part.legend) + content)


def _figure(group: str, content: bytes, caption: str) -> str:
    width, height = Image.open(io.BytesIO(content)).size
    alternative = text(f"{group}: {' '.join(caption.split())}")
    shown = "<br>".join(text(line) for line in caption.split("\n"))
    return (
        f'<figure><img src="{data_uri(content, "jpeg")}" width="{width}" height="{height}" alt="{alternative}">'
        f"<figcaption>{shown}</figcaption></figure>"
    )


def _note(note: str) -> str:
    return f'<p class="note">{text(note)}</p>' if note else ""


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = [f'<li><i style="background:{text(colour)}"></i>{text(words)}</li>' for colour, words in entries]
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""
