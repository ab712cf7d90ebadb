"""Reading and writing medical image files."""

from __future__ import annotations

from blosam.dicom.reader import ClinicalReader

__all__ = ["ClinicalReader"]
