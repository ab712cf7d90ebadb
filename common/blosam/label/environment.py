"""Where MONAI Label's own environment is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import blosam
from blosam.errors import BlosamError

VARIABLE = "BLOSAM_LABEL_ENV"


def label_python() -> Path:
    """Python of the environment that ``make label`` makes.

    It is looked for beside the source tree and beside the environment in use; the variable ``BLOSAM_LABEL_ENV`` names
    another folder.

    Raises:
        BlosamError: when there is none, or it was left unfinished.
    """
    named = os.environ.get(VARIABLE)
    source_tree = Path(blosam.__file__).resolve().parents[2]
    folders = [Path(named)] if named else [source_tree / ".venv-label", Path(sys.prefix).parent / ".venv-label"]
    for folder in folders:
        # The stamp is written last, so a broken installation is not taken for a working one.
        if (folder / "installed").is_file() and (folder / "bin" / "python").exists():
            return folder / "bin" / "python"
    raise BlosamError(
        f"MONAI Label is not installed (looked in {', '.join(map(str, folders))}). Run `make label` in the blosam "
        f"folder once, or set {VARIABLE} to an environment that it made."
    )
