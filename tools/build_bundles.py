"""Write the committed bundles from one commented template and one small file per task.

    python tools/build_bundles.py            write bundles/blosam_*/
    python tools/build_bundles.py --check    fail, naming the files, when what is committed differs
    python tools/build_bundles.py --zip DIR  write a self-contained release zip of each bundle into DIR

Edit ``bundles/_template`` (structure) and ``bundles/_tasks`` (names, classes, sizes, texts), never the
generated files: MONAI Label and MONAI Deploy read single, complete JSON files, so nothing can be shared at run time.
The merge is MONAI's own (``ConfigParser.load_config_files``): ``"+a#b"`` in a task file merges into ``a#b``.
docs/bundles.md explains how to make a bundle of one's own.

A release zip holds the bundle, a copy of the ``blosam`` package at its root (MONAI puts that folder on the path), the
weights when they are there, and ``large_files.yml``. It needs only the packages that metadata.json lists. The same
files give the same bytes. With ``--url`` the weights stay out of the zip, and ``large_files.yml`` says where they are
and which SHA-256 they have; without it they are inside, and it lists nothing to fetch but their digests as comments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from string import Template
from typing import Any

from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("train", "inference", "metadata")
# Laid over train.json by the user's command: their "a#b" keys must stay as they are.
OVERLAYS = ("evaluate", "multi_gpu_train", "multi_gpu_evaluate")
TASK_KEYS = {"labels", "image_size", "views_kind", "phantom", "docs", *CONFIGS, *OVERLAYS}
NEEDED_KEYS = ("labels", "metadata")
NEEDED_TEXTS = ("name", "task", "description", "intended_use")
DEFAULT_TEXTS = {
    "data": "Your own labelled images.\n",
    "results": "Not measured yet.\n",
    "data_license": "No image is part of this bundle, and no weights trained on patient images.\n",
}


PACKAGE = ROOT / "common" / "blosam"
WEIGHTS = ("models/model.pt", "models/model.ts", "models/adapter.safetensors")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can state


class TaskError(ValueError):
    """A task file that cannot become a bundle; the text names the file and the mend."""


def read_task(path: Path) -> dict[str, Any]:
    """One task file, checked: what is missing or misspelt would otherwise show up much later.

    Raises:
        TaskError: naming the file, the key and the mend.
    """
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskError(f"{path}: not valid JSON ({error}). Mend that line.") from error
    unknown = sorted(set(task) - TASK_KEYS)
    if unknown:
        raise TaskError(f"{path}: unknown key {unknown[0]!r}. The keys are {', '.join(sorted(TASK_KEYS))}.")
    missing = [key for key in NEEDED_KEYS if key not in task]
    missing += [f"metadata: {key}" for key in NEEDED_TEXTS if not task.get("metadata", {}).get(key)]
    if missing:
        raise TaskError(f"{path}: {missing[0]!r} is missing. Add it.")
    values = sorted(task["labels"].values())
    if not values or values != list(range(1, len(values) + 1)):
        raise TaskError(f"{path}: the values of 'labels' are {values}. Number the classes 1, 2, ... without a gap.")
    if task.get("image_size", 256) % 16:
        raise TaskError(f"{path}: image_size is {task['image_size']}. Give a multiple of 16.")
    return task


def settings(config: str, task: dict[str, Any]) -> dict[str, Any]:
    """What a task says about one config: what follows from classes and size, then what it states itself."""
    size = task.get("image_size", 256)
    names = ["background", *sorted(task["labels"], key=task["labels"].get)]
    derived: dict[str, Any] = {}
    if config in ("train", "inference"):
        derived = {"labels": task["labels"], "image_size": size}
    if config == "train" and "views_kind" in task:
        derived["views_kind"] = task["views_kind"]
    if config == "metadata":
        derived = {
            "label_classes": "one mask, values " + ", ".join(f"{i} ({name})" for i, name in enumerate(names)),
            "pred_classes": f"{len(names)} channels of logits: {', '.join(names)}",
            "+network_data_format#inputs#image": {"spatial_shape": [size, size]},
            "+network_data_format#outputs#pred": {
                "spatial_shape": [size, size],
                "num_channels": len(names),
                "channel_def": {str(i): name for i, name in enumerate(names)},
            },
        }
    for key, value in task.get(config, {}).items():
        both = key.startswith("+") and isinstance(derived.get(key), dict)
        derived[key] = {**derived[key], **value} if both else value
    return derived


def merged(config: str, template: Path, task: dict[str, Any]) -> str:
    """The complete JSON text of one config: template first, then what the task says about it."""
    own = settings(config, task)
    if config in OVERLAYS:
        content = ConfigParser.load_config_file(str(template)) | own
        return json.dumps(content, indent=4) + "\n"
    with tempfile.TemporaryDirectory() as scratch:
        overlay = Path(scratch) / "task.json"
        overlay.write_text(json.dumps(own))
        content = ConfigParser.load_config_files([str(template), str(overlay)])
    return json.dumps(content, indent=4) + "\n"


def bundle_files(name: str, bundles: Path) -> dict[str, str]:
    """Relative path and text of every generated file of the bundle ``blosam_NAME``."""
    template, tasks = bundles / "_template", bundles / "_tasks"
    task = read_task(tasks / f"{name}.json")
    files = {}
    for config in (*CONFIGS, *OVERLAYS):
        source = template / f"{config}.yaml"
        if source.is_file():
            files[f"configs/{config}.json"] = merged(config, source, task)
    files["configs/logging.conf"] = (template / "logging.conf").read_text()
    files["LICENSE"] = (ROOT / "LICENSE").read_text()
    texts = {
        part: path.read_text() if (path := tasks / f"{name}_{part}{suffix}").is_file() else DEFAULT_TEXTS[part]
        for part, suffix in (("data", ".md"), ("results", ".md"), ("data_license", ".txt"))
    }
    files["docs/data_license.txt"] = texts.pop("data_license")
    metadata = json.loads(files["configs/metadata.json"])
    words = {key: metadata[key] for key in ("name", "task", "intended_use", "version")} | texts
    words["bundle"] = f"blosam_{name}"
    words["labels"] = ", ".join(f"{index} = {label}" for label, index in task["labels"].items())
    words["changes"] = "\n".join(f"- {version}: {text}" for version, text in metadata["changelog"].items())
    files["docs/README.md"] = Template((template / "README.md").read_text()).substitute(words)
    return files


def task_names(bundles: Path) -> list[str]:
    """The tasks that have a file in ``_tasks``, sorted."""
    return sorted(path.stem for path in (bundles / "_tasks").glob("*.json"))


def build(check: bool, bundles: Path = ROOT / "bundles") -> list[str]:
    """Write (or, with ``check``, only compare) every bundle; the paths that differed, below the folder of bundles."""
    differing = []
    for name in task_names(bundles):
        folder = bundles / f"blosam_{name}"
        wanted = bundle_files(name, bundles)
        for relative, text in wanted.items():
            path = folder / relative
            if path.is_file() and path.read_text() == text:
                continue
            differing.append(str(path.relative_to(bundles)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return differing


def package_files() -> dict[str, bytes]:
    """The package as it is shipped in every zip: ``blosam/...`` without caches."""
    paths = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"blosam/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in sorted(paths)}


def large_files_text(weights: dict[str, bytes], url: str | None) -> str:
    """``large_files.yml``: what to fetch, with digests; or the digests of what is inside."""
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in weights.items()}
    if url is None:
        lines = [f"# {path} is in this zip, sha256 {digest}" for path, digest in digests.items()]
        return "\n".join([*lines, "large_files: []"]) + "\n"
    entries = [
        f'  - path: "{path}"\n    url: "{url.rstrip("/")}/{path.split("/")[-1]}"\n'
        f'    hash_val: "{digest}"\n    hash_type: "sha256"\n'
        for path, digest in digests.items()
    ]
    return "large_files:\n" + "".join(entries)


def write_zip(name: str, bundles: Path, folder: Path, url: str | None = None) -> Path:
    """Write ``blosam_NAME_vVERSION.zip``; its top folder is ``blosam_NAME``.

    Args:
        name: of the task.
        bundles: folder of the template, the tasks and the bundles, whose ``models/`` hold the weights if any.
        folder: where the zip goes.
        url: web folder from which the weights of this bundle are fetched; None packs them.
    """
    bundle = bundles / f"blosam_{name}"
    files = {path: text.encode() for path, text in bundle_files(name, bundles).items()} | package_files()
    weights = {path: (bundle / path).read_bytes() for path in WEIGHTS if (bundle / path).is_file()}
    files["large_files.yml"] = large_files_text(weights, url).encode()
    files |= weights if url is None else {}
    version = json.loads(files["configs/metadata.json"])["version"]
    target = folder / f"{bundle.name}_v{version}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".tmp-{target.name}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{bundle.name}/{path}", LONG_AGO)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            if path in weights:  # they hardly shrink, and MONAI reads them faster stored
                entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, content)
    partial.replace(target)
    if not weights:
        print(f"note: {bundle.name} has no weights; the zip trains but does not segment (run `make models` first)")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit 1 when ``--check`` finds a difference or a task file is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a bundle is out of date")
    parser.add_argument(
        "--bundles", type=Path, default=ROOT / "bundles", help="folder of _template/ and _tasks/; default: bundles/"
    )
    parser.add_argument("--zip", type=Path, metavar="DIR", help="also write release zips into this folder")
    parser.add_argument("--url", help="with --zip: weights stay out and are fetched from URL/BUNDLE/FILE")
    options = parser.parse_args(arguments)
    try:
        differing = build(options.check, options.bundles)
    except TaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in differing:
        print(f"{'out of date' if options.check else 'wrote'}: {options.bundles.name}/{path}")
    if options.check and differing:
        print("Run `python tools/build_bundles.py` and commit the result.")
        return 1
    for name in task_names(options.bundles) if options.zip else ():
        url = options.url and f"{options.url.rstrip('/')}/blosam_{name}"
        print(f"wrote: {write_zip(name, options.bundles, options.zip, url)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
