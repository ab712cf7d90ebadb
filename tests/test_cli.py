"""The ``blosam`` command as users type it: help, the short forms, and one-line errors for bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blosam import cli
from blosam.data.phantoms.write import write_dataset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def blosam(monkeypatch, capfd):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blosam", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A bundle copy with a small input, trained for a moment through the command, and its data."""
    folder = tmp_path_factory.mktemp("cli")
    data = folder / "data"
    write_dataset("chest", data, 6, seed=11, size=96, image_format="png")
    bundle = _small_bundle(folder / "lung")
    words = [
        "train",
        data,
        "--bundle",
        bundle,
        "--shots",
        "4",
        "--base-weights",
        "random",
        "--views",
        "2",
        "--epochs",
        "2",
    ]
    previous = sys.argv
    sys.argv = ["blosam", *map(str, words), "--device", "cpu"]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code
    finally:
        sys.argv = previous
    return bundle, data


def _small_bundle(target: Path) -> Path:
    shutil.copytree(ROOT / "bundles" / "blosam_lung", target, ignore=shutil.ignore_patterns("models", "results"))
    for name in ("train", "inference"):
        path = target / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["image_size"] = 64
        path.write_text(json.dumps(config))
    return target


def test_help_teaches_every_command(blosam):
    code, out, _ = blosam("--help")
    assert code == 0
    for command in ("demo", "train", "evaluate", "predict", "export", "switch", "info", "weights"):
        assert command in out
        code, help_text, _ = blosam(command, "--help")
        assert code == 0 and ("Example:" in help_text or command in ("demo", "weights"))


def test_train_evaluate_predict_export_info(blosam, trained, tmp_path):
    bundle, data = trained
    code, out, err = blosam(
        "evaluate", data, "--bundle", bundle, "--shots", 4, "--out", tmp_path / "eval", "--device", "cpu"
    )
    assert code == 0, err
    assert len((tmp_path / "eval" / "metrics.csv").read_text().splitlines()) == 3
    code, out, err = blosam(
        "predict",
        data / "images",
        "--bundle",
        bundle,
        "--out",
        tmp_path / "masks",
        "--format",
        "png,nifti,overlay",
        "--device",
        "cpu",
    )
    assert code == 0, err
    images = sorted((data / "images").iterdir())
    record = json.loads((tmp_path / "masks" / "run.json").read_text())
    assert [entry["status"] for entry in record["inputs"]] == ["done"] * len(images)
    for image in images:
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{image.stem}.png"))
        assert mask.shape == np.asarray(Image.open(image)).shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
    for kind in ("torchscript", "onnx"):
        code, out, err = blosam("export", "--bundle", bundle, "--format", kind, "--out", tmp_path / f"model.{kind}")
        assert code == 0, err
        assert (tmp_path / f"model.{kind}").stat().st_size > 1e6
    code, out, _ = blosam("info", bundle)
    assert code == 0 and "1 = lung" in out and "MB" in out
    code, out, _ = blosam("info")
    assert code == 0 and "blo-sam-2nd" in out


def test_predict_goes_on_after_a_bad_image_and_says_so(blosam, trained, tmp_path):
    bundle, data = trained
    good = sorted((data / "images").iterdir())[0]
    bad = tmp_path / "broken.png"
    bad.write_bytes(good.read_bytes()[:200])
    code, out, err = blosam("predict", bad, good, "--bundle", bundle, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "broken" not in err and err.count("error:") == 1
    (line,) = [line for line in re.split(r"[\r\n]", err) if "error:" in line]
    assert line.strip().startswith("error: image_0001_")
    statuses = [entry["status"] for entry in json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]]
    assert statuses == ["failed", "done"]
    assert (tmp_path / "out" / f"{good.stem}.png").is_file() and not (tmp_path / "out" / "broken.png").exists()


def test_predict_does_not_write_over_masks_unless_forced(blosam, trained, tmp_path):
    bundle, data = trained
    image = sorted((data / "images").iterdir())[0]
    (tmp_path / f"{image.stem}.png").write_text("mine")
    code, _, err = blosam("predict", image, "--bundle", bundle, "--out", tmp_path, "--device", "cpu")
    assert code == 1 and "--force" in err
    assert (tmp_path / f"{image.stem}.png").read_text() == "mine"
    code, _, err = blosam("predict", image, "--bundle", bundle, "--out", tmp_path, "--device", "cpu", "--force")
    assert code == 0, err


def test_switch_writes_a_bundle_whose_files_agree(blosam, tmp_path):
    source = ROOT / "bundles" / "blosam_lung"
    target = tmp_path / "switched"
    code, _, err = blosam(
        "switch", source, "--method", "blo-sam-2nd", "--encoder", "vit_b", "--image-size", 512, "--to", target
    )
    assert code == 0, err
    train, inference, metadata = (
        json.loads((target / "configs" / f"{name}.json").read_text()) for name in ("train", "inference", "metadata")
    )
    assert train["method"] == "blo-sam-2nd"
    assert train["encoder"] == inference["encoder"] == "vit_b"
    assert train["image_size"] == inference["image_size"] == 512
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == formats["outputs"]["pred"]["spatial_shape"] == [512, 512]
    code, _, err = blosam("switch", source, "--method", "joint", "--to", target)
    assert code == 1 and "exists already" in err


def _dataset(folder: Path, count: int = 4) -> Path:
    write_dataset("chest", folder, count, seed=2, size=64, image_format="png")
    return folder


def _break(folder: Path, how: str) -> None:
    """Damage one image or mask of a good data set."""
    images, masks = sorted((folder / "images").iterdir()), sorted((folder / "masks").iterdir())
    if how == "truncated image":
        images[0].write_bytes(images[0].read_bytes()[:300])
    elif how == "missing mask":
        masks[0].unlink()
    elif how == "mask of another size":
        Image.open(masks[0]).resize((10, 12)).save(masks[0])
    elif how == "mask values":
        Image.fromarray(np.full(Image.open(masks[0]).size[::-1], 77, np.uint8)).save(masks[0])
    elif how == "constant image":
        Image.fromarray(np.full(Image.open(images[0]).size[::-1], 9, np.uint8)).save(images[0])
    elif how == "one pixel":
        for path in (images[0], masks[0]):
            Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    elif how == "no foreground":
        for path in masks:
            Image.fromarray(np.zeros(Image.open(path).size[::-1], np.uint8)).save(path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated image", ("0",)),
        ("missing mask", ("mask",)),
        ("mask of another size", ("10", "12")),
        ("mask values", ("77",)),
        ("constant image", ("9",)),
        ("one pixel", ("1 x 1",)),
        ("no foreground", ("foreground",)),
    ],
)
def test_bad_data_is_one_line_and_nothing_is_written_over(blosam, tmp_path, how, words):
    data, bundle = _dataset(tmp_path / "data"), _small_bundle(tmp_path / "lung")
    _break(data, how)
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_text("old weights")
    code, _, err = blosam(
        "train", data, "--bundle", bundle, "--base-weights", "random", "--views", 1, "--device", "cpu"
    )
    assert code == 1
    line = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(line) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in line[0]
    assert (bundle / "models" / "model.pt").read_text() == "old weights"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "{data}", "--bundle", "{data}"), "not a bundle"),
        (("train", "{missing}", "--bundle", "{bundle}"), "missing"),
        (("train", "{data}", "--bundle", "{bundle}", "--method", "magic"), "unknown method 'magic'"),
        (("train", "{data}", "--bundle", "{bundle}", "--encoder", "vit_z"), "vit_z"),
        (("train", "{data}", "--bundle", "{bundle}", "--views", "-3"), "-3"),
        (("train", "{data}", "--bundle", "{bundle}", "--shots", "50"), "50"),
        (("train", "{data}", "--bundle", "{bundle}", "--base-weights", "{missing}"), "missing"),
        (("train", "{data}", "--bundle", "{bundle}", "--device", "cuda:99"), "cuda:99"),
        (("evaluate", "{data}", "--bundle", "{bundle}"), "no weights yet"),
        (("predict", "{data}", "--bundle", "{bundle}", "--out", "{out}"), "no weights yet"),
        (("export", "--bundle", "{bundle}"), "no weights yet"),
        (("switch", "{bundle}", "--encoder", "vit_z", "--to", "{out}"), "vit_z"),
        (("switch", "{bundle}", "--image-size", "100", "--to", "{out}"), "divisible by 16"),
        (("switch", "{bundle}", "--to", "{out}"), "nothing to switch"),
        (("info", "{data}"), "not a bundle"),
    ],
)
def test_wrong_use_names_the_value_and_exits_with_1(blosam, tmp_path, words, expected):
    places = {
        "data": _dataset(tmp_path / "data"),
        "bundle": _small_bundle(tmp_path / "lung"),
        "missing": tmp_path / "missing",
        "out": tmp_path / "out",
    }
    code, _, err = blosam(*(word.format(**places) for word in words))
    assert code == 1, err
    assert expected in err and "Traceback" not in err
    assert not places["out"].exists()


def test_unknown_format_is_wrong_usage(blosam, trained, tmp_path):
    bundle, data = trained
    code, _, err = blosam("predict", data, "--bundle", bundle, "--out", tmp_path / "out", "--format", "gif")
    assert code == 2 and "gif" in err


def test_weights_of_another_network_are_refused(blosam, trained, tmp_path):
    bundle, data = trained
    other = tmp_path / "other"
    code, _, err = blosam("switch", bundle, "--encoder", "vit_b", "--to", other)
    assert code == 0, err
    (other / "models").mkdir()
    shutil.copy(bundle / "models" / "model.pt", other / "models" / "model.pt")
    code, _, err = blosam("predict", data, "--bundle", other, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1 and "are for the encoder tiny, the bundle's is vit_b" in err


def test_output_folder_that_cannot_be_made(blosam, trained, tmp_path):
    bundle, data = trained
    (tmp_path / "file").write_text("in the way")
    code, _, err = blosam("predict", data, "--bundle", bundle, "--out", tmp_path / "file" / "out", "--device", "cpu")
    assert code == 1 and "cannot make the folder" in err and "Traceback" not in err


def _with_little_disk(limit: int, *words: object) -> subprocess.CompletedProcess:
    """The command in a process of its own, where writes beyond ``limit`` bytes fail as on a full disk."""
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY));"
        "from blosam import cli; cli.main()"
    )
    return subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)


def test_full_disk_while_exporting_keeps_the_old_file(trained, tmp_path):
    bundle, _ = trained
    target = tmp_path / "model.ts"
    target.write_text("old model")
    done = _with_little_disk(100_000, "export", "--bundle", bundle, "--out", target)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert target.read_text() == "old model"
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]


def test_exported_file_holds_metadata_and_config_and_can_predict(blosam, trained, tmp_path):
    bundle, data = trained
    code, _, err = blosam("export", "--bundle", bundle, "--out", tmp_path / "model")  # no suffix: the name is kept
    assert code == 0, err
    files = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(tmp_path / "model", _extra_files=files)
    assert json.loads(files["metadata.json"]) == json.loads((bundle / "configs" / "metadata.json").read_text())
    assert json.loads(files["inference.json"]) == json.loads((bundle / "configs" / "inference.json").read_text())
    image = sorted((data / "images").iterdir())[0]
    code, _, err = blosam("predict", image, "--bundle", tmp_path / "model", "--out", tmp_path / "o", "--device", "cpu")
    assert code == 0, err
    code, _, err = blosam("export", "--bundle", bundle, "--out", tmp_path / "o")
    assert code == 1 and "it is a folder" in err and "Traceback" not in err


def test_torchscript_without_our_config_is_refused(blosam, trained, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.ts", {"metadata.json": "{}"})
    words = ("predict", trained[1], "--bundle", tmp_path / "other.ts", "--out", tmp_path / "o", "--device", "cpu")
    code, _, err = blosam(*words)
    assert code == 1 and "other.ts" in err and "blosam export" in err and "Traceback" not in err


def test_predict_never_replaces_its_own_input(blosam, trained, tmp_path):
    bundle, data = trained
    image = tmp_path / "scan.png"
    image.write_bytes(sorted((data / "images").iterdir())[0].read_bytes())
    before = image.read_bytes()
    code, _, err = blosam("predict", image, "--bundle", bundle, "--out", tmp_path, "--device", "cpu", "--force")
    assert code == 1 and "one of the images to segment" in err
    assert image.read_bytes() == before


def test_full_disk_while_predicting_is_told_in_one_line(trained, tmp_path):
    bundle, data = trained
    image = sorted((data / "images").iterdir())[0]
    done = _with_little_disk(50, "predict", image, "--bundle", bundle, "--out", tmp_path / "o", "--device", "cpu")
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    # The journal stays, so that the same command goes on; there is neither a mask nor a part of one.
    assert {path.name for path in (tmp_path / "o").iterdir()} <= {".blosam"}


def test_switch_leaves_nothing_behind_when_it_cannot_write(blosam, tmp_path):
    source = ROOT / "bundles" / "blosam_lung"
    done = _with_little_disk(1000, "switch", source, "--method", "joint", "--to", tmp_path / "copy")
    assert done.returncode == 1 and "nothing was written" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    code, _, err = blosam("switch", source, "--method", "joint", "--to", tmp_path / "file" / "copy")
    assert code == 1 and "cannot write" in err and "Traceback" not in err


def test_demo_leaves_a_folder_that_is_not_its_own_alone(blosam, tmp_path):
    shutil.copytree(ROOT / "bundles" / "blosam_lung", tmp_path / "bundle")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patient.png").write_text("mine")
    code, _, err = blosam("demo", "--out", tmp_path, "--bundle", tmp_path / "bundle")
    assert code == 1 and "holds files of yours" in err
    assert (tmp_path / "data" / "patient.png").read_text() == "mine"


def test_negative_seed_and_epochs_are_wrong_usage(blosam, tmp_path):
    for option in ("--seed", "--epochs"):
        code, _, err = blosam("train", tmp_path, "--bundle", tmp_path, option, "-1")
        assert code == 2 and option in err


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "not JSON"])
def test_damaged_bundle_is_one_line(blosam, tmp_path, content):
    bundle = _small_bundle(tmp_path / "lung")
    config = bundle / "configs" / "train.json"
    config.unlink() if content is None else config.write_text(content)
    code, _, err = blosam("train", tmp_path, "--bundle", bundle, "--device", "cpu")
    assert code == 1 and "train.json" in err and "Traceback" not in err
