"""From the files people have (masks as images, NIfTI labels, DICOM SEG, COCO, LabelMe) to a checked data set."""

from __future__ import annotations
