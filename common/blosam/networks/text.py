"""Vectors for class names from outside: a file of them, or a function that embeds names (CLIP, a language model)."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BlosamError
from ..weightsio import read_state


def label_vectors(source: str, names: Sequence[str]) -> Tensor:
    """One vector for each class, to be projected by ``TextPrompt``.

    Args:
        source: a ``.safetensors`` or ``.npz`` file, class name -> vector; or ``package.module:function``, which is
            called with the list of names and returns K x width numbers.
        names: of the classes, in the order of their numbers.

    Returns:
        K x width float32.

    Raises:
        BlosamError: when the file or function is missing, a name has no vector, or the numbers are not usable.
    """
    if Path(source).suffix in (".safetensors", ".npz"):
        found = _from_file(Path(source))
        missing = [name for name in names if name not in found]
        if missing:
            raise BlosamError(f"{source}: no vector for {', '.join(missing)}. It has: {', '.join(list(found)[:10])}.")
        rows = [torch.as_tensor(found[name], dtype=torch.float32).reshape(-1) for name in names]
        widths = sorted({len(row) for row in rows})
        if len(widths) > 1:
            raise BlosamError(f"{source}: vectors of {widths} numbers. Give all classes vectors of one length.")
        vectors = torch.stack(rows)
    else:
        vectors = _from_function(source, list(names))
    if vectors.ndim != 2 or len(vectors) != len(names) or not vectors.isfinite().all() or not vectors.shape[1]:
        raise BlosamError(
            f"{source}: gave {tuple(vectors.shape)} for {len(names)} class(es). Give one vector of finite numbers each."
        )
    return vectors


def _from_file(path: Path) -> Mapping[str, np.ndarray | Tensor]:
    if path.suffix == ".safetensors":
        return read_state(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BlosamError(f"{path}: no readable .npz file of vectors ({error}). Write it with numpy.savez.") from error


def _from_function(source: str, names: list[str]) -> Tensor:
    module, _, function = source.partition(":")
    if not module or not function:
        raise BlosamError(
            f"'{source}' names no text embeddings. Give a .safetensors or .npz file, or package.module:function."
        )
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BlosamError(f"'{source}' cannot be imported ({error}). Install it, or set PYTHONPATH.") from error
    return torch.as_tensor(np.asarray(call(names)), dtype=torch.float32)
