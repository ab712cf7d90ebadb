"""From files to training batches: lists, checks, preprocessing, views, the D1/D2 split and the feature bank.

Names are resolved on first use, so that importing one of them does not pull in the others.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "BilevelLoader": "loader",
    "Canonical2Dd": "transforms",
    "FeatureBank": "bank",
    "FewShotDataset": "fewshot",
    "ResizeLongestPadd": "transforms",
    "SaveImaged": "save",
    "SelectionDataset": "datalist",
    "check_pairs": "checks",
    "d1_d2_split": "split",
    "default_views": "views",
    "evaluation_list": "fewshot",
    "list_images": "fewshot",
    "load_split": "datalist",
    "save_split": "datalist",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` and return it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return __all__
