"""``pyproject.toml``, ``constraints.txt`` and the imports of the package agree with each other."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import blosam

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "common" / "blosam"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(text) for text in requirements]
    for extra, requirements in PROJECT["optional-dependencies"].items()
}
# Import name -> distribution, where they differ.
DISTRIBUTION = {
    "PIL": "pillow",
    "gdcm": "python-gdcm",
    "ignite": "pytorch-ignite",
    "jpeg_ls": "pyjpegls",
    "yaml": "pyyaml",
}
# torch brings these itself, in a build that has them; torch pins them.
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")


def constraints() -> dict[str, Requirement]:
    """The lines of ``constraints.txt`` by canonical name."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    by_name = {canonicalize_name(item.name): item for item in requirements}
    assert len(by_name) == len(requirements), "a package is listed twice"
    return by_name


def pinned_version(pin: Requirement) -> Version:
    """The version of a pin, which must be of the form ``name==version``."""
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level name of every absolute import in a file, and whether it runs when the module is imported."""
    tree = ast.parse(path.read_text())
    lazy = set()
    for node in ast.walk(tree):
        # Type checking blocks never run; functions run when somebody asks for what the extra is for.
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            lazy.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        for name in names:
            yield name.split(".")[0], id(node) not in lazy


# Run only in MONAI Label's environment, which constraints-label.txt describes.
LABEL_MODULES = {f"common/blosam/label/{name}.py" for name in ("app", "datastore", "server", "tasks")}


def third_party_imports() -> list[tuple[str, str, bool]]:
    """File, distribution and whether it is imported at once, for everything outside the standard library."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for name, immediate in imports(path):
            if name not in sys.stdlib_module_names and name != "blosam":
                distribution = canonicalize_name(DISTRIBUTION.get(name, name))
                found.add((str(path.relative_to(ROOT)), distribution, immediate))
    return sorted(found)


def names(requirements: list[Requirement]) -> set[str]:
    """Canonical names of requirements."""
    return {canonicalize_name(item.name) for item in requirements}


@pytest.mark.parametrize(
    "requirement",
    [item for item in [*CORE, *sum(EXTRAS.values(), [])] if item.name != "blosam"],
    ids=str,
)
def test_requirement_is_pinned_within_its_bounds(requirement):
    pin = constraints()[canonicalize_name(requirement.name)]
    assert pinned_version(pin) in requirement.specifier
    assert requirement.specifier, "a requirement states the lowest version it needs"


def test_constraints_are_exact_and_portable():
    for pin in constraints().values():
        assert pinned_version(pin).local is None, f"{pin}: a local version exists on no other machine"
        assert pin.url is None


def test_everything_installed_for_the_package_is_pinned():
    """Follows the metadata of the installed packages, so that no indirect dependency floats."""
    pins = constraints()
    unpinned = set()
    waiting = [*CORE, *sum((EXTRAS[extra] for extra in ("export", "dicom", "prepare", "compare", "dev")), [])]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or name.startswith(CUDA_PREFIXES):
            continue
        seen.add(name)
        if name not in pins:
            unpinned.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in needed:
            indirect = Requirement(text)
            if indirect.marker is None or indirect.marker.evaluate({"extra": ""}):
                waiting.append(indirect)
    assert {"torch", "sympy", "monai"} <= seen
    assert unpinned == set()


def test_the_whole_closure_excludes_gpl_decoders():
    """pylibjpeg-libjpeg is GPL-3 and would be loaded by pydicom as soon as it is installed."""
    assert "pylibjpeg-libjpeg" not in constraints()


def test_immediate_imports_are_core_dependencies():
    core = names(CORE)
    outside = [(path, name) for path, name, now in third_party_imports() if now and name not in core]
    assert [(path, name) for path, name in outside if path not in LABEL_MODULES] == []
    # Ours stay those of the package; beyond them only what MONAI Label brings.
    assert {name for _, name in outside} <= {"monailabel", "fastapi"}


def test_label_environment_pins_what_its_modules_import():
    lines = (ROOT / "constraints-label.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") and pinned_version(pin).local is None for pin in pins)
    imported = {name for path, name, _ in third_party_imports() if path in LABEL_MODULES}
    assert {"monailabel", "fastapi"} <= imported <= names(pins)
    versions = {canonicalize_name(pin.name): pinned_version(pin) for pin in pins}
    assert versions["monailabel"] == Version("0.8.5") and versions["torch"] == Version("2.13.0")
    assert versions["numpy"] < Version("2") and versions["pydicom"] < Version("3")
    assert versions["dicomweb-client"] < Version("0.60") and versions["pynetdicom"] < Version("3")
    for name in names(CORE):
        assert name in versions, f"{name}: needed by the package, not pinned for MONAI Label's environment"


def test_every_import_is_declared():
    declared = names(CORE).union(*(names(EXTRAS[extra]) for extra in ("export", "tracking", "dicom", "prepare")))
    undeclared = [(path, name) for path, name, _ in third_party_imports() if name not in declared]
    assert [(path, name) for path, name in undeclared if path not in LABEL_MODULES] == []
    assert "torch" in {name for _, name, _ in third_party_imports()}


def test_import_name_table_is_needed_and_right():
    """Each entry belongs to a declared package, and installed packages confirm it."""
    declared = names(CORE).union(*map(names, EXTRAS.values()))
    installed = importlib.metadata.packages_distributions()
    for module, distribution in DISTRIBUTION.items():
        assert distribution in declared
        if module in installed:
            assert distribution in {canonicalize_name(name) for name in installed[module]}


def test_console_script_exists():
    module, function = PROJECT["scripts"]["blosam"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_version_has_one_source():
    assert "version" in PROJECT["dynamic"]
    assert str(Version(blosam.__version__)) == blosam.__version__


def test_data_files_of_the_package_get_installed():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["blosam"]
    covered = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    data = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert data - covered == set()


def test_all_packages_are_regular():
    """Without ``__init__.py`` a folder works from the checkout and is missing from the installed package."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
