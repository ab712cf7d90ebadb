"""A bundle to predict with, wherever it comes from: a folder, a release zip or an exported ``model.ts``.

What runs when a bundle is used: the classes and expressions of its ``configs/inference.json``, which
:mod:`blosam.inference.allowed` compares with a short list, and, from a ``model.ts``, the network's program, whose
operators :mod:`blosam.inference.scripted` compares with another. Weights are loaded weights-only and can run nothing.
Python files inside a zip or a bundle folder are never imported. Here, ``trust`` skips the two lists and nothing else.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from blosam import __version__
from blosam.bundle import Bundle, root_cause
from blosam.compatibility import check_schema, numbers
from blosam.errors import BlosamError
from blosam.weightsio import load_strict, read_adapter_metadata, read_facts, sha256_of

from .allowed import check_config, executed
from .archive import MAX_TEXT, Archive, is_zip, open_archive
from .scripted import check_program, extra_file, is_torchscript

MAX_CLASSES = 255  # masks are uint8
NEEDED = ("labels", "network_def", "preprocessing", "inferer", "postprocessing")
_FROM_ZIP = re.compile(
    r"configs/[\w.-]+\.(json|conf)|models/(model\.pt|adapter\.safetensors)|docs/[\w.-]+|LICENSE|large_files\.yml"
)
_MAX_MODEL_BYTES = 8 << 30


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose configs have been read and checked; nothing of it has run yet.

    Args:
        path: as the user named it.
        form: ``folder``, ``zip`` or ``model.ts``.
        config: content of ``inference.json``.
        metadata: content of ``metadata.json``.
        root: folder of the configs; a temporary one for a zip, the file's own for a ``model.ts``.
        weights: ``model.pt`` or ``model.ts``; may be missing in a folder.
        trust: whether the lists of allowed classes, expressions and operators were skipped.
    """

    path: Path
    form: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    root: Path
    weights: Path
    trust: bool = False

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights file: ``model.pt`` of a folder or zip, or the ``model.ts``."""
        return sha256_of(self.require_weights())

    @property
    def executed(self) -> list[str]:
        """What runs when this bundle is used, one line each."""
        program = ["runs the network program in model.ts (TorchScript)"] if self.form == "model.ts" else []
        return [*program, *executed(self.config)]

    @cached_property
    def facts(self) -> dict[str, str]:
        """What the weights say about themselves, see ``weightsio.read_facts``; empty for a ``model.ts``."""
        if self.form == "model.ts" or not self.weights.is_file():
            return {}
        _check_not_packed(self.weights)
        return read_facts(self.weights)

    @property
    def iou_trained(self) -> bool:
        """Whether the head that predicts the IoU was trained and can be asked, as the adapter file says."""
        if self.form == "model.ts":
            return False
        try:
            return read_adapter_metadata(self.root / "models" / "adapter.safetensors").get("iou_head") == "trained"
        except BlosamError:
            return False

    def require_weights(self) -> Path:
        """The weights file.

        Raises:
            BlosamError: when there is none.
        """
        if self.form == "zip" and not self.weights.is_file():
            raise BlosamError(
                f"{self.path}: holds no weights. Unpack it and train it, or fetch what its large_files.yml names with "
                "`python -m monai.bundle download_large_files`, and give the folder."
            )
        return self.weights if self.form == "model.ts" else Bundle(self.root).require_weights()

    def parser(self, device: str | torch.device) -> ConfigParser:
        """MONAI's parser over the config that was checked, not over the file, which may have changed since."""
        parser = ConfigParser()
        # No evaluator: an expression that runs one would segment a folder of the bundle's choice.
        config = json.loads(json.dumps(self.config))
        config.pop("evaluator", None)
        parser.read_config(config)
        parser["bundle_root"] = str(self.root)
        parser["checkpoint"] = str(self.weights)
        parser["device"] = f"$torch.device('{torch.device(device)}')"
        return parser

    def build(self, parser: ConfigParser, identifier: str) -> Any:
        """One object of the config.

        Raises:
            BlosamError: naming the id, when it cannot be built.
        """
        try:
            return parser.get_parsed_content(identifier)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            cause = root_cause(error)
            if isinstance(cause, BlosamError):
                raise cause from error
            raise BlosamError(
                f"{self.path}: '{identifier}' of inference.json cannot be built ({_last_words(error)}). "
                "Get the bundle again from its maker."
            ) from error

    def network(self, parser: ConfigParser, device: str | torch.device) -> torch.nn.Module:
        """The network with its weights, in evaluation mode.

        Raises:
            BlosamError: when the weights are missing, damaged or those of another bundle.
        """
        if self.form == "model.ts":
            return self._scripted(device)
        weights = self.require_weights()
        try:
            _check_not_packed(weights)
            network = self.build(parser, "network_def")  # looks at the weights
            load_strict(network, weights, self.config["labels"])
        except BlosamError as error:
            if self.form == "folder":
                raise
            # The temporary folder is gone by the time somebody reads this.
            raise BlosamError(str(error).replace(str(self.root), str(self.path))) from error
        return network.to(device).eval()

    def _scripted(self, device: str | torch.device) -> torch.nn.Module:
        try:
            return torch.jit.load(str(self.weights), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise BlosamError(f"{self.path}: no readable TorchScript. Export it again with `blosam export`.") from error


@contextmanager
def open_bundle(path: Path | str, trust: bool = False) -> Iterator[OpenedBundle]:
    """Open a bundle in any of its three forms for prediction.

    A zip is unpacked into a private temporary folder, which is removed at the end; build what you need inside.

    Args:
        path: a bundle folder, a release zip, or a ``model.ts``.
        trust: run configs and programs that go beyond what our own bundles contain. They can do anything
            that you can do on this computer.

    Raises:
        BlosamError: when it is no bundle, damaged, made for a newer version, or does more than it may.
    """
    path = Path(path)
    if path.is_dir():
        yield _from_folder(path, Bundle(path).root, "folder", trust)
        return
    if not path.is_file():
        raise BlosamError(f"{path}: no such bundle. Give a bundle folder, a release zip or an exported model.ts.")
    if not is_zip(path):
        raise BlosamError(f"{path}: neither a zip nor a TorchScript file. Give a bundle folder, a zip or a model.ts.")
    with open_archive(path) as archive:
        if is_torchscript(archive):
            yield _from_torchscript(path, archive, trust)
            return
        top = _bundle_folder(archive)
        with tempfile.TemporaryDirectory(prefix="blosam-") as folder:
            root = Path(folder)
            archive.extract(lambda name: _wanted(name, top), root, _MAX_MODEL_BYTES)
            yield _from_folder(path, root, "zip", trust)


def _wanted(name: str, top: str) -> str | None:
    """The name below the bundle's folder of a zip entry that is used; None for others, all Python code among them."""
    inner = name[len(top) :] if name.startswith(top) else ""
    return inner if _FROM_ZIP.fullmatch(inner) else None


def _bundle_folder(archive: Archive) -> str:
    """Where in the zip the bundle is: ``""`` or ``"NAME/"``."""
    config = "configs/inference.json"
    tops = [name.removesuffix(config) for name in archive.entries if name.endswith(config)]
    tops = [top for top in tops if top == "" or (top.count("/") == 1 and top.endswith("/"))]
    if len(tops) == 1:
        return tops[0]
    if not tops and any(name.endswith("/data.pkl") for name in archive.entries):
        raise BlosamError(f"{archive.path}: holds weights alone. Give the folder or zip of their bundle.")
    found = "no configs/inference.json" if not tops else f"{len(tops)} bundles"
    raise BlosamError(f"{archive.path}: holds {found}. Give a bundle folder, the zip of one bundle, or a model.ts.")


def _from_folder(path: Path, root: Path, form: str, trust: bool) -> OpenedBundle:
    texts = {name: _text(path, root / "configs" / f"{name}.json") for name in ("inference", "metadata")}
    config, metadata = (_json(f"{path}: configs/{name}.json", text) for name, text in texts.items())
    _check(path, config, metadata, trust)
    return OpenedBundle(path, form, config, metadata, root, root / "models" / "model.pt", trust)


def _from_torchscript(path: Path, archive: Archive, trust: bool) -> OpenedBundle:
    text = extra_file(archive, "inference.json")
    if not text:
        raise BlosamError(f"{path}: holds no inference config. Export it again with `blosam export`.")
    config = _json(f"{path}: inference.json", text)
    metadata = _json(f"{path}: metadata.json", extra_file(archive, "metadata.json") or "{}")
    _check(path, config, metadata, trust)
    if not trust:
        check_program(archive)
    return OpenedBundle(path, "model.ts", config, metadata, path.resolve().parent, path.resolve(), trust)


def _text(path: Path, file: Path) -> str:
    try:
        if file.stat().st_size > MAX_TEXT:
            raise BlosamError(f"{path}: {file.name} is longer than {MAX_TEXT:,} bytes. Do not use this bundle.")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BlosamError(f"{path}: configs/{file.name} is missing. Get the complete bundle.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BlosamError(f"{path}: configs/{file.name} cannot be read. Check its permissions and content.") from error


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise BlosamError(f"{name}: not valid JSON (line {error.lineno}: {error.msg}). Mend that line.") from error
    except (RecursionError, ValueError) as error:
        raise BlosamError(f"{name}: not usable JSON (nested too deeply, or a number too long).") from error
    if not isinstance(content, dict):
        raise BlosamError(f"{name}: holds no ids and values. Get the bundle again from its maker.")
    return content


# --- what a config must and may hold ------------------------------------------------------------------------


def _check(path: Path, config: dict[str, Any], metadata: dict[str, Any], trust: bool) -> None:
    check_schema(metadata, path)
    missing = [name for name in NEEDED if name not in config]
    if missing:
        raise BlosamError(f"{path}: inference.json has no '{missing[0]}'. Get the bundle again from its maker.")
    if not trust:
        check_config(config, f"{path}: inference.json", _update_advice(metadata))
    _check_labels(path, config["labels"])
    steps = [_first_target(config["preprocessing"]), _first_target(config["postprocessing"])]
    if steps != ["LoadImaged", "Invertd"]:
        raise BlosamError(
            f"{path}: its preprocessing must begin with LoadImaged and its postprocessing with Invertd, not "
            f"{steps[0]} and {steps[1]}. Mend inference.json."
        )


def _first_target(chain: Any) -> str | None:
    """Class name of the first step of a ``Compose`` in a config."""
    steps = chain.get("transforms") if isinstance(chain, dict) else None
    first = steps[0] if isinstance(steps, list) and steps else None
    return str(first.get("_target_")).rsplit(".", 1)[-1] if isinstance(first, dict) else None


def _update_advice(metadata: dict[str, Any]) -> str:
    """What to say when something is unknown: empty unless the bundle was made for a newer blosam than this."""
    packages = metadata.get("required_packages_version")
    made_for = str(packages.get("blosam", "")) if isinstance(packages, dict) else ""
    if numbers(made_for) <= numbers(__version__):
        return ""
    return f"The bundle was made for blosam {made_for[:20]}, this is {__version__}: update blosam."


def _check_labels(path: Path, labels: Any) -> None:
    values = list(labels.values()) if isinstance(labels, dict) else []
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not whole or sorted(values) != list(range(1, len(values) + 1)) or len(values) > MAX_CLASSES:
        raise BlosamError(f"{path}: 'labels' must name the classes 1, 2, ... up to {MAX_CLASSES}. Mend inference.json.")
    odd = [name for name in labels if not name.strip() or not name.isprintable() or len(name) > 64]
    if odd:
        raise BlosamError(f"{path}: the class name {odd[0][:70]!r} is empty, unprintable or above 64 characters.")


def _check_not_packed(weights: Path) -> None:
    """Refuse a weights file that unpacks to far more than its size; PyTorch stores tensors unpacked."""
    if not is_zip(weights):
        return
    with open_archive(weights) as archive:
        unpacked = sum(entry.file_size for entry in archive.entries.values())
    if unpacked > 2 * weights.stat().st_size:
        raise BlosamError(f"{weights}: unpacks to {unpacked:,} bytes, more than twice its size. Do not use this file.")


def _last_words(error: BaseException) -> str:
    """The reason deepest in a chain of exceptions, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
