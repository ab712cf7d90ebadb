"""Atomic writing: a file is replaced by its complete new content or not at all.

The new content goes beside the target under a temporary name, is flushed to the disk and renamed, so that a
full disk, a read-only folder, Ctrl-C or a power cut leaves the previous file as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import BlosamError

__all__ = ["atomic_path", "atomic_write"]

_TORCH_WRITERS = (
    "PytorchStreamWriter",
    "inline_container",
)  # how torch's own writer names itself in its errors

_MENDS = {
    errno.ENOSPC: "the disk is full. Free some space or write to another folder",
    errno.EDQUOT: "the disk quota is used up. Free some space or write to another folder",
    errno.EFBIG: "the file would exceed the size limit. Raise it (ulimit -f) or write to another disk",
    errno.EACCES: "permission is denied. Make the folder writable or write to another folder",
    errno.EPERM: "permission is denied. Make the folder writable or write to another folder",
    errno.EROFS: "the disk is read-only. Write to another folder",
    errno.EISDIR: "it is a folder. Remove it or choose another name",
    errno.EEXIST: "a part of its path is a file, not a folder. Choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder. Choose another folder",
}


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Offer a temporary file name beside ``path``; on success it is flushed and renamed to ``path``.

    For libraries that write by file name (the suffix is kept). Do not give the name to ``torch.jit.save``: on
    a full disk its own file writer ends the whole process ("terminate called"); give it the open file of
    :func:`atomic_write`. Missing parent folders are made. When the body raises, the temporary file is removed
    and an existing ``path`` keeps its content.

    Args:
        path: the file to write; a symbolic link is followed, not replaced.

    Yields:
        the temporary path to write to, in the same folder.

    Raises:
        BlosamError: when the file cannot be written (disk full, folder not writable, ...).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        cause = _write_failure(error, (temporary, target))
        if cause is None:
            raise
        raise BlosamError(_write_message(path, target, cause)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system lets a folder be synchronised; the rename itself is done
        _flush_to_disk(target.parent)


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", encoding: str | None = None) -> Iterator[IO[Any]]:
    """Open a file whose content replaces ``path`` only when the body has written it to the end.

    Args:
        path: the file to write.
        mode: ``"wb"`` for bytes or ``"w"`` for text.
        encoding: of a text file. Defaults to UTF-8.

    Yields:
        the open file.

    Raises:
        ValueError: for another mode.
        BlosamError: when the file cannot be written; the previous file, if any, is untouched.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"atomic_write opens files with mode 'wb' or 'w', not {mode!r}")
    with atomic_path(path) as temporary:
        text_encoding = (encoding or "utf-8") if mode == "w" else None
        with open(temporary, mode, encoding=text_encoding) as file:
            yield file


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_failure(error: BaseException, ours: tuple[Path, Path]) -> OSError | None:
    """The reason ``error`` gives for a failed write of ours, or None when it is about something else."""
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_WRITERS):
        hidden = error.__context__  # torch.save raises its own error over the failed write
        return hidden if isinstance(hidden, OSError) else OSError(errno.EIO, "it could not be written to the end")
    if not isinstance(error, OSError):
        return None
    if error.filename is None:
        return error
    folders = (ours[1].parent, *ours[1].parents)
    return error if Path(os.fsdecode(error.filename)) in (*ours, *folders) else None


def _write_message(path: str | os.PathLike, target: Path, cause: OSError) -> str:
    reason = _MENDS.get(cause.errno or 0, f"{cause.strerror or cause}. Write to another folder")
    kept = "; the previous file is untouched" if target.is_file() else ""
    return f"cannot write {os.fspath(path)}: {reason}{kept}."
