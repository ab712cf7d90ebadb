"""Saving and loading weights: atomic files, strict loading, and the small adapter file people share.

Every file is replaced whole or not at all (see ``blosam.atomicio``). Loading is weights-only (a file can
never run code) and strict: every tensor of the network must be in the file with its shape, and nothing else.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from . import __version__
from .atomicio import atomic_path, atomic_write
from .digests import sha256_of, state_sha256
from .errors import BlosamError

__all__ = [
    "adapter_parameters",
    "atomic_path",
    "atomic_write",
    "check_tensors",
    "frozen_sha256",
    "load_adapter",
    "load_strict",
    "network_facts",
    "read_adapter_metadata",
    "read_facts",
    "read_state",
    "save_adapter",
    "save_state_dict",
    "sha256_of",
    "state_sha256",
]

logger = logging.getLogger(__name__)

ADAPTER_FORMAT = "blosam-adapter-1"
_FACTS = {  # metadata key -> its name for people, and the mend when it differs
    "encoder": ("encoder", "Build the network with the adapter's encoder"),
    "image_size": ("image size", "Build the network with the adapter's image size"),
    "out_channels": ("number of channels (classes + 1)", "Build the network with the adapter's number of channels"),
    "base_sha256": ("digest of the frozen base weights", "Load the adapter's base weights first"),
}
_DECOMPOSED = (".adapter_u", ".adapter_s", ".adapter_vt")  # ends of the names of decompositions
_FACTS_KEY = "blosam"  # no module of a network is called so
_SHOWN_KEYS = 3  # how many differing keys an error names

# Everything torch.load is known to raise on bytes that are not a whole checkpoint (found by truncating and
# flipping bytes); a weights-only refusal of a pickled object is an UnpicklingError.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    ImportError,
    MemoryError,
    OverflowError,
    struct.error,
)


def save_state_dict(
    state: Mapping[str, Tensor], path: str | os.PathLike, facts: Mapping[str, str] | None = None
) -> None:
    """Write a flat dictionary of tensors with ``torch.save``, atomically.

    Args:
        state: name -> tensor; tensors are stored on the CPU.
        path: the file to write, usually ``model.pt``.
        facts: about the weights, such as ``classes``; they go where PyTorch keeps the versions of modules, beside
            the tensors, so that every reader of the file still finds a flat state dict.

    Raises:
        BlosamError: when ``state`` is not flat or the file cannot be written.
    """
    _check_flat(state, path)
    on_cpu = OrderedDict((name, _own_storage(tensor.detach().cpu())) for name, tensor in state.items())
    if facts:
        on_cpu._metadata = {_FACTS_KEY: dict(facts)}
    with atomic_write(path) as file:
        torch.save(on_cpu, file)


def _own_storage(tensor: Tensor) -> Tensor:
    """A copy when ``tensor`` looks at a part of a larger one, because torch.save would write all of that."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a flat dictionary of tensors onto the CPU, weights-only.

    Args:
        path: a file of ``torch.save`` (any suffix), or ``.safetensors``.

    Returns:
        name -> tensor.

    Raises:
        BlosamError: when the file is missing, truncated, holds pickled objects, or is not flat.
    """
    return dict(_read(path))


def read_facts(path: str | os.PathLike) -> dict[str, str]:
    """What a weights file says about itself: ``classes``, ``method`` and so on; empty for one that says nothing.

    The tensors are not read, however large they are.

    Args:
        path: as for :func:`read_state`.

    Raises:
        BlosamError: as :func:`read_state`.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        return _facts_of(_read(file, lazily=True))
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise BlosamError(f"{file}: is truncated or no safetensors file. Copy, fetch or train it again.") from error


def _facts_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    metadata = getattr(state, "_metadata", None)
    facts = metadata.get(_FACTS_KEY) if isinstance(metadata, Mapping) else None
    return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, Mapping) else {}


def _read(path: str | os.PathLike, lazily: bool = False) -> Mapping[str, Tensor]:
    """A flat state dict as it is in the file, with the facts beside it; tensors only when they are used if lazily."""
    file = Path(path)
    if not file.is_file():
        raise BlosamError(f"{file}: no such weights file. Train the bundle first, or give the path of its weights.")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    try:
        # Files from before PyTorch 1.6 are no zip and cannot be mapped.
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=lazily and zipfile.is_zipfile(file))
    except OSError as error:
        # PyTorch's zip reader seeks before the start of some truncated files: EINVAL, and no fault of the disk.
        mend = "It may be truncated: replace it" if error.errno == errno.EINVAL else "Check its permissions"
        raise BlosamError(f"{file}: cannot be read ({error.strerror or error}). {mend}.") from error
    except _UNREADABLE as error:
        if any(words in str(error).lower() for words in ("unsupported global", "unsupported class")):
            raise BlosamError(
                f"{file}: holds pickled Python objects, which could run code and are never loaded. "
                "Save it again as a flat state dict: torch.save(model.state_dict(), FILE)."
            ) from error
        raise BlosamError(
            f"{file}: is truncated or no PyTorch weights file ({file.stat().st_size:,} bytes). "
            "Copy, fetch or train it again."
        ) from error
    _check_flat(state, file)
    return state


def load_strict(network: nn.Module, path: str | os.PathLike, labels: Mapping[str, int] | None = None) -> None:
    """Load a complete state dict into ``network``; nothing is changed unless everything fits.

    Args:
        network: the network to fill; it keeps its device and dtype.
        path: a flat state dict (``model.pt`` or ``.safetensors``).
        labels: the classes the weights must be for, name -> value 1..K. Weights of another task have the same
            shapes; those that do not say what they are for are taken.

    Raises:
        BlosamError: when the file is unreadable, its keys or shapes are not those of ``network``, or it says that
            it is for other classes.
    """
    state = _read(path)
    check_tensors(state, network.state_dict(), path)
    if labels is not None:
        _check_classes(state, labels, path)
    network.load_state_dict(dict(state), strict=True)


def _check_classes(state: Mapping[str, Tensor], labels: Mapping[str, int], path: str | os.PathLike) -> None:
    theirs = _facts_of(state).get("classes", "")
    ours = ",".join(["background", *sorted(labels, key=labels.get)])
    if theirs and theirs != ours:
        raise BlosamError(
            f"{os.fspath(path)}: these weights are for the classes {theirs}, the bundle's are {ours}. Use the bundle "
            "they were trained in, or train this one."
        )


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Refuse tensors whose names or shapes differ from the expected ones.

    Args:
        found: what ``path`` holds.
        expected: what the network needs.
        path: only named in the message.

    Raises:
        BlosamError: naming the first missing, unexpected or misshaped tensors and the mend.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} {_shape(found[name])} instead of {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    parts = [
        f"{len(names)} {label} ({_first(names)})"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
        if names
    ]
    if parts:
        raise BlosamError(
            f"{os.fspath(path)}: the weights do not fit this network: {', '.join(parts)} tensors. They were "
            "trained with another encoder, method, image size or number of classes: use the bundle they were "
            "trained in, or make one that fits with `blosam switch`."
        )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_safetensors(file, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise BlosamError(
            f"{file}: is truncated or no safetensors file ({file.stat().st_size:,} bytes). "
            "Copy, fetch or train it again."
        ) from error


def _check_flat(state: Any, path: str | os.PathLike) -> None:
    mend = "Save one flat state dict: name -> tensor, as in torch.save(model.state_dict(), FILE)."
    if not isinstance(state, Mapping):
        raise BlosamError(f"{os.fspath(path)}: holds a {type(state).__name__}, not a state dict. {mend}")
    if not state:
        raise BlosamError(f"{os.fspath(path)}: holds no tensors. {mend}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BlosamError(f"{os.fspath(path)}: entry {name!r} is a {type(value).__name__}, no tensor. {mend}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_KEYS]) + (", ..." if len(names) > _SHOWN_KEYS else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "scalar"


# --- adapters -----------------------------------------------------------------------------------------------


def adapter_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that is trained: theta (with the IoU head) and the prompt p.

    Args:
        network: a ``BloSam`` (``weight_parameters``, ``prompt_parameters``).
    """
    trained = {id(p) for p in network.weight_parameters(iou_head=True)} | {id(p) for p in network.prompt_parameters()}
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) in trained}


def frozen_sha256(network: nn.Module) -> str:
    """Digest of the weights an adapter does not hold, which names the base it was trained on.

    Position tables are left out: they are resized to the image size, and interpolation may differ in the last
    bit between machines. So may singular value decompositions, which are computed from weights that count.

    Args:
        network: a ``BloSam``.
    """
    trained = adapter_parameters(network)
    return state_sha256(
        {
            name: tensor
            for name, tensor in network.state_dict().items()
            if name not in trained
            and "pos_embed" not in name
            and "rel_pos" not in name
            and not name.endswith(_DECOMPOSED)
        }
    )


def save_adapter(network: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any] | None = None) -> None:
    """Write theta and p, and what they fit, as safetensors: the small file people share.

    Args:
        network: a ``BloSam``.
        path: the file to write, usually ``adapter.safetensors``.
        metadata: further facts, such as ``method``, ``base`` (name of the base weights) and ``class_names``;
            values other than strings are stored as JSON. What can be read off the network (encoder, image
            size, number of classes, digest of the frozen weights) and the blosam version are added and cannot
            be overridden.

    Raises:
        BlosamError: when the file cannot be written.
    """
    facts = dict(metadata or {}) | {"format": ADAPTER_FORMAT, "blosam_version": __version__} | network_facts(network)
    facts["base_sha256"] = frozen_sha256(network)
    strings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in adapter_parameters(network).items()}
    with atomic_write(path) as file:
        file.write(safetensors_bytes(tensors, metadata=strings))


def read_adapter_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata of an adapter file, without reading its tensors.

    Args:
        path: a file written by :func:`save_adapter`.

    Raises:
        BlosamError: when the file is missing, truncated or no adapter.
    """
    file = Path(path)
    if not file.is_file():
        raise BlosamError(f"{file}: no such adapter file. Train the bundle first, or give the path of its adapter.")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise BlosamError(f"{file}: is truncated or no safetensors file. Copy or train it again.") from error
    if metadata.get("format") != ADAPTER_FORMAT:
        raise BlosamError(
            f"{file}: its format is {metadata.get('format', 'not stated')!r}, not {ADAPTER_FORMAT!r}. "
            "Use the adapter.safetensors that training wrote."
        )
    return metadata


def load_adapter(network: nn.Module, path: str | os.PathLike, check: bool = True) -> dict[str, str]:
    """Load theta and p into ``network``, which must already hold the same base weights.

    Args:
        network: a ``BloSam``; it keeps its device, and is not changed unless everything fits.
        path: a file written by :func:`save_adapter`.
        check: whether encoder, image size, number of classes and base weights must be those of the file.
            Names and shapes of the tensors must fit in any case.

    Returns:
        the metadata of the file.

    Raises:
        BlosamError: when the file is unreadable or does not fit; both values are named.
    """
    metadata = read_adapter_metadata(path)
    if check:
        _check_facts(metadata, network_facts(network) | {"base_sha256": frozen_sha256(network)}, path)
    parameters = adapter_parameters(network)
    tensors = _read_safetensors(Path(path))
    check_tensors(tensors, parameters, path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    logger.info("loaded %d trained tensors from %s", len(tensors), path)
    return metadata


def network_facts(network: nn.Module) -> dict[str, str]:
    """What can be read off a network and is needed to build it again, as strings.

    Args:
        network: a ``BloSam``.
    """
    facts = {key: getattr(network, key) for key in ("image_size", "out_channels")}
    return {key: str(value) for key, value in {"encoder": network.encoder_name, **facts, **network.structure}.items()}


def _check_facts(metadata: Mapping[str, str], facts: Mapping[str, str], path: str | os.PathLike) -> None:
    """Refuse the first fact that differs between the file and the network."""
    for key, (name, mend) in _FACTS.items():
        stated = metadata.get(key, "not stated")
        if stated != facts[key]:
            raise BlosamError(
                f"{os.fspath(path)}: its {name} is {stated}, the network's is {facts[key]}. {mend}, or use the "
                "bundle the adapter was trained in."
            )
