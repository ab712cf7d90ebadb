"""The one inference path: a bundle (or an exported ``model.ts``) and an image in, a mask on the image's grid out.

It runs the transforms and the inferer of the bundle's own inference config, without the saving step, so the command
line, the DICOM and NIfTI writers and the tests see exactly what ``monai.bundle run`` computes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, Transform

from blosam.bundle import root_cause
from blosam.dicom.picture import Picture
from blosam.dicom.reader import as_image
from blosam.errors import BlosamError
from blosam.inference.confidence import Judge, choose_source, views_for
from blosam.inference.sources import open_bundle

# Rounding differs with the size of the batch: by about 1e-6 of probability on a CPU, by more on a GPU, whose
# convolutions use shorter numbers. An image with a pixel closer to a tie than this is computed again on its own.
TIE = {"cpu": 2e-5, "other": 1e-3}


@dataclass(frozen=True)
class Prepared:
    """One image, read and brought to the network's size.

    Args:
        path: the file it came from.
        item: MONAI's dictionary; ``image`` is 3 x S x S with the record of what has to be undone.
        image: Rows x Columns [x 3] float32 in [0, 1], as read, before any resizing.
        seconds: spent so far.
    """

    path: Path
    item: dict[str, Any] = field(repr=False)
    image: np.ndarray = field(repr=False)
    seconds: float


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
        seconds: from reading to mask; of a batch, each image's share.
        unit: of the affine, in NIfTI's words: meter, mm, micron or unknown.
        confidence: in [0, 1], how good the mask is expected to be; None when the bundle cannot tell.
    """

    path: Path
    mask: np.ndarray
    probability: np.ndarray
    image: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float] | None
    seconds: float
    unit: str = "mm"
    confidence: float | None = None


class Predictor:
    """Segments images with a trained bundle.

    Threads may call ``prepare_picture`` while another one runs ``predict_batch``.

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
            self.config = bundle.config
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
        steps = [*preprocessing.flatten().transforms, *self.postprocessing.flatten().transforms]
        if not trust and any(isinstance(step, monai.transforms.SaveImaged) for step in steps):
            raise BlosamError(
                f"{source}: the bundle saves files of its own while it segments. Ask its maker why, then add --trust."
            )

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the weights and the inference config: equal means the same masks."""
        text = self.sha256 + json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def predict(self, path: Path | str) -> Prediction:
        """Segment one image file with one image in it.

        Raises:
            BlosamError: when the file cannot be used; the message says why.
        """
        start = time.perf_counter()
        try:
            item: dict[str, Any] = self.load({"image": str(path)})
        except RuntimeError as error:  # transforms wrap what a reader raised
            raise root_cause(error) from error
        return self.predict_batch([self._prepared(Path(path), item, start)])[0]

    def predict_picture(self, picture: Picture, path: Path | str) -> Prediction:
        """Segment one decoded picture: a frame, a slice or a whole file.

        Args:
            picture: what was decoded.
            path: its file, for messages.

        Raises:
            BlosamError: when the picture cannot be used; the message says why.
        """
        return self.predict_batch([self.prepare_picture(picture, path)])[0]

    def prepare_picture(self, picture: Picture, path: Path | str) -> Prepared:
        """The first half of :meth:`predict_picture`, for batches; needs no network and may run in any thread.

        Raises:
            BlosamError: when the picture cannot be used; the message says why.
        """
        start = time.perf_counter()
        array, meta = as_image(Path(path), picture)
        return self._prepared(Path(path), {"image": MetaTensor(torch.from_numpy(array), meta=meta)}, start)

    def _prepared(self, path: Path, item: dict[str, Any], start: float) -> Prepared:
        image = _rows_by_columns(item["image"])
        try:
            with torch.inference_mode():
                item = self.prepare(item)
        except RuntimeError as error:
            raise root_cause(error) from error
        return Prepared(path, item, image, time.perf_counter() - start)

    @torch.inference_mode()
    def predict_batch(self, batch: Sequence[Prepared]) -> list[Prediction]:
        """Segment several prepared images in one go; the masks are those of one at a time."""
        start = time.perf_counter()
        stacked = list_data_collate([dict(prepared.item) for prepared in batch])
        logits = self.inferer(stacked["image"].to(self.device), self.network).cpu()
        if logits.shape[1] != len(self.labels) + 1:
            raise BlosamError(
                f"the network answers with {logits.shape[1] - 1} classes, its inference.json names {len(self.labels)}. "
                "Export the bundle again with `blosam export`."
            )
        share = (time.perf_counter() - start) / len(batch)
        found = [
            self._finish(prepared, values, prepared.seconds + share)
            for prepared, values in zip(batch, logits, strict=True)
        ]
        if self.judge is not None:
            sure = [self.judge(prepared.item["image"]).value for prepared in batch]
            found = [replace(prediction, confidence=value) for prediction, value in zip(found, sure, strict=True)]
        if len(batch) == 1:
            return found
        tie = TIE.get(self.device.type, TIE["other"])
        return [
            self.predict_batch([prepared])[0] if nearly_tied(prediction.probability, tie) else prediction
            for prepared, prediction in zip(batch, found, strict=True)
        ]

    def _finish(self, prepared: Prepared, logits: torch.Tensor, seconds: float) -> Prediction:
        """From (K+1) x S x S logits to a mask on the grid of the source."""
        start = time.perf_counter()
        # MONAI's Invertd leaves plain tensors as they are.
        restored = self.postprocessing({**prepared.item, "pred": MetaTensor(logits)})
        probability = np.asarray(restored["pred"])
        probability = np.ascontiguousarray(probability.reshape(probability.shape[:3]).transpose(0, 2, 1))
        shape = prepared.image.shape[:2]
        if probability.shape[1:] != shape:
            raise RuntimeError(f"mask of {probability.shape[1:]} for an image of {shape}")
        meta = restored["image"].meta
        return Prediction(
            path=prepared.path,
            mask=probability.argmax(0).astype(np.uint8),
            probability=probability,
            image=prepared.image,
            affine=np.asarray(meta["original_affine"], dtype=np.float64),
            spacing=meta.get("spacing"),
            seconds=seconds + time.perf_counter() - start,
            unit=meta.get("spatial_unit", "unknown"),
        )


def blank_prediction(picture: Picture, classes: int, path: Path) -> Prediction:
    """An empty mask for a picture of a single value, such as the slices before and behind a body.

    Args:
        picture: W x H.
        classes: number of foreground classes K.
        path: its file.
    """
    columns, rows = picture.values.shape[:2]
    probability = np.zeros((classes + 1, rows, columns), np.float32)
    probability[0] = 1.0
    return Prediction(
        path=path,
        mask=np.zeros((rows, columns), np.uint8),
        probability=probability,
        image=np.zeros((rows, columns), np.float32),
        affine=picture.affine.astype(np.float64),
        spacing=picture.spacing,
        seconds=0.0,
        unit=picture.unit,
    )


def nearly_tied(probability: np.ndarray, tie: float) -> bool:
    """Whether rounding could have decided the class of a pixel: the two likeliest are less than ``tie`` apart.

    Args:
        probability: (K+1) x Rows x Columns.
        tie: difference of probability.
    """
    if len(probability) == 2:
        return bool((np.abs(probability[1] - probability[0]) < tie).any())
    best = np.partition(probability, -2, axis=0)[-2:]
    return bool((best[1] - best[0] < tie).any())


def _rows_by_columns(image: torch.Tensor) -> np.ndarray:
    """W x H [x C] as MONAI's readers give it -> Rows x Columns [x 3] float32."""
    array = np.swapaxes(np.asarray(image, dtype=np.float32), 0, 1)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _before_argmax(step: Transform) -> bool:
    return "AsDiscrete" not in type(step).__name__
