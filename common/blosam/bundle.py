"""A bundle folder: its files, its settings, and running its workflows in this process."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from blosam.errors import BlosamError

logger = logging.getLogger(__name__)
# MONAI warns that it leaves logging alone whenever it is told to.
logging.getLogger("monai.bundle.workflows").addFilter(lambda record: "skipping logging" not in record.getMessage())

_WORKFLOWS = {
    "training": (("train",), "training"),
    "evaluating": (("train", "evaluate"), "training"),
    "inference": (("inference",), "inference"),
}


class Bundle:
    """A bundle on disk.

    Args:
        root: the folder that holds ``configs/`` and ``models/``.

    Raises:
        BlosamError: when the folder is not a bundle.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        if not (self.root / "configs" / "inference.json").is_file():
            raise BlosamError(
                f"{root}: not a bundle (configs/inference.json is missing). Give a folder such as bundles/blosam_lung."
            )

    def config(self, name: str) -> Path:
        """Path of ``configs/NAME.json``."""
        return self.root / "configs" / f"{name}.json"

    def read(self, name: str) -> dict[str, Any]:
        """Content of ``configs/NAME.json``.

        Raises:
            BlosamError: when the file is missing or is not JSON.
        """
        path = self.config(name)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            raise BlosamError(
                f"{path}: missing in this bundle. Make the bundle again or copy a complete one."
            ) from error
        except json.JSONDecodeError as error:
            raise BlosamError(f"{path}: not valid JSON (line {error.lineno}: {error.msg}). Mend that line.") from error

    @property
    def metadata(self) -> dict[str, Any]:
        """Content of ``configs/metadata.json``."""
        return self.read("metadata")

    @property
    def labels(self) -> dict[str, int]:
        """Foreground classes: name to value, 1..K."""
        return self.read("inference")["labels"]

    @property
    def weights(self) -> Path:
        """Path of ``models/model.pt``, whether it exists or not."""
        return self.root / "models" / "model.pt"

    def require_weights(self) -> Path:
        """Path of ``models/model.pt``.

        Raises:
            BlosamError: when the bundle has not been trained.
        """
        if not self.weights.is_file():
            raise BlosamError(
                f"{self.weights}: this bundle has no weights yet. Train it with "
                f"`blosam train DIR --bundle {self.root}`, or run `make models` for weights trained on phantoms."
            )
        return self.weights

    def parser(self, name: str = "inference", **overrides: Any) -> ConfigParser:
        """MONAI's parser over one config with ``bundle_root`` and ``overrides`` applied."""
        parser = ConfigParser()
        parser.read_config(str(self.config(name)))
        for key, value in {"bundle_root": str(self.root), **overrides}.items():
            parser[key] = value
        return parser

    def run(self, workflow: str, **overrides: Any) -> ConfigWorkflow:
        """Run ``training``, ``evaluating`` or ``inference`` as ``python -m monai.bundle run`` does.

        Args:
            workflow: which one.
            overrides: config ids (``a#b`` reaches inside) and their values.

        Returns:
            The finished workflow, whose parser holds every object that was built.

        Raises:
            BlosamError: what the workflow raised, freed from the config parser's wrapping.
        """
        configs, kind = _WORKFLOWS[workflow]
        for name in (*configs, "metadata"):
            self.read(name)  # for its errors, which name the file and the line
        flow = ConfigWorkflow(
            config_file=[str(self.config(name)) for name in configs],
            meta_file=str(self.config("metadata")),
            logging_file=False,  # the command's own logging stays in charge
            workflow_type=kind,
            bundle_root=str(self.root),
            **overrides,
        )
        try:
            flow.initialize()
            flow.run()
            flow.finalize()
        except RuntimeError as error:  # the parser wraps what a component raised
            raise root_cause(error) from error
        return flow


def root_cause(error: BaseException) -> BaseException:
    """The :class:`BlosamError` inside a chain of wrapped exceptions, or the exception itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BlosamError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error
