"""Writing the network for programs that do not have this package: TorchScript and ONNX."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..atomicio import atomic_path, atomic_write
from ..errors import BlosamError
from .blosam import BloSam

METADATA_FILE = "metadata.json"  # where monai.data.load_net_with_metadata looks
_ONNX_LIMIT = 1_900_000_000  # bytes; an ONNX file cannot exceed 2 GiB


def to_torchscript(
    network: BloSam,
    path: str | os.PathLike,
    metadata: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> torch.jit.ScriptModule:
    """Write a TorchScript file: image B x 3 x S x S in [0, 1] to logits B x (K + 1) x S x S, any B.

    Args:
        network: written as it is in evaluation mode, adapters folded; not changed.
        path: the file to write, usually ``model.ts``; replaced atomically.
        metadata: stored as ``metadata.json`` inside the file.
        extra_files: name and text of other files to store inside, e.g. ``inference.json``.

    Returns:
        the scripted module.

    Raises:
        BlosamError: when the file cannot be written.
    """
    scripted = torch.jit.script(network)
    extra = {METADATA_FILE: json.dumps(dict(metadata or {})), **(extra_files or {})}
    # By file object: on a full disk TorchScript's own writer aborts the process when it is given a file name.
    with atomic_write(path) as file:
        torch.jit.save(scripted, file, _extra_files=extra)
    return scripted


def to_onnx(network: BloSam, path: str | os.PathLike) -> None:
    """Write one ONNX file: input ``image`` B x 3 x S x S, output ``pred`` B x (K + 1) x S x S, any B.

    Args:
        network: written as it is in evaluation mode, adapters folded; not changed. Its weights must be below 1.9 GB.
        path: the file to write; replaced atomically.

    Raises:
        BlosamError: when the onnx packages are missing, the network is too large, or the file cannot be
            written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise BlosamError(f"ONNX export needs {' and '.join(missing)}. Install blosam[export].")
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if size > _ONNX_LIMIT:
        raise BlosamError(
            f"the {network.encoder_name} network is {size:,} bytes, an ONNX file holds at most 2 GiB. "
            "Export TorchScript, or use a smaller encoder."
        )
    example = torch.zeros(2, 3, network.image_size, network.image_size).to(network.pixel_mean)
    with torch.no_grad(), warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore", FutureWarning)  # of the exporter's own code
        torch.onnx.export(
            network.folded(),
            (example,),
            str(temporary),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
