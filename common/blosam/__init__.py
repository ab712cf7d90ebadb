"""Few-shot medical image segmentation by bi-level adaptation of the Segment Anything Model."""

from __future__ import annotations

__version__ = "0.1.0"
