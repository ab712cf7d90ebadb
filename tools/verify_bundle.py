"""Check bundles as MONAI's public model zoo checks them, without a network.

    python tools/verify_bundle.py [BUNDLE ...]      default: every bundles/blosam_* folder

In this order: the required files, the version in the changelog, the metadata against MONAI's schema (the committed
copy), the ids MONAI's consumers look up, the shapes of the network against the metadata, and TorchScript: that the
weights can be exported and that ``models/model.ts`` is one of them. Run ``make models`` first: weights are not in the
repository. The first failure of a bundle is printed in one line, and the command ends with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import monai.bundle
import torch
import yaml
from monai.bundle import ConfigWorkflow
from monai.data import load_net_with_metadata

from blosam.bundle import Bundle, root_cause
from blosam.errors import BlosamError
from blosam.weightsio import load_strict, sha256_of

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "tests" / "data" / "meta_schema_20240725.json"
REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
)
WEIGHTS = "models/model.pt"
# What monai.bundle cannot raise more narrowly: its parser wraps whatever a component raised.
_FAILURES = (BlosamError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError)


class Failure(Exception):
    """Why a bundle does not pass, in one line."""


def check_files(bundle: Path) -> None:
    """The required files are there; large ones that stay out are listed with their digest."""
    missing = [name for name in REQUIRED if not (bundle / name).is_file()]
    if missing:
        raise Failure(f"{', '.join(missing)} missing. Generate the bundle with tools/build_bundles.py.")
    listed = large_files(bundle)
    for entry in listed:
        path = bundle / entry["path"]
        if path.is_file() and sha256_of(path) != entry["hash_val"]:
            raise Failure(f"{entry['path']} is not the file of large_files.yml (sha256 differs). Fetch it again.")
    if not (bundle / WEIGHTS).is_file():
        where = "Fetch it from the address in large_files.yml." if listed else "Run `make models`, or train the bundle."
        raise Failure(f"{WEIGHTS} missing. {where}")


def large_files(bundle: Path) -> list[dict[str, str]]:
    """The entries of ``large_files.yml``, each with path, url, hash_val and hash_type."""
    path = bundle / "large_files.yml"
    if not path.is_file():
        return []
    entries = (yaml.safe_load(path.read_text()) or {}).get("large_files", [])
    for entry in entries:
        absent = [key for key in ("path", "url", "hash_val", "hash_type") if key not in entry]
        if absent or entry["hash_type"] != "sha256":
            raise Failure(f"large_files.yml: an entry lacks {', '.join(absent) or 'the hash_type sha256'}. Add it.")
    return entries


def check_version(bundle: Path) -> None:
    """The version is a key of the changelog, with words for users."""
    metadata = _metadata(bundle)
    version, changes = metadata.get("version"), metadata.get("changelog") or {}
    if not version or not str(changes.get(version, "")).strip():
        raise Failure(f"version {version!r} has no line in the changelog of metadata.json. Add one to the template.")


def check_schema(bundle: Path) -> None:
    """The metadata follow MONAI's schema."""
    validator = jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text()))
    error = next(iter(validator.iter_errors(_metadata(bundle))), None)
    if error is not None:
        place = "#".join(map(str, error.absolute_path)) or "the top level"
        raise Failure(f"metadata.json breaks MONAI's schema at {place}: {error.message}.")


def check_properties(bundle: Path) -> None:
    """The ids that MONAI's workflows look up have the names they expect."""
    for config, kind in (("train", "training"), ("inference", "inference")):
        flow = ConfigWorkflow(
            config_file=str(bundle / "configs" / f"{config}.json"),
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            init_id="none",  # nothing is to run, only to be looked up
            bundle_root=str(bundle),
        )
        flow.parser.parse(reset=True)
        wrong = [
            name for name, place in flow.properties.items() if place.get("required") and place["id"] not in flow.parser
        ]
        wrong += [
            name
            for name, place in flow.properties.items()
            if not place.get("required") and not flow._check_optional_id(name, place)
        ]
        if wrong:
            raise Failure(f"{config}.json lacks or misnames what MONAI calls {', '.join(wrong)}..")


def check_shapes(bundle: Path) -> None:
    """The network takes and gives tensors as the metadata say."""
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        device="cpu",
    )


def check_torchscript(bundle: Path) -> None:
    """The weights fit, can be exported, and an existing ``model.ts`` computes the same and carries its configs."""
    opened = Bundle(bundle)
    network = opened.parser("inference").get_parsed_content("network_def").eval()
    load_strict(network, bundle / WEIGHTS, opened.labels)
    image = torch.rand(1, 3, network.image_size, network.image_size)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.ts"
        monai.bundle.ckpt_export(
            net_id="network_def",
            filepath=str(target),
            ckpt_file=str(bundle / WEIGHTS),
            meta_file=str(bundle / "configs" / "metadata.json"),
            config_file=str(bundle / "configs" / "inference.json"),
            bundle_root=str(bundle),
        )
        _compare(network, target, image, "the exported TorchScript")
    if (bundle / "models" / "model.ts").is_file():
        _compare(network, bundle / "models" / "model.ts", image, "models/model.ts")


def _compare(network: torch.nn.Module, path: Path, image: torch.Tensor, name: str) -> None:
    scripted, metadata, extra = load_net_with_metadata(str(path), more_extra_files=("inference.json",))
    if not metadata or not extra.get("inference.json"):
        raise Failure(f"{name} holds no metadata or no inference config. Export it again with `blosam export`.")
    with torch.inference_mode():
        if not torch.allclose(scripted(image), network(image), atol=1e-3, rtol=1e-3):
            raise Failure(f"{name} computes other masks than {WEIGHTS}. Export it again with `blosam export`.")


CHECKS: dict[str, Callable[[Path], None]] = {
    "files": check_files,
    "version": check_version,
    "schema": check_schema,
    "properties": check_properties,
    "shapes": check_shapes,
    "TorchScript": check_torchscript,
}


def verify(bundle: Path) -> list[str]:
    """Run all checks on one bundle.

    Returns:
        The names of the checks that passed.

    Raises:
        Failure: at the first check that fails; the text begins with its name.
    """
    passed = []
    for name, check in CHECKS.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(bundle)
        except Failure as failure:
            raise Failure(f"{name}: {failure}") from failure
        except _FAILURES as error:
            cause = root_cause(error)
            raise Failure(f"{name}: {' '.join(str(cause).split())[:400] or type(cause).__name__}") from error
        passed.append(name)
    return passed


def _metadata(bundle: Path) -> dict[str, Any]:
    return Bundle(bundle).metadata


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit 1 when a bundle does not pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, help="bundle folders; default: all of bundles/")
    chosen = parser.parse_args(arguments).bundles or sorted((ROOT / "bundles").glob("blosam_*"))
    logging.disable(logging.WARNING)
    status = 0
    for bundle in chosen:
        try:
            print(f"{bundle.name}: {', '.join(verify(bundle.resolve()))} verified")
        except Failure as failure:
            print(f"{bundle.name}: {failure}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
