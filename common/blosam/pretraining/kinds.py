"""The kinds of drawings and the channels each has in the auxiliary dense head."""

from __future__ import annotations

from .shapes import DENSE_CHANNELS as SHAPE_CHANNELS

TASK_CHANNELS = 4  # classes of the task mask
LABEL_CHANNELS = 12  # structures that exclude each other
OVERLAY_CHANNELS = 8  # structures that lie over others
ANATOMY_CHANNELS = TASK_CHANNELS + LABEL_CHANNELS + OVERLAY_CHANNELS

KINDS = ("shapes", "chest", "dental", "colonoscopy")
DENSE_OFFSETS = {
    "shapes": 0,
    "chest": SHAPE_CHANNELS,
    "dental": SHAPE_CHANNELS + ANATOMY_CHANNELS,
    "colonoscopy": SHAPE_CHANNELS + 2 * ANATOMY_CHANNELS,
}
TOTAL_DENSE = SHAPE_CHANNELS + 3 * ANATOMY_CHANNELS
