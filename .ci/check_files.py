"""Refuses files that do not belong into the repository: too large, or holding a private key.

Usage: ``python .ci/check_files.py FILE...`` (pre-commit passes the changed files).
"""

from __future__ import annotations

import sys
from pathlib import Path

MAX_BYTES = 1_000_000
# The embedded encoder's weights are the one large thing that is meant to be here.
ASSETS = Path("common/blosam/assets")
# In two parts, so that this file passes its own check.
_KEY_START = b"-----BEGIN "
_KEY_END = b"PRIVATE KEY-----"


def problem(path: Path, root: Path) -> str | None:
    """What is wrong with one file, or nothing.

    Args:
        path: the file, relative to ``root``.
        root: top folder of the checkout.
    """
    file = root / path
    if file.is_symlink() or not file.is_file():
        return None
    size = file.stat().st_size
    if size > MAX_BYTES and ASSETS not in path.parents:
        return f"{path}: {size} bytes, more than {MAX_BYTES}. Fetch or draw it when it is needed instead."
    for line in file.read_bytes().splitlines():
        if line.startswith(_KEY_START) and line.rstrip().endswith(_KEY_END):
            return f"{path}: holds a private key. Remove it and replace the key, it is no secret any more."
    return None


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong with the given files; return 1 if anything is."""
    given = sys.argv[1:] if arguments is None else arguments
    problems = [text for name in given if (text := problem(Path(name), Path.cwd()))]
    for text in problems:
        print(text, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
