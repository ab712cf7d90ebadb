"""The one inference path: a bundle (or an exported ``model.ts``) and an image in, a mask on the image's grid out.

It runs the transforms and the inferer of the bundle's own inference config, without the saving step, so the command
line, the DICOM and NIfTI writers and the tests see exactly what ``monai.bundle run`` computes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, list_data_collate, load_net_with_metadata
from monai.transforms import Compose, Transform

from blosam.bundle import Bundle, root_cause
from blosam.engines import CheckpointLoader
from blosam.errors import BlosamError


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
        source: a bundle folder with weights, or a ``model.ts`` exported from one.
        device: where to run, e.g. ``cpu`` or ``cuda``.

    Raises:
        BlosamError: when there are no weights or they do not fit the bundle.
    """

    def __init__(self, source: Path | str, device: str = "cpu") -> None:
        self.device = torch.device(device)
        source = Path(source)
        if source.is_dir():
            parser, self.network = self._from_bundle(Bundle(source))
        else:
            parser, self.network = self._from_torchscript(source)
        self.labels: dict[str, int] = parser.get_parsed_content("labels")
        preprocessing: Compose = parser.get_parsed_content("preprocessing")
        self.load, self.prepare = preprocessing.transforms[0], Compose(preprocessing.transforms[1:])
        self.inferer = parser.get_parsed_content("inferer")
        postprocessing: Compose = parser.get_parsed_content("postprocessing")
        # Up to the probabilities; argmax is done here, writing elsewhere.
        self.postprocessing = Compose(list(takewhile(_before_argmax, postprocessing.transforms)))

    def _from_bundle(self, bundle: Bundle) -> tuple[ConfigParser, torch.nn.Module]:
        weights = bundle.require_weights()
        parser = bundle.parser("inference")
        parser["device"] = f"$torch.device('{self.device}')"
        network = parser.get_parsed_content("network_def").to(self.device)
        CheckpointLoader(str(weights), {"model": network}).load()
        return parser, network.eval()

    def _from_torchscript(self, path: Path) -> tuple[ConfigParser, torch.nn.Module]:
        if not path.is_file():
            raise BlosamError(f"{path}: no such bundle or model.ts. Give a bundle folder or an exported model.ts.")
        try:
            network, _, extra = load_net_with_metadata(str(path), more_extra_files=("inference.json",))
        except (RuntimeError, ValueError) as error:
            raise BlosamError(f"{path}: no readable TorchScript. Export it again with `blosam export`.") from error
        if not extra.get("inference.json"):
            raise BlosamError(f"{path}: holds no inference config. Export it again with `blosam export`.")
        parser = ConfigParser()
        parser.read_config(json.loads(extra["inference.json"]))
        return parser, network.to(self.device).eval()

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
