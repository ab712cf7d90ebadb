"""The numbers of one training step, in the form MONAI's handlers look for."""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import Any


class StepOutput(list):
    """A list of one dictionary, which is how MONAI's engines leave ``engine.state.output``; also read by name.

    MONAI's ``from_engine(["loss"], first=True)``, which ``--tracking mlflow`` and MONAI Label use, gives a number only
    for such a list: for a bare dictionary it gives a tuple, which cannot be logged.

    Args:
        values: name to number.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__([dict(values)])

    def __getitem__(self, key: Any) -> Any:
        """A number by name, or the dictionary by position."""
        return super().__getitem__(0)[key] if isinstance(key, str) else super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a number by name."""
        if isinstance(key, str):
            super().__getitem__(0)[key] = value
        else:
            super().__setitem__(key, value)

    def __contains__(self, key: object) -> bool:
        """Whether there is a number of that name."""
        return key in super().__getitem__(0)

    def keys(self) -> KeysView[str]:
        """The names; with ``[]`` this makes ``{**output}`` work."""
        return super().__getitem__(0).keys()

    def get(self, key: str, default: float | None = None) -> float | None:
        """A number by name, or the default."""
        return super().__getitem__(0).get(key, default)
