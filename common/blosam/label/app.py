"""The app that MONAI Label's server runs (in MONAI Label's environment)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monailabel
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from blosam.bundle import Bundle, root_cause
from blosam.errors import BlosamError
from blosam.label.datastore import CheckedDatastore, refuse_labels
from blosam.label.tasks import SegmentationTask, TrainingTask


class LabelApp(MONAILabelApp):
    """Serves every bundle under ``APP/model``; needs no network.

    Args:
        app_dir: the folder made by ``blosam label``.
        studies: a folder of images, or the address of a DICOMweb server.
        conf: MONAI Label's ``--conf`` pairs; ``models`` names the bundles, comma-separated.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = conf["models"].split(",")
        self.bundles = {name: Bundle(Path(app_dir) / "model" / name) for name in names}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="blosam",
            description="Few-shot segmentation with bundles of blosam",
            version=monailabel.__version__,
        )

    def init_infers(self) -> dict[str, SegmentationTask]:
        """One automatic segmentation per bundle."""
        return {name: SegmentationTask(bundle) for name, bundle in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainingTask]:
        """One training per bundle."""
        return {name: TrainingTask(bundle, self.conf) for name, bundle in self.bundles.items()}

    def init_strategies(self) -> dict[str, Any]:
        """How the next image is chosen."""
        return {"random": Random(), "first": First()}

    def init_datastore(self) -> Datastore:
        """The images; a folder gets our checks of labels."""
        if self.studies.startswith(("http://", "https://")):
            return refuse_labels(super().init_datastore())
        return CheckedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment one image.

        Raises:
            BlosamError: for an unknown model or image, a model without weights, or an image that cannot be used.
        """
        task = self._task(self._infers, request.get("model"))
        task.bundle.require_weights()
        try:
            return super().infer(request, datastore)
        except RuntimeError as error:  # transforms wrap what a reader raised
            raise root_cause(error) from error

    def check_training(self, model: str) -> None:
        """Say before a training starts why it would fail.

        Raises:
            BlosamError: for an unknown model, too few labels, or labels that do not fit the model.
        """
        self._task(self._trainers, model).check(self.datastore())

    def _download_dcmqi_tools(self) -> None:
        """Nothing: MONAI Label would fetch a program from the internet, for a format that ``blosam predict`` writes."""

    def _task(self, tasks: dict[str, Any], model: str | None) -> Any:
        if model not in tasks:
            raise BlosamError(f"{model}: no such model on this server. Choose one of: {', '.join(tasks)}.")
        return tasks[model]
