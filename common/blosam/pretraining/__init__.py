"""Promptable pretraining of the embedded model on images this project draws itself.

``shapes`` and ``blosam.data.phantoms`` draw, ``appearance`` disguises, ``samples`` makes batches, ``model`` and
``objective`` say what is learned, ``loop`` learns it. No photograph and no patient image takes part.
"""

from __future__ import annotations
