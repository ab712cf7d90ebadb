"""The one inference path: a bundle (or an exported ``model.ts``) and an image in, a mask on the image's grid out.

It runs the transforms and the inferer of the bundle's own inference config, without the saving step, so the command
line, the DICOM and NIfTI writers and the tests see exactly what ``monai.bundle run`` computes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, Transform

from blosam.bundle import root_cause
from blosam.inference.confidence import Judge, choose_source, views_for
from blosam.inference.sources import open_bundle


@dataclass(frozen=True)
class Prediction:
    """What one image gave.

    Args:
        path: the image file.
        mask: Rows x Columns uint8, 0 = background, 1..K = classes, on the source grid.
        probability: (K+1) x Rows x Columns float32 in [0, 1].
        image: Rows x Columns [x 3] float32 in [0, 1], as read, before any resizing.
        affine: 4 x 4, voxel (column, row) to RAS in ``unit``, as in the source.
        spacing: (row, column) distance in mm, or None when the file does not say.
        seconds: time from reading to mask.
        unit: of the affine, in NIfTI's words: meter, mm, micron or unknown.
    """

    path: Path
    mask: np.ndarray
    probability: np.ndarray
    image: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float] | None
    seconds: float
    unit: str = "mm"


class Predictor:
    """Segments images with a trained bundle.

    Args:
        source: a bundle folder with weights, its release zip, or a ``model.ts`` exported from one.
        device: where to run, e.g. ``cpu`` or ``cuda``.
        trust: run also what goes beyond our own bundles; see :func:`blosam.inference.sources.open_bundle`.
        confidence: ``auto``, ``views``, ``iou`` or ``none``; see :mod:`blosam.inference.confidence`. ``judge`` is
            what gives it, or None.

    Raises:
        BlosamError: when it is no bundle, has no weights or others than its own, or does more than it may.
    """

    def __init__(self, source: Path | str, device: str = "cpu", trust: bool = False, confidence: str = "none") -> None:
        self.device = torch.device(device)
        with open_bundle(source, trust) as bundle:
            parser = bundle.parser(self.device)
            self.network = bundle.network(parser, self.device)
            self.metadata, self.sha256 = bundle.metadata, bundle.sha256
            judged_by = choose_source(confidence, bundle.iou_trained)
            views = views_for(self.metadata)
            self.judge = None if judged_by == "none" else Judge(self.network, judged_by, views)
            self.labels: dict[str, int] = bundle.build(parser, "labels")
            preprocessing: Compose = bundle.build(parser, "preprocessing")
            self.inferer = bundle.build(parser, "inferer")
            postprocessing: Compose = bundle.build(parser, "postprocessing")
        self.load, self.prepare = preprocessing.transforms[0], Compose(preprocessing.transforms[1:])
        # Up to the probabilities; argmax is done here, writing elsewhere.
        self.postprocessing = Compose(list(takewhile(_before_argmax, postprocessing.transforms)))

    @torch.inference_mode()
    def predict(self, path: Path | str) -> Prediction:
        """Segment one image file.

        Raises:
            BlosamError: when the file cannot be used; the message says why.
        """
        start = time.perf_counter()
        try:
            item: dict[str, Any] = self.load({"image": str(path)})
            image = _rows_by_columns(item["image"])
            item = self.prepare(item)
        except RuntimeError as error:  # transforms wrap what a reader raised
            raise root_cause(error) from error
        batch = list_data_collate([item])
        logits = self.inferer(batch["image"].to(self.device), self.network)
        item["pred"] = MetaTensor(logits[0].cpu())  # MONAI's Invertd leaves plain tensors as they are
        restored = self.postprocessing(item)
        probability = np.asarray(restored["pred"])
        probability = np.ascontiguousarray(probability.reshape(probability.shape[:3]).transpose(0, 2, 1))
        if probability.shape[1:] != image.shape[:2]:
            raise RuntimeError(f"{path}: mask of {probability.shape[1:]} for an image of {image.shape[:2]}")
        meta = restored["image"].meta
        return Prediction(
            path=Path(path),
            mask=probability.argmax(0).astype(np.uint8),
            probability=probability,
            image=image,
            affine=np.asarray(meta["original_affine"], dtype=np.float64),
            spacing=meta.get("spacing"),
            seconds=time.perf_counter() - start,
            unit=meta.get("spatial_unit", "unknown"),
        )


def _rows_by_columns(image: torch.Tensor) -> np.ndarray:
    """W x H [x C] as MONAI's readers give it -> Rows x Columns [x 3] float32."""
    array = np.swapaxes(np.asarray(image, dtype=np.float32), 0, 1)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _before_argmax(step: Transform) -> bool:
    return "AsDiscrete" not in type(step).__name__
