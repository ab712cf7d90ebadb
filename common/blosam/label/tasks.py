"""What MONAI Label runs for a bundle: segmentation and training (runs in MONAI Label's environment)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import name_to_device
from PIL import Image

from blosam.bundle import Bundle
from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError
from blosam.methods import METHODS
from blosam.predictor import Prediction, Predictor
from blosam.weightsio import read_facts

_RASTER = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
_FEWEST = 2  # labels: one for the weights (D1), one for the prompt (D2)


class SegmentationTask(InferTask):
    """Automatic masks through ``blosam.predictor``, so that viewers see what ``blosam predict`` writes.

    Args:
        bundle: the app's copy of a bundle; it may get its weights later, from a training.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._loaded: tuple[tuple[str, int], Predictor] | None = None
        super().__init__(
            # Given, because MONAI Label would guess it from the name of the bundle.
            type=InferType.SEGMENTATION,
            labels={name.lower(): value for name, value in bundle.labels.items()},
            dimension=2,
            description=bundle.metadata["description"],
        )

    def is_valid(self) -> bool:
        """Whether clients can use it now: a bundle without weights appears after its first training."""
        return self.bundle.weights.is_file()

    def info(self) -> dict[str, Any]:
        """What clients show."""
        return super().info() | {"version": self.bundle.metadata["version"]}

    def get_path(self, validate: bool = True) -> str | None:
        """The weights, for clients that download them."""
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def __call__(self, request: dict[str, Any], callbacks: object = None) -> tuple[str, dict[str, Any]]:
        """Segment one image.

        Args:
            request: MONAI Label's: ``image`` (a path), ``device``, ``result_extension``.
            callbacks: not used.

        Returns:
            The path of a mask in a temporary file, and facts about it.
        """
        predictor = self._predictor(name_to_device(request.get("device", "cuda")))
        prediction = predictor.predict(request["image"])
        suffix = result_suffix(str(request["image"]), request.get("result_extension"))
        handle, file = tempfile.mkstemp(suffix=suffix)
        os.close(handle)
        write_mask(prediction, Path(file))
        return file, {
            "label_names": self.labels,
            "latencies": {"total": round(prediction.seconds, 2)},
            "centroids": {},
        }

    def _predictor(self, device: str) -> Predictor:
        """The predictor with the newest weights: every training replaces the file."""
        key = (device, self.bundle.require_weights().stat().st_mtime_ns)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, Predictor(self.bundle.root, device=device))
        return self._loaded[1]


def result_suffix(image: str, wanted: str | None) -> str:
    """Format of the mask: what the client asks for, else one without loss that fits the image.

    Raises:
        BlosamError: for a format that is not written.
    """
    if wanted in (None, ""):
        return ".png" if image.lower().endswith(_RASTER) else ".nii.gz"
    if wanted not in (".png", ".nii", ".nii.gz", ".nrrd"):
        raise BlosamError(f"masks are not written as {wanted}. Ask for .png, .nii, .nii.gz or .nrrd.")
    return wanted


def write_mask(prediction: Prediction, path: Path) -> None:
    """Write class numbers on the source grid, as PNG, NIfTI or NRRD by the suffix of ``path``."""
    if path.suffix == ".png":
        Image.fromarray(prediction.mask).save(path)
    elif path.suffix == ".nrrd":
        SimpleITK.WriteImage(_itk_image(prediction), str(path))
    else:
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(prediction.mask.T[..., None]), prediction.affine), path)


def _itk_image(prediction: Prediction) -> SimpleITK.Image:
    """The mask as one slice with the geometry of its image; ITK counts in LPS, the affine in RAS."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ prediction.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(prediction.mask[None])
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


class TrainingTask(BundleTrainTask):
    """MONAI Label's training of a bundle, made to fit few labels and our checkpoints."""

    def __init__(self, bundle: Bundle, conf: dict[str, str]) -> None:
        self.bundle = bundle
        super().__init__(str(bundle.root), conf, enable_tracking=False, load_strict=True)

    def config(self) -> dict[str, Any]:
        """The options clients show: without ``last.pt``, which is no model, and with the bundle's own epochs."""
        options = super().config()
        epochs = self.bundle.read("train")["train"]["trainer"]["max_epochs"]
        return options | {"max_epochs": epochs, "model_filename": ["model.pt"]}

    def check(self, datastore: Datastore) -> None:
        """Say before a training starts why it would fail.

        Raises:
            BlosamError: with fewer than two labels, or labels with other values than the bundle's classes.
        """
        items = datastore.datalist()
        if len(items) < _FEWEST:
            raise BlosamError(
                f"training needs at least {_FEWEST} submitted labels, there {'is' if len(items) == 1 else 'are'} "
                f"{len(items)}. Label and submit more images."
            )
        reader = ClinicalReader(mode="label", num_classes=len(self.bundle.labels))
        for item in items:
            try:
                reader.get_data(item["label"])
            except BlosamError as error:
                raise BlosamError(str(error).replace(item["label"], f"label {Path(item['label']).name}")) from error

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        """Pairs of image and label, whatever the bundle is called ("detection" means boxes to MONAI Label)."""
        return [{"image": item["image"], "label": item["label"]} for item in datastore.datalist()]

    def _partition_datalist(self, datalist, request, shuffle=False):
        """MONAI Label's split, but never fewer than two images to train on; without validation images D2 serves."""
        if not 0 < request.get("val_split", 0.2) < 1:
            return datalist, []
        training, validation = super()._partition_datalist(datalist, request, shuffle)
        return (training, validation) if len(training) >= _FEWEST else (datalist, [])

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[dict[str, Any]]) -> None:
        """Start from the current weights, strictly, or from the base weights where the client says so."""
        if pretrained and os.path.exists(model_pytorch):
            loader = {
                "_target_": "blosam.engines.CheckpointLoader",
                "load_path": model_pytorch,
                "load_dict": {self.model_dict_key: "$@network"},
            }
            train_handlers.insert(0, loader)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Weights that are trained on keep their method, whatever the bundle's configs say for a training anew."""
        for handler in overrides[self.const.key_train_handlers()]:
            if handler["_target_"].rsplit(".", 1)[-1] == "CheckpointLoader":
                method = read_facts(handler["load_path"]).get("method")
                if method in METHODS:
                    overrides["method"] = method
        return overrides

    def run_single_gpu(self, request: dict[str, Any], overrides: dict[str, Any]) -> None:
        """3D Slicer sends an empty ``run_id``, with which MONAI would evaluate everything in the config."""
        super().run_single_gpu(request | {"run_id": request.get("run_id") or "run"}, overrides)
