"""How good a segmentation is: metrics at native resolution, tables, overlays and the report."""

from __future__ import annotations

from blosam.evaluation.metrics import NativeDice, image_metrics
from blosam.evaluation.overlay import draw_overlay
from blosam.evaluation.table import PerImageTable, headline, read_rows, summarise, write_rows

__all__ = [
    "NativeDice",
    "PerImageTable",
    "draw_overlay",
    "headline",
    "image_metrics",
    "read_rows",
    "summarise",
    "write_rows",
]
