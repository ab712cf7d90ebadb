"""Base weights by name: where they come from, where they are kept, whether they are the right ones.

SAM's checkpoints are fetched only when asked for (``blosam weights fetch vit_b``), into one folder for all
bundles: ``BLOSAM_WEIGHTS_DIR``, else ``~/.cache/blosam``. ``BLOSAM_WEIGHTS_URL`` names a mirror: a web folder
with the same file names. The weights of the small encoder ``tiny`` are part of the package.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from .atomicio import atomic_write
from .download import RemoteFile, download
from .errors import BlosamError

if TYPE_CHECKING:
    from .networks import BloSam, PromptableSam

__all__ = [
    "REGISTRY",
    "Status",
    "Weights",
    "cache_dir",
    "fetch",
    "find",
    "get",
    "is_verified",
    "load_base",
    "resolve_base",
    "verify",
]

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class Weights:
    """One entry of the registry.

    Args:
        name: what ``blosam weights`` calls it.
        encoder: the encoder it fits.
        file_name: its name in the cache folder, on the server, or in the package.
        url: where it is fetched from; empty when it is part of the package.
        bytes: its size; None for a packaged file.
        sha256: its digest, 64 hexadecimal digits; None for a packaged file.
        licence: SPDX name.
    """

    name: str
    encoder: str
    file_name: str
    url: str
    bytes: int | None
    sha256: str | None
    licence: str = "Apache-2.0"

    @property
    def packaged(self) -> bool:
        """Whether it is part of the package instead of fetched."""
        return not self.url

    @property
    def path(self) -> Path:
        """Where it is, or belongs."""
        return (ASSETS if self.packaged else cache_dir()) / self.file_name


def _sam(name: str, file_name: str, size: int, sha256: str) -> Weights:
    return Weights(name, name, file_name, _SAM_URL + file_name, size, sha256)


_ENTRIES = (
    Weights("tiny", "tiny", "tiny.safetensors", url="", bytes=None, sha256=None),
    _sam(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
)
REGISTRY: dict[str, Weights] = {entry.name: entry for entry in _ENTRIES}


class Status(StrEnum):
    """What :func:`verify` found."""

    OK = "ok"
    MISSING = "missing"
    WRONG_SIZE = "wrong size"
    WRONG_SHA256 = "wrong sha256"


def cache_dir() -> Path:
    """The folder of fetched weights: ``BLOSAM_WEIGHTS_DIR``, else ``blosam`` in the user's cache folder."""
    if chosen := os.environ.get("BLOSAM_WEIGHTS_DIR"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "blosam"


def get(name: str) -> Weights:
    """The registry's entry for a name.

    Raises:
        BlosamError: for an unknown name, listing the known ones.
    """
    if name not in REGISTRY:
        raise BlosamError(f"{name!r}: no such weights. Choose one of {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def find(name: str) -> Path | None:
    """The file of some weights, or None when it is not on this computer (it is not verified here).

    Raises:
        BlosamError: for an unknown name.
    """
    path = get(name).path
    return path if path.is_file() else None


def fetch(name: str, url: str | None = None, progress: bool | None = None) -> Path:
    """Fetch weights into the cache folder unless they are there; an interrupted fetch is resumed.

    Args:
        name: of the registry.
        url: where to fetch the file from. Defaults to the registry's address, or to the file of that name
            under ``BLOSAM_WEIGHTS_URL`` when that is set.
        progress: whether to draw a progress bar on stderr. Defaults to None: only on a terminal.

    Returns:
        the verified file.

    Raises:
        BlosamError: see :func:`blosam.download.download`; also for weights that are part of the package.
    """
    entry = get(name)
    if entry.packaged:
        if not entry.path.is_file():
            raise BlosamError(_not_installed(entry))
        return entry.path
    if is_verified(name):
        return entry.path
    path = download(RemoteFile(url or _address(entry), entry.path, entry.bytes, entry.sha256), progress=progress)
    _remember(path, entry.sha256)
    return path


def verify(name: str) -> Status:
    """Compare a file on this computer with the registry: its size, then its SHA-256 (read in full each time).

    A packaged file has no entry to be compared with; it must be there and readable.

    Raises:
        BlosamError: for an unknown name, or a packaged file that is damaged.
    """
    entry = get(name)
    if not entry.path.is_file():
        return Status.MISSING
    if entry.packaged:
        from .weightsio import read_state

        read_state(entry.path)
        return Status.OK
    if entry.path.stat().st_size != entry.bytes:
        return Status.WRONG_SIZE
    if not RemoteFile(entry.url, entry.path, entry.bytes, entry.sha256).is_complete():
        _note(entry.path).unlink(missing_ok=True)
        return Status.WRONG_SHA256
    _remember(entry.path, entry.sha256)
    return Status.OK


def is_verified(name: str) -> bool:
    """Whether the file was found right before and has not changed since (same size and time of change).

    Raises:
        BlosamError: for an unknown name.
    """
    entry = get(name)
    try:
        noted = json.loads(_note(entry.path).read_text(encoding="utf-8"))
        return noted == _fingerprint(entry.path, entry.sha256) and noted["bytes"] == entry.bytes
    except (OSError, ValueError, TypeError):
        return False


def resolve_base(encoder: str, base_weights: str | os.PathLike = "auto") -> Path | None:
    """The file with the base weights for an encoder.

    Args:
        encoder: ``tiny``, ``vit_b``, ``vit_l`` or ``vit_h``.
        base_weights: ``"auto"`` for the packaged or fetched file of that encoder, ``"random"`` for none, or
            the path of a file.

    Returns:
        the file, or None for ``"random"``.

    Raises:
        BlosamError: when the encoder is unknown or the file is missing; names the command that fetches it.
    """
    entry = get(encoder)
    if base_weights == "random":
        return None
    if base_weights != "auto":
        path = Path(base_weights).expanduser()
        if not path.is_file():
            raise BlosamError(
                f"{path}: no such file with base weights. Give the path of a SAM checkpoint for {encoder}, "
                f"or 'auto' after `blosam weights fetch {encoder}`."
            )
        return path
    if entry.path.is_file():
        return entry.path
    if entry.packaged:
        raise BlosamError(_not_installed(entry))
    raise BlosamError(
        f"{entry.path}: the base weights of encoder {encoder} are not on this computer. Run `blosam "
        f"weights fetch {encoder}` ({entry.bytes / 1e6:,.0f} MB), or download "
        f"{_address(entry)} and put it there."
    )


def load_base(network: BloSam | PromptableSam, base_weights: str | os.PathLike = "auto") -> BloSam | PromptableSam:
    """Load the base weights into a network, as the bundles' configs do.

    A file of the registry is verified first: by size every time, by SHA-256 once (a small note beside the
    file remembers it).

    Args:
        network: filled in place.
        base_weights: see :func:`resolve_base`; ``"random"`` leaves the network as it is.

    Returns:
        the same network.

    Raises:
        BlosamError: when the file is missing, damaged or of another architecture.
    """
    path = resolve_base(network.encoder_name, base_weights)
    if path is None:
        logger.info("encoder %s starts from random weights", network.encoder_name)
        return network
    from .networks import load_base as load_into

    if base_weights == "auto":
        _require_verified(network.encoder_name)
    load_into(network, path)
    return network


def _require_verified(name: str) -> None:
    entry = get(name)
    if entry.packaged or is_verified(name):
        return
    status = verify(name)
    if status is not Status.OK:
        raise BlosamError(
            f"{entry.path}: {status.value}, so it is damaged or another file than {name}. Delete it and run "
            f"`blosam weights fetch {name}`."
        )


def _address(entry: Weights) -> str:
    mirror = os.environ.get("BLOSAM_WEIGHTS_URL")
    return f"{mirror.rstrip('/')}/{entry.file_name}" if mirror else entry.url


def _not_installed(entry: Weights) -> str:
    return (
        f"{entry.path}: the weights {entry.name} are not in this installation. Install blosam again, or "
        "train from random weights with base_weights random."
    )


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _fingerprint(path: Path, sha256: str | None) -> dict[str, object]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def _remember(path: Path, sha256: str | None) -> None:
    try:
        with atomic_write(_note(path), "w") as file:
            json.dump(_fingerprint(path, sha256), file)
    except BlosamError:  # a shared, read-only folder: verified again next time
        logger.debug("no note beside %s: the folder cannot be written", path)
