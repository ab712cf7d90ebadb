"""Write the committed bundles from one commented template and one small file per task.

    python tools/build_bundles.py            write bundles/blosam_*/
    python tools/build_bundles.py --check    fail, naming the files, when what is committed differs

Edit ``bundles/_template`` (structure) and ``bundles/_tasks`` (names, classes, sizes, texts), never the
generated files: MONAI Label and MONAI Deploy read single, complete JSON files, so nothing can be shared at run time.
The merge is MONAI's own (``ConfigParser.load_config_files``): ``"+a#b"`` in a task file merges into ``a#b``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from string import Template

from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "bundles" / "_template"
TASKS = ROOT / "bundles" / "_tasks"
CONFIGS = ("train", "inference", "metadata")
OVERLAYS = ("evaluate",)  # laid over train.json by the user's command: their "a#b" keys must stay as they are


def merged(config: str, task: dict) -> str:
    """The complete JSON text of one config: template first, then what the task says about it."""
    if config in OVERLAYS:
        content = ConfigParser.load_config_file(str(TEMPLATE / f"{config}.yaml")) | task.get(config, {})
        return json.dumps(content, indent=4) + "\n"
    with tempfile.TemporaryDirectory() as scratch:
        overlay = Path(scratch) / "task.json"
        overlay.write_text(json.dumps(task.get(config, {})))
        content = ConfigParser.load_config_files([str(TEMPLATE / f"{config}.yaml"), str(overlay)])
    return json.dumps(content, indent=4) + "\n"


def bundle_files(name: str) -> dict[str, str]:
    """Relative path and text of every generated file of the bundle ``blosam_NAME``."""
    task = json.loads((TASKS / f"{name}.json").read_text())
    files = {f"configs/{config}.json": merged(config, task) for config in (*CONFIGS, *OVERLAYS)}
    files["configs/logging.conf"] = (TEMPLATE / "logging.conf").read_text()
    files["LICENSE"] = (ROOT / "LICENSE").read_text()
    words = dict(task["docs"], **{key: task["metadata"][key] for key in ("name", "task", "intended_use")})
    words["labels"] = ", ".join(f"{index} = {label}" for label, index in task["train"]["labels"].items())
    words["results"] = (TASKS / f"{name}_results.md").read_text()
    words["data"] = (TASKS / f"{name}_data.md").read_text()
    files["docs/README.md"] = Template((TEMPLATE / "README.md").read_text()).substitute(words)
    files["docs/data_license.txt"] = (TASKS / f"{name}_data_license.txt").read_text()
    return files


def task_names() -> list[str]:
    """The tasks that have a file in ``bundles/_tasks``, sorted."""
    return sorted(path.stem for path in TASKS.glob("*.json"))


def build(check: bool) -> list[str]:
    """Write (or, with ``check``, only compare) every bundle; the relative paths that differed."""
    differing = []
    for name in task_names():
        folder = ROOT / "bundles" / f"blosam_{name}"
        for relative, text in bundle_files(name).items():
            path = folder / relative
            if path.is_file() and path.read_text() == text:
                continue
            differing.append(str(path.relative_to(ROOT)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return differing


def main() -> int:
    """Command line; exit 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a bundle is out of date")
    arguments = parser.parse_args()
    differing = build(arguments.check)
    for path in differing:
        print(f"{'out of date' if arguments.check else 'wrote'}: {path}")
    if arguments.check and differing:
        print("Run `python tools/build_bundles.py` and commit the result.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
