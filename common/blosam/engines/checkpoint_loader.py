"""Loading ``model.pt`` when a workflow starts, with the errors a user can act on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import CheckpointLoader as MonaiCheckpointLoader
from torch import nn

from blosam import weightsio
from blosam.errors import BlosamError

logger = logging.getLogger(__name__)


class CheckpointLoader(MonaiCheckpointLoader):
    """MONAI's loader with a strict, all-or-nothing load of a network and errors a user can act on.

    Keeps MONAI's class name, by which MONAI Label recognises a loader.

    Args:
        load_path: the file.
        load_dict: what it fills; one network is loaded strictly.
        labels: the bundle's classes, name -> value 1..K; weights that say they are for others are refused.
        kwargs: further arguments of MONAI's loader.
    """

    def __init__(
        self, load_path: str, load_dict: dict[str, Any], labels: Mapping[str, int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(load_path, load_dict, **kwargs)
        self.labels = labels

    def __call__(self, engine: Engine) -> None:
        """Load the file.

        Raises:
            BlosamError: when the file is missing, unreadable, or belongs to another network.
        """
        objects = list(self.load_dict.values())
        if self.strict and len(objects) == 1 and isinstance(objects[0], nn.Module):
            self.load()
            return
        if not Path(self.load_path).is_file():
            raise BlosamError(f"{self.load_path}: no such checkpoint. Train first, or give the path of one.")
        super().__call__(engine)

    def load(self) -> None:
        """Fill the one network of ``load_dict``, without an engine.

        Raises:
            BlosamError: when the file is missing, unreadable, or belongs to another network.
        """
        (network,) = self.load_dict.values()
        weightsio.load_strict(network, self.load_path, self.labels)
        logger.info("Loaded %s.", self.load_path)
