"""One module for each `blosam` command; each imports PyTorch only when it runs."""

from __future__ import annotations
