"""The app folder of a MONAI Label server: a copy of each bundle to train, logs, uploads.

The bundles given by the user are never changed. What annotators train stays in the copy, which a later start with the
same folder continues from; it is a complete bundle, so ``blosam predict --bundle APP/model/NAME`` uses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from blosam.atomicio import atomic_write
from blosam.bundle import Bundle
from blosam.errors import BlosamError
from blosam.weightsio import sha256_of

SOURCE = "blosam_source.json"  # in the copy: what it was copied from
_MAIN = (
    '"""Written by `blosam label`; MONAI Label looks for the app here."""\n\nfrom blosam.label.app import LabelApp\n'
)
_FILES = ("model.pt", "adapter.safetensors")
# What MONAI Label writes there, and this command.
_OURS = {"main.py", "model", "lib", "logs", "bin", "sessions", "cache"}


def prepare_app(app: Path, bundles: Sequence[Path]) -> list[Bundle]:
    """Make or continue an app folder.

    Args:
        app: made if absent.
        bundles: bundle folders, told apart by their names.

    Returns:
        The copies, in the order of ``bundles``.

    Raises:
        BlosamError: for a folder that is no bundle or no app, two bundles of one name, or a copy and a bundle that
            were both trained further.
    """
    sources = [Bundle(path) for path in bundles]
    names = [source.root.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise BlosamError(f"two bundles are called {name}. Rename one of the folders: clients choose by name.")
    _check_folder(app)
    try:
        (app / "model").mkdir(parents=True, exist_ok=True)
        with atomic_write(app / "main.py", "w") as file:
            file.write(_MAIN)
        return [Bundle(_copy(source, app / "model" / source.root.name)) for source in sources]
    except OSError as error:  # shutil.Error is one; its text lists every file
        reason = error.strerror or "not every file could be copied; is the disk full?"
        raise BlosamError(f"{app}: cannot prepare the app folder ({reason}). Name another one with --app.") from error


def _check_folder(app: Path) -> None:
    """Refuse to write into a folder of something else."""
    if not app.exists():
        return
    if not app.is_dir():
        raise BlosamError(f"{app}: is no folder. Name another one with --app.")
    foreign = sorted(entry.name for entry in app.iterdir() if entry.name not in _OURS)
    if foreign:
        raise BlosamError(f"{app}: holds other files ({foreign[0]}). Name a new folder with --app.")


def _copy(source: Bundle, to: Path) -> Path:
    """The copy of one bundle: made, kept, or renewed when only the original has changed since."""
    now = _digests(source.root)
    if to.exists():
        recorded = _recorded(to)
        if recorded == now:
            return to
        if recorded is None or _digests(to) != recorded:
            raise BlosamError(
                f"{to}: was trained here, and {source.root} has changed since it was copied. Start with a new --app "
                f"folder, or move {to} away; nothing was changed."
            )
    partial = to.parent / f".tmp-{os.getpid()}-{to.name}"
    try:
        shutil.copytree(source.root, partial, ignore=shutil.ignore_patterns("models", "results", "predictions"))
        (partial / "models").mkdir()
        for name in _FILES:
            if (source.root / "models" / name).is_file():
                shutil.copy2(source.root / "models" / name, partial / "models" / name)
        (partial / SOURCE).write_text(json.dumps(now, indent=2) + "\n")
        if to.exists():
            shutil.rmtree(to)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def _digests(root: Path) -> dict[str, str]:
    """What a bundle is: a digest of its configs and one of its weights (empty without weights)."""
    configs = hashlib.sha256()
    for path in sorted((root / "configs").glob("*.json")):
        configs.update(path.name.encode() + b"\0" + path.read_bytes())
    weights = root / "models" / "model.pt"
    return {"configs": configs.hexdigest(), "weights": sha256_of(weights) if weights.is_file() else ""}


def _recorded(copy: Path) -> dict[str, str] | None:
    """What the copy was made from; None when that is not recorded."""
    try:
        return json.loads((copy / SOURCE).read_text())
    except (OSError, json.JSONDecodeError):
        return None
