"""SHA-256 of files and of tensors, by which weights are recognised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch
from torch import Tensor

_CHUNK = 1 << 20  # bytes read at a time


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Args:
        path: the file, read in pieces of 1 MiB.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, 64 hexadecimal digits, whatever the order of the entries.

    Args:
        state: name -> tensor, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
