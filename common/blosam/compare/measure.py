"""Measuring a network on files, at their native resolution, with the transforms the bundles evaluate with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, default_prepare_batch
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, LoadImaged
from torch import nn

from blosam.data import Canonical2Dd, ResizeLongestPadd
from blosam.evaluation import PerImageTable

_READER = "blosam.dicom.ClinicalReader"


def training_transform(num_classes: int, size: int) -> Compose:
    """From files to ``image`` 3 x S x S in [0, 1] and ``label`` 1 x S x S.

    Args:
        num_classes: K.
        size: S.
    """
    return _preprocessing(num_classes, size, ("image", "label"))


def evaluation_transforms(num_classes: int, size: int) -> tuple[Compose, Compose]:
    """Preprocessing that leaves ``label`` on its own grid, and postprocessing of ``pred`` onto that grid.

    Padding and resizing are undone on the logits; softmax and argmax come after.
    """
    before = _preprocessing(num_classes, size, ("image",))
    after = Compose(
        [
            Invertd(["pred", "label"], before, ["image", "label"], nearest_interp=False, to_tensor=True),
            Activationsd("pred", softmax=True),
            AsDiscreted("pred", argmax=True),
        ]
    )
    return before, after


def segmenting_transforms(size: int) -> tuple[Compose, Compose]:
    """The same for an image without a label: what has to be done for a mask on the grid of the file."""
    before = Compose(
        [
            LoadImaged("image", reader=_READER, image_only=True),
            Canonical2Dd("image"),
            ResizeLongestPadd("image", size=size),
        ]
    )
    after = Compose(
        [
            Invertd("pred", before, "image", nearest_interp=False, to_tensor=True),
            Activationsd("pred", softmax=True),
            AsDiscreted("pred", argmax=True),
        ]
    )
    return before, after


def measure(
    network: nn.Module, pairs: Sequence[Mapping[str, str]], labels: Mapping[str, int], size: int, device: str
) -> list[dict[str, Any]]:
    """One row per image and class.

    Args:
        network: B x 3 x S x S -> logits B x (K+1) x S x S. Only one that says ``needs_truth = True`` is also handed
            the true mask, B x 1 x H x W on the image's own grid: it reads prompts off it.
        pairs: ``{"image": path, "label": path}`` items.
        labels: class name to value.
        size: S; a network that says its own ``image_size`` is measured at that.
        device: where the network is.

    Returns:
        Rows as in :data:`blosam.evaluation.table.COLUMNS`.

    Raises:
        RuntimeError: when a file cannot be read; the ``BlosamError`` is its cause.
    """
    with tempfile.TemporaryDirectory() as folder:  # the handler writes a table of its own, which is not needed
        handler = PerImageTable(folder, labels)
        return evaluate(network, pairs, len(labels), size, device, handler).state.table["rows"]


def evaluate(
    network: nn.Module, pairs: Sequence[Mapping[str, str]], num_classes: int, size: int, device: str, handler: Any
) -> SupervisedEvaluator:
    """Segment images one by one; the handler finds each with its masks on the grid of the source.

    Args:
        network: as for :func:`measure`.
        pairs: as for :func:`measure`.
        num_classes: K.
        size: S.
        device: where the network is.
        handler: attached to the evaluator.

    Returns:
        The evaluator, after its run.
    """
    before, after = evaluation_transforms(num_classes, getattr(network, "image_size", size))
    evaluator = SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=DataLoader(Dataset(list(pairs), before), batch_size=1, num_workers=0),
        network=network,
        prepare_batch=_with_truth if needs_truth(network) else default_prepare_batch,
        postprocessing=after,
        val_handlers=[handler],
    )
    evaluator.run()
    return evaluator


def needs_truth(network: nn.Module) -> bool:
    """Whether a network reads prompts off the true mask."""
    return getattr(network, "needs_truth", False)


def _with_truth(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Any, Any, tuple[Any], dict[str, Any]]:
    """Image, label, and the label once more as the network's second argument."""
    image, label = default_prepare_batch(batch, *args, **kwargs)
    return image, label, (label,), {}


def _preprocessing(num_classes: int, size: int, resized: tuple[str, ...]) -> Compose:
    return Compose(
        [
            LoadImaged("image", reader=_READER, image_only=True),
            LoadImaged("label", reader=_READER, mode="label", num_classes=num_classes, image_only=True),
            Canonical2Dd(("image", "label")),
            ResizeLongestPadd(resized, size=size),
        ]
    )
