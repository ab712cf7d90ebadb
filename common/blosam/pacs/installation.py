"""What this installation keeps for itself: its state folder, and the secret that identifiers are hashed with."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blosam.errors import BlosamError

from .journal import private_folder

_BYTES = 32


def default_state() -> Path:
    """``blosam/pacs`` in the user's folder for state (XDG_STATE_HOME)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "blosam" / "pacs"


def hasher(folder: Path) -> Callable[[str], str]:
    """A keyed hash (HMAC-SHA-256) with a secret that is made at first use and kept in ``folder`` with mode 0600.

    Without the secret nobody can try whether a known UID is in a log or journal.

    Raises:
        BlosamError: when the secret can be neither read nor made.
    """
    path = private_folder(folder) / "secret"
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise BlosamError(f"{path}: {error.strerror}. Give a folder of your own with --state DIR.") from None
    if len(key) != _BYTES:
        raise BlosamError(f"{path}: damaged. Remove the folder; what is stored already is found on the server.")
    return lambda text: hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _make(path: Path) -> None:
    """Whole or not there, and never readable by others."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first; its secret counts
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
