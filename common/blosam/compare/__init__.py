"""Methods against each other on the same few images, the same views and the same time: ``blosam compare``."""

from __future__ import annotations
