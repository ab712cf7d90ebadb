"""Bundles from anywhere: three forms give one mask, and a stranger's file cannot do harm or leave anything behind."""

from __future__ import annotations

import io
import json
import re
import shutil
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from blosam.errors import BlosamError
from blosam.inference import archive
from blosam.inference.archive import open_archive
from blosam.inference.sources import open_bundle
from blosam.predictor import Predictor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders go during a test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    """A copy of the small bundle, without weights, to change."""
    return Path(shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("models")))


@pytest.fixture
def complete(bundle, tmp_path) -> Path:
    """A copy of the small bundle to change."""
    return Path(shutil.copytree(bundle, tmp_path / "complete"))


def change(bundle: Path, name: str, content: dict) -> Path:
    """Replace ids of one of its configs."""
    path = bundle / "configs" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    return bundle


def refused(path: Path) -> str:
    """The message with which a bundle is refused."""
    with pytest.raises(BlosamError) as caught, open_bundle(path):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the three forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "blosam_lung/"], ids=["at the top", "in a folder"])
def test_folder_zip_and_torchscript_give_one_mask(bundle, zipped, tmp_path, temporary, prefix):
    picture = tmp_path / "image.png"
    values = np.random.default_rng(3).integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(values).resize((140, 100)).save(picture)
    sources = [bundle, zipped(bundle, tmp_path / "b.zip", prefix), bundle / "models" / "model.ts"]
    predictors = [Predictor(source) for source in sources]
    assert list(temporary.iterdir()) == []  # nothing of the zip stays
    first, *others = [predictor.predict(picture) for predictor in predictors]
    assert 0 < first.mask.mean() < 1
    for other in others:
        assert np.array_equal(first.mask, other.mask)
        np.testing.assert_allclose(first.probability, other.probability, atol=1e-5)
    assert predictors[0].sha256 == predictors[1].sha256 != predictors[2].sha256
    assert len({json.dumps(predictor.metadata, sort_keys=True) for predictor in predictors}) == 1


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "bundles").glob("blosam_*")))
def test_committed_bundles_need_no_trust(small_bundle, name, tmp_path):
    source = small_bundle(tmp_path / name, name)
    with open_bundle(source) as opened:
        assert "builds blosam.networks.network_for" in opened.executed
    with open_bundle(source / "models" / "model.ts") as opened:
        assert opened.form == "model.ts"


def test_python_in_a_zip_or_folder_is_never_imported(complete, zipped, tmp_path, temporary, monkeypatch):
    ran = tmp_path / "ran"
    for package in ("blosam", "scripts"):
        (complete / package).mkdir()
        (complete / package / "__init__.py").write_text(f"open({str(ran)!r}, 'w').write('ran')")
    monkeypatch.chdir(complete)
    for source in (complete, zipped(complete, tmp_path / "b.zip")):
        Predictor(source)
    with open_bundle(tmp_path / "b.zip") as opened:
        unpacked = {path.relative_to(opened.root).parts[0] for path in opened.root.rglob("*")}
        assert unpacked == {"configs", "docs", "models", "LICENSE"}
        assert not (opened.root / "models" / "model.ts").exists()
        assert stat.S_IMODE(opened.root.stat().st_mode) == 0o700
    assert not ran.exists() and list(temporary.iterdir()) == []


def test_weights_of_another_bundle_are_refused(small_bundle, zipped, tmp_path):
    other = small_bundle(tmp_path / "other", side=64)
    config = json.loads((other / "configs" / "inference.json").read_text())
    config["labels"] = {"left": 1, "right": 2}
    (other / "configs" / "inference.json").write_text(json.dumps(config))
    for source in (other, zipped(other, tmp_path / "b.zip")):
        with pytest.raises(BlosamError, match="do not fit this network"):
            Predictor(source)


def test_errors_about_a_zip_name_the_zip_not_the_temporary_folder(complete, zipped, tmp_path, temporary):
    weights = complete / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    cut = zipped(complete, tmp_path / "cut.zip")
    weights.unlink()
    none = zipped(complete, tmp_path / "none.zip")
    for path, words in ((cut, "truncated|complete zip"), (none, "holds no weights")):
        with pytest.raises(BlosamError, match=words) as caught:
            Predictor(path)
        assert path.name in str(caught.value) and str(temporary) not in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_weights_alone_other_files_and_missing_ones_are_refused(bundle, tmp_path):
    assert "weights alone" in refused(bundle / "models" / "model.pt")
    assert "neither a zip nor" in refused(bundle / "LICENSE")
    assert "no such bundle" in refused(tmp_path / "absent")
    assert "not a bundle" in refused(tmp_path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        for name in ("a/configs/inference.json", "b/configs/inference.json"):
            file.writestr(name, "{}")
    assert "2 bundles" in refused(tmp_path / "two.zip")


def test_pickled_objects_and_packed_weights_are_refused(complete):
    weights = complete / "models" / "model.pt"
    torch.save({"a": Path("x")}, weights)
    with pytest.raises(BlosamError, match="pickled Python objects"):
        Predictor(complete)
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"")
        file.writestr("model/data/0", bytes(900_000))
    with pytest.raises(BlosamError, match="unpacks to 900,000 bytes"):
        Predictor(complete)


# --- what a config may do -----------------------------------------------------------------------------------

HOSTILE = {
    "call": {"x": "$__import__('os').system('touch RAN')"},
    "import": {"imports": ["$import os"]},
    "import from": {"imports": ["$from subprocess import run"]},
    "import with more behind": {"imports": ["$import torch; import os"]},
    "target": {"x": {"_target_": "subprocess.run", "args": ["touch", "RAN"]}},
    "target that is computed": {"x": {"_target_": "$open", "file": "RAN"}},
    "our own function": {"x": {"_target_": "blosam.atomicio.atomic_write", "path": "RAN"}},
    "argument": {"inferer": {"_target_": "SimpleInferer", "_mode_": "debug"}},
    "reader": {
        "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "reader": "os.system"}]}
    },
    "other file": {"x": "%other.json::a"},
    "copy of a copy": {"x": ["%y", "%y"], "y": ["%labels", "%labels"]},
    "attribute": {"x": "$torch.hub.load('a', 'b')"},
    "method of a reference": {"x": "$@network_def.load('RAN')"},
    "reference in quotes": {"x": "$'@labels' + 'a'"},
    "two references": {"x": "$@dataset_dir + @dataset_dir"},
    "product": {"x": "$'a' * 1000000"},
    "power": {"x": "$9 ** 9 ** 9"},
    "lambda": {"x": "$lambda: 0"},
    "f-string": {"x": "$f'{open}'"},
    "walrus": {"x": "$(y := 1)"},
    "long sum": {"x": "$" + "1+" * 5000 + "1"},
    "huge picture": {"image_size": 1 << 20},
    "infinite": {"x": float("inf")},
    "not a reference": {"x": "@labels.__class__"},
    "deep": {"x": json.loads("[" * 50 + "]" * 50)},
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_config_that_does_more_is_refused_by_id_and_value(copy, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    change(copy, "inference", content)
    message = refused(copy)
    assert "inference.json" in message
    if "deep" not in message and "levels" not in message:
        assert re.search(r"'(x|y|imports|inferer|preprocessing|image_size)[\w#]*' is .+: ", message), message
    assert not (tmp_path / "RAN").exists()


def test_config_inside_torchscript_is_checked_too(complete):
    path = complete / "models" / "model.ts"
    files = {"inference.json": "", "metadata.json": ""}
    module = torch.jit.load(path, _extra_files=files)
    config = json.loads(files["inference.json"]) | {"x": "$open('RAN')"}
    torch.jit.save(module, path, {"inference.json": json.dumps(config), "metadata.json": files["metadata.json"]})
    assert "'x' is" in refused(path)


def test_torchscript_of_other_classes_than_its_config_is_refused(complete, tmp_path):
    path = complete / "models" / "model.ts"
    files = {"inference.json": "", "metadata.json": ""}
    module = torch.jit.load(path, _extra_files=files)
    config = json.loads(files["inference.json"]) | {"labels": {"left": 1, "right": 2}}
    torch.jit.save(module, path, {"inference.json": json.dumps(config), "metadata.json": files["metadata.json"]})
    picture = tmp_path / "image.png"
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64).astype(np.uint8)).save(picture)
    with pytest.raises(BlosamError, match="1 classes, its inference.json names 2"):
        Predictor(path).predict(picture)


def test_trust_runs_what_was_refused(complete, tmp_path):
    change(complete, "inference", {"image_size": "$max(64, 32)"})
    assert "--trust" in refused(complete)
    assert Predictor(complete, trust=True).network.image_size == 64


@pytest.mark.parametrize(
    "text",
    [
        "$len(@labels) + 1",
        "$torch.uint8",
        "$@bundle_root + '/models/model.pt'",
        "$torch.device('cpu')",
        "@labels",
        "$[{'image':path} for path in list_images(@dataset_dir)]",
        "%labels#lung",
        "50 % of $5 @ home",
    ],
)
def test_harmless_texts_are_allowed(copy, text):
    with open_bundle(change(copy, "inference", {"x": text})) as opened:
        assert opened.config["x"] == text


EXPRESSIONS = st.recursive(
    st.sampled_from(["1", "'a'", "@labels", "torch", "len", "os", "torch.uint8", "@network_def", "__builtins__"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} + {pair[1]}"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]}({pair[1]})"),
        st.tuples(inner, st.sampled_from(["to", "__class__", "hub", "device"])).map(lambda p: f"({p[0]}).{p[1]}"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]})[{pair[1]}]"),
        inner.map(lambda text: f"[x for x in {text}]"),
        inner.map(lambda text: f"lambda: {text}"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
@settings(max_examples=100, deadline=None)
def test_allowed_expressions_call_nothing_but_len_and_device(text):
    """Whatever is accepted has only these calls and no attribute but those of torch."""
    import ast

    from blosam.inference.allowed import _is_allowed, _parsed

    if _is_allowed("$" + text):
        for node in ast.walk(_parsed("$" + text)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) in ("len", "torch.device")
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node.value) == "torch"
            assert not isinstance(node, ast.Lambda | ast.ListComp)


def test_newer_schema_and_newer_blosam_are_named(copy):
    path = "https://example.org/meta_schema_20310101.json"
    assert "schema of 20310101" in refused(change(copy, "metadata", {"schema": path}))
    change(copy, "metadata", {"schema": "", "required_packages_version": {"blosam": "99.0"}})
    with open_bundle(copy):  # newer, but nothing unknown
        pass
    config = json.loads((copy / "configs" / "inference.json").read_text())
    change(copy, "inference", {"network_def": config["network_def"] | {"attention": "new"}})
    message = refused(copy)
    assert "'attention'" in message and "made for blosam 99.0" in message and "update blosam" in message


@pytest.mark.parametrize(
    "labels", [{}, {"lung": 0}, {"a": 1, "b": 3}, {"a": True}, ["lung"], {"": 1}, {"a\nb": 1}, {"a": "1"}]
)
def test_labels_must_be_classes_1_to_k(copy, labels):
    assert re.search("labels|class name", refused(change(copy, "inference", {"labels": labels})))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\ufeff{}", '{"a": ' + "9" * 5000 + "}"])
def test_unreadable_configs_are_one_line(copy, text):
    (copy / "configs" / "inference.json").write_text(text, encoding="utf-8")
    assert "inference.json" in refused(copy)


# --- zips ---------------------------------------------------------------------------------------------------


def write_zip(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """A zip with exactly these entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def link(name: str) -> zipfile.ZipInfo:
    """An entry that is a symbolic link."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


BAD_ENTRIES = {
    "up": "../evil",
    "up inside": "configs/../../evil",
    "absolute": "/etc/evil",
    "drive": "C:/evil",
    "backslash": "configs\\evil",
    "empty part": "configs//evil",
    "dot": "./evil",
    "blank": "configs/ ",
    "device": "configs/NUL.json",
    "control": "configs/a\x07b",
    "link": link("configs/evil"),
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_entries_that_leave_the_folder_are_refused(copy, zipped, tmp_path, temporary, entry):
    path = zipped(copy, tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(entry, b"/etc")
    assert "refused" in refused(path)
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["configs/inference.json", "Configs/INFERENCE.json"])
def test_an_entry_that_is_there_twice_is_refused(copy, zipped, tmp_path, name):
    path = zipped(copy, tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"{}")
    assert "twice" in refused(path)


def test_bombs_are_refused_before_unpacking(tmp_path, temporary, monkeypatch):
    path = write_zip(tmp_path / "ratio.zip", [("configs/inference.json", bytes(50 << 20))])
    assert "200 : 1" in refused(path)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 100)
    path = write_zip(tmp_path / "many.zip", [(f"docs/{i}", b"") for i in range(101)])
    assert "101 entries" in refused(path)
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    assert "unpacks to more than 1,000" in refused(write_zip(tmp_path / "big.zip", [("a", bytes(1001))]))
    assert list(temporary.iterdir()) == []


def test_a_header_that_lies_about_the_size_cannot_exceed_the_budget(tmp_path):
    """The list of contents says 100 bytes, the data unpack to 30 MB."""
    path = write_zip(tmp_path / "b.zip", [("a", bytes(30 << 20))])
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 100)
    path.write_bytes(data)
    with open_archive(path) as opened, pytest.raises(BlosamError, match="damaged"):
        opened.extract(lambda name: name, tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_size <= 100


def test_the_budget_holds_while_unpacking(tmp_path):
    path = write_zip(tmp_path / "b.zip", [("a", bytes(600_000)), ("b", bytes(600_000))])
    (tmp_path / "out").mkdir()
    with open_archive(path) as opened, pytest.raises(BlosamError, match="'b' unpacks to more than"):
        opened.extract(lambda name: name, tmp_path / "out", max_bytes=1_000_000)
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 1_000_000


def test_a_long_list_of_contents_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_LARGEST_READ", 10_000)
    path = write_zip(tmp_path / "b.zip", [(f"docs/{'n' * 100}{i}", b"") for i in range(100)])
    assert "list of contents" in refused(path)


def test_encrypted_and_oddly_packed_entries_are_refused(tmp_path):
    path = write_zip(tmp_path / "b.zip", [("configs/inference.json", b"{}")])
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("configs/inference.json", b"{}")
    assert "method 14" in refused(path)


@pytest.fixture(scope="module")
def small_zip(tmp_path_factory) -> bytes:
    """A zip of configs and documents, small enough to damage in many ways."""
    target = tmp_path_factory.mktemp("zip") / "b.zip"
    source = ROOT / "bundles" / "blosam_lung"
    files = [source / "configs" / f"{name}.json" for name in ("inference", "metadata")] + [source / "LICENSE"]
    write_zip(target, [(str(path.relative_to(source)), path.read_bytes()) for path in files])
    return target.read_bytes()


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_zips_open_or_are_refused_and_leave_nothing(small_zip, tmp_path, temporary, data):
    """Cut, overwritten and inserted bytes, the ends most often: an error of ours or a bundle, never another error."""
    content = bytearray(small_zip)
    for _ in range(data.draw(st.integers(1, 4))):
        back = data.draw(st.one_of(st.integers(1, 400), st.integers(1, len(small_zip))))
        position = max(0, len(content) - back)
        content[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path / "b.zip"
    path.write_bytes(content)
    try:
        with open_bundle(path) as opened:
            assert opened.form == "zip" and opened.config["labels"] == {"lung": 1}
    except BlosamError as error:
        assert "\n" not in str(error)
    assert list(temporary.iterdir()) == []


NAMES = st.lists(
    st.sampled_from(
        ["..", ".", "", "a", "configs", "C:", "\\", "models", "model.pt", "x\x00y", "é", "e\u0301", "\u202e"]
    ),
    min_size=1,
    max_size=4,
)


@given(NAMES, st.sampled_from(["/", "\\", "//"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_writes_outside_the_folder(tmp_path, parts, separator):
    name = separator.join(parts) or "a"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = name  # the constructor would mend it
        file.writestr(entry, b"data")
    outside = tmp_path / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    inside = outside / "a" / "b" / "inside"
    inside.mkdir(parents=True)
    path = tmp_path / "n.zip"
    path.write_bytes(stream.getvalue())
    try:
        with open_archive(path) as opened:
            opened.extract(lambda inner: inner, inside)
    except BlosamError:
        pass
    written = [file for file in outside.rglob("*") if file.is_file()]
    assert all(file.resolve().is_relative_to(inside.resolve()) for file in written)


# --- TorchScript programs -----------------------------------------------------------------------------------


class ReadsAFile(torch.nn.Module):
    """A network that maps a file into memory."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Add the first bytes of a file."""
        return image + torch.from_file("/etc/hostname", False, 4)


class RunsOnLoading(torch.nn.Module):
    """A network with code that runs while the file is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        """What is stored."""
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        """Runs on loading."""
        self.weight = state[0]
        self.training = state[1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return image


class Loops(torch.nn.Module):
    """A network that never ends."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Go on while the sum is positive."""
        while bool(image.sum() > 0):
            image = image + 1
        return image


@pytest.mark.parametrize(
    ("module", "reason"),
    [(ReadsAFile, "torch.from_file"), (RunsOnLoading, "__getstate__|__setstate__"), (Loops, "While")],
)
def test_torchscript_beyond_a_network_is_refused_before_loading(bundle, tmp_path, monkeypatch, module, reason):
    files = {"inference.json": "", "metadata.json": ""}
    torch.jit.load(bundle / "models" / "model.ts", _extra_files=files)
    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.script(module()), path, {name: text for name, text in files.items()})
    monkeypatch.setattr(torch.jit, "load", None)  # would fail if it were called
    assert re.search(reason, refused(path))
    with open_bundle(path, trust=True) as opened:
        assert opened.form == "model.ts"
