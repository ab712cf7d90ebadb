"""Inference for validation during training, where the frozen part need not be computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn import functional


class FrozenFeatureInferer(Inferer):
    """Full-size logits, with the frozen features of every file kept from the first time on.

    Used when part of the network is frozen and images come one at a time with a file name; every other
    call is a plain ``network(image)``. The kept features are dropped when a frozen weight has been changed.

    Args:
        max_images: keep at most this many (256 x g x g float32 each, 1 MiB for g = 32); more are computed anew.
    """

    def __init__(self, max_images: int = 512) -> None:
        super().__init__()
        self.max_images = max_images
        self._features: dict[tuple, Tensor] = {}
        self._valid_for: tuple | None = None

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Logits of images.

        Args:
            inputs: B x 3 x S x S in [0, 1].
            network: a ``BloSam``, or any function (then it is simply called).

        Returns:
            B x (K+1) x S x S.
        """
        name = _file_name(inputs)
        if not isinstance(network, nn.Module) or getattr(network, "keeps", "image") == "image" or name is None:
            return network(inputs, *args, **kwargs)
        signature = _signature(network)
        if signature != self._valid_for:
            self._features.clear()
            self._valid_for = signature
        key = (name, tuple(inputs.shape))
        features = self._features.get(key)
        if features is None:
            features = network.frozen_features(_plain(inputs))
            if len(self._features) < self.max_images:
                self._features[key] = features
        logits = network.logits_from(features)
        logits = functional.interpolate(logits, size=inputs.shape[-2:], mode="bilinear", align_corners=False)
        # As if the network had been called: MONAI's Invertd leaves plain tensors as they are, without an error.
        return MetaTensor(logits).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else logits


def _file_name(image: Tensor) -> str | None:
    """The file a batch of one was read from."""
    name = getattr(image, "meta", {}).get("filename_or_obj") if image.shape[0] == 1 else None
    if isinstance(name, (list, tuple)):
        name = name[0] if len(name) == 1 else None
    return None if name is None else str(name)


def _signature(network: nn.Module) -> tuple:
    """Changes whenever a frozen weight is written to (PyTorch counts in-place changes of every tensor)."""
    frozen = [p for p in network.parameters() if not p.requires_grad]
    return (id(network), *((p.data_ptr(), p._version) for p in frozen))


def _plain(image: Tensor) -> Tensor:
    return image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image)
