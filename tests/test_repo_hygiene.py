"""What every file of the repository must keep to, whoever wrote it."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

import blosam

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "common" / "blosam"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CONSTRUCTOR_ARGUMENTS = 12
IMAGE_SUFFIXES = set([".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".dcm", ".nii", ".gz", ".mha", ".nrrd"])
# Put together from parts, so that this file passes its own tests.
MACHINE_FOLDERS = ["work", "root", "farm", r"home/(?!me/)\w+", r"Users/(?!me/)\w+"]
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(?:" + "|".join(MACHINE_FOLDERS) + ")/")
REGISTRY_HOSTS = ["pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org"]


def repository_files() -> list[Path]:
    """Files of the repository relative to its top: the tracked ones, and new ones git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"not a git checkout, or git refuses it: {result.stderr.strip()}")
    return sorted(Path(name) for name in set(result.stdout.split("\0")) if name and (ROOT / name).is_file())


def texts() -> list[tuple[Path, str]]:
    """Path and content of every file of the repository that is text."""
    found = []
    for path in repository_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found.append((path, content.decode()))
    return found


def modules() -> list[Path]:
    """The modules of the package, relative to the top of the repository."""
    return sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))


def ci_script(name: str) -> ModuleType:
    """A script of ``.ci/`` as a module; the folder is no package, so it cannot be imported by name."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines a function takes on the screen, its docstring not counted."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module, nested ones included."""
    tree = ast.parse((ROOT / path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_large_files_and_no_private_keys():
    check = ci_script("check_files")
    problems = [text for path in repository_files() if (text := check.problem(path, ROOT))]
    assert problems == []


def test_large_files_and_private_keys_are_recognised(tmp_path):
    check = ci_script("check_files")
    assets = tmp_path / "common" / "blosam" / "assets"
    assets.mkdir(parents=True)
    (tmp_path / "big.bin").write_bytes(b"0" * (check.MAX_BYTES + 1))
    (tmp_path / "fits.bin").write_bytes(b"0" * check.MAX_BYTES)
    (assets / "tiny.safetensors").write_bytes(b"0" * (check.MAX_BYTES + 1))
    (tmp_path / "id").write_text("-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA\n")
    assert "1000001 bytes" in check.problem(Path("big.bin"), tmp_path)
    assert "private key" in check.problem(Path("id"), tmp_path)
    assert check.problem(Path("fits.bin"), tmp_path) is None
    assert check.problem(Path("common/blosam/assets/tiny.safetensors"), tmp_path) is None


def test_no_images_outside_docs():
    """Patient images must not get in; drawn ones are drawn where they are needed, or belong to a report on phantoms."""
    images = [path for path in repository_files() if path.suffix.lower() in IMAGE_SUFFIXES]
    drawn = "benchmarks/results/*/phantoms_*/pictures/*.jpg"
    assert [str(path) for path in images if "docs" not in path.parts and not path.match(drawn)] == []


def test_no_machine_paths():
    hits = [f"{path}: {match.group()}" for path, text in texts() for match in MACHINE_PATHS.finditer(text)]
    assert hits == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("DIR = '/" + "home/anna/images'", True),
        ("DIR = '/home/me/images'", False),
        ("cd /" + "root/x", True),
        ("../work/", False),
        ("https://example.com/work/x", False),
    ],
)
def test_machine_paths_are_recognised(text, found):
    assert bool(MACHINE_PATHS.search(text)) is found


def test_no_registry_hosts():
    hits = [f"{path}: {host}" for path, text in texts() for host in REGISTRY_HOSTS if host in text]
    assert hits == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_module_is_documented_and_short(path):
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "needs a docstring saying what the module is for"
    assert len(text.splitlines()) < MAX_FILE_LINES
    lengths = {f"line {item.lineno}, {item.name}": body_lines(item) for item in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def own_arguments(constructor: ast.FunctionDef) -> list[str]:
    """Arguments of a constructor that it does not merely hand on to its base class."""
    every = [*constructor.args.posonlyargs, *constructor.args.args, *constructor.args.kwonlyargs][1:]
    handed_on = set()
    for call in (node for node in ast.walk(constructor) if isinstance(node, ast.Call)):
        if ast.unparse(call.func) == "super().__init__":
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            handed_on.update(value.id for value in values if isinstance(value, ast.Name))
    return [argument.arg for argument in every if argument.arg not in handed_on]


def test_own_arguments_leave_out_those_of_the_base_class():
    text = "def __init__(self, a, b, *, c=1, d=2):\n    super().__init__(a, handlers=c)\n    self.b = b"
    assert own_arguments(ast.parse(text).body[0]) == ["b", "d"]


@pytest.mark.parametrize("path", modules(), ids=str)
def test_constructors_have_few_arguments(path):
    own = {item.lineno: own_arguments(item) for item in functions(path) if item.name == "__init__"}
    assert {line: names for line, names in own.items() if len(names) > MAX_CONSTRUCTOR_ARGUMENTS} == {}


def test_licence_is_apache_and_the_bundles_carry_it():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert "Copyright the blosam contributors" in licence
    copies = sorted((ROOT / "bundles").glob("blosam_*/LICENSE"))
    assert [str(copy) for copy in copies if copy.read_text() != licence] == []


def test_changelog_has_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]
    assert headings[0].startswith("## [Unreleased]")
    assert any(blosam.__version__ in heading for heading in headings)


def test_ci_script_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def write_results(path: Path, cases: list[tuple[str, str | None]]) -> Path:
    """A JUnit file with one test per case: its name, and the reason it was skipped for, if it was."""
    suite = ElementTree.Element("testsuite")
    for name, reason in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="tests.test_it", name=name)
        if reason is not None:
            ElementTree.SubElement(case, "skipped", type="pytest.skip", message=reason)
    ElementTree.ElementTree(suite).write(path)
    return path


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([("test_a", None)], 0),
        ([("test_a", None), ("test_b", "real images not found in DIR")], 0),
        ([("test_a", None), ("test_b", "no time")], 1),
        ([("test_a", "no real images not found")], 1),
        ([], 1),
    ],
    ids=["none skipped", "allowed", "not allowed", "reason only contains it", "no test ran"],
)
def test_skips_fail_unless_allowed(tmp_path, capsys, cases, expected):
    results = write_results(tmp_path / "results.xml", cases)
    status = ci_script("no_skips").main([str(results), "--allow", "real images not found in"])
    printed = capsys.readouterr().out
    assert status == expected
    assert all(name in printed for name, reason in cases if reason)


def test_expected_failures_are_no_skips(tmp_path):
    results = write_results(tmp_path / "results.xml", [("test_a", "known defect")])
    results.write_text(results.read_text().replace("pytest.skip", "pytest.xfail"))
    assert ci_script("no_skips").skips(results) == []
