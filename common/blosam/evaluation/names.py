"""Names of images for tables and reports: short, unique, and without the folders of a machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

_DOUBLE_SUFFIX = re.compile(r"\.nii\.gz$", re.IGNORECASE)


def unique_names(paths: Sequence[str]) -> list[str]:
    """Short names for image files: the stem, and more of the path only where stems are not unique.

    Args:
        paths: one path per image, in any mixture of folders; the same path may occur twice.

    Returns:
        As many names, all different, in the same order.
    """
    parts = [PurePath(p).parts for p in paths]
    names = [_DOUBLE_SUFFIX.sub("", PurePath(p).name) for p in paths]
    names = [PurePath(n).stem if PurePath(n).stem else n for n in names]
    for depth in range(1, max((len(p) for p in parts), default=0) + 1):
        counts = Counter(names)
        names = [n if counts[n] == 1 else "/".join(p[-depth:]) for n, p in zip(names, parts, strict=True)]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def safe_file_name(name: str) -> str:
    """``name`` as a file name: letters, digits, dot, dash and underscore, at most 80, not hidden."""
    return re.sub(r"[^\w.-]+", "_", name)[:80].lstrip(".") or "image"
