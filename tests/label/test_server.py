"""The real MONAI Label server through `blosam label`, used with MONAI Label's own client as an annotator would."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from .conftest import ENVIRONMENT, KINDS, Client, blosam, bundle_copy, predicted

pytestmark = pytest.mark.label


def mask_of(answer: list) -> np.ndarray:
    """Rows x Columns of the mask file that the client received."""
    path = Path(answer[0])
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    if path.suffix == ".nrrd":
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
    return np.asarray(nibabel.load(path).dataobj)[..., 0].T


def follow(client: Client, seconds: float = 200) -> dict:
    """The status of the training when it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = client("train_status")
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(1)
    raise AssertionError(f"training did not end: {status}")


class Running:
    """`blosam label` as users start it."""

    def __init__(self, folder: Path, arguments: list[object], port: int) -> None:
        self.app = folder / "app"
        self.out = folder / "out.txt"
        command = [sys.executable, "-m", "blosam.cli", "label", *arguments, "--port", port, "--app", self.app]
        with self.out.open("w") as out:
            self.process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdout=out, stderr=out)
        end = time.monotonic() + 120
        while "Ctrl-C stops" not in self.text():
            assert self.process.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.3)
        self.url = re.search(r"ready: (\S+)", self.text())[1]
        self.client = Client(self.url, folder)

    def text(self) -> str:
        return self.out.read_text()


@pytest.fixture(scope="module")
def server(label_environment, trained, images, free_port, tmp_path_factory):
    """One server with a trained bundle and a switched one without weights."""
    folder = tmp_path_factory.mktemp("server")
    plain = bundle_copy(folder / "plain")
    options = ("--image-size", 128, "--method", "blo-sam", "--to", folder / "switched")
    done = blosam("switch", plain.root, *options)
    assert done.returncode == 0, done.stderr
    studies = next(iter(images.values())).parent
    arguments = ["-b", trained.root, "-b", folder / "switched", "--studies", studies]
    running = Running(folder, arguments, free_port)
    yield running
    running.client.process.kill()
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(40)


def test_lists_the_models_that_have_weights(server):
    info = server.client("info")
    assert list(info["models"]) == ["lung"]
    assert info["models"]["lung"]["labels"] == {"lung": 1}
    assert info["models"]["lung"]["dimension"] == 2
    assert sorted(info["trainers"]) == ["lung", "switched"]
    assert info["trainers"]["lung"]["config"]["model_filename"] == ["model.pt"]
    assert "switched has no weights yet" in server.text()


@pytest.mark.parametrize("extension", ["", ".nrrd"])
@pytest.mark.parametrize("name", KINDS)
def test_masks_are_those_of_predict(server, expected, name, extension):
    assert 0.02 < expected[name].mean() < 0.98
    answer = server.client("infer", "lung", name, {"result_extension": extension, "device": "cpu"})
    np.testing.assert_array_equal(mask_of(answer), expected[name])


def test_geometry_of_a_nifti_image_is_kept(server, images):
    source = nibabel.load(images["chest_00010"])
    as_nifti = nibabel.load(server.client("infer", "lung", "chest_00010", {})[0])
    np.testing.assert_allclose(as_nifti.affine, source.affine, atol=1e-5)
    as_nrrd = server.client("infer", "lung", "chest_00010", {"result_extension": ".nrrd"})[0]
    image = SimpleITK.ReadImage(as_nrrd)
    for index in ((0, 0, 0), (5, 9, 0)):
        ras = source.affine @ [*index, 1]
        lps = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(lps, ras[:3] * [-1, -1, 1], atol=1e-4)


def test_errors_reach_the_client_and_the_server_lives_on(server, images, tmp_path):
    client = server.client
    assert "no such model" in client.refused("infer", "heart", "chest_00000", {})
    assert "no such image" in client.refused("infer", "lung", "nothing", {})
    assert "has no weights yet" in client.refused("infer", "switched", "chest_00000", {})
    assert "not written as" in client.refused("infer", "lung", "chest_00000", {"result_extension": ".bmp"})
    assert "no such model" in client.refused("train_start", "heart", {})
    broken = images["chest_00000"].with_name("broken.png")
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    try:
        client("upload_image", str(broken), "broken_upload")
        message = client.refused("infer", "lung", "broken_upload", {})
        assert "png" in message and "Internal Server Error" not in message
    finally:
        broken.unlink()
        broken.with_name("broken_upload.png").unlink(missing_ok=True)
    small = tmp_path / "small.png"
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(small)
    message = client.refused("save_label", "chest_00000", str(small))
    assert "30 x 20 pixels" in message and "160" in message
    assert "no such image" in client.refused("save_label", "nothing", str(small))
    placed = nibabel.load(images["chest_00010"])
    mirrored = nibabel.Nifti1Image(np.ones(placed.shape, np.uint8), placed.affine @ np.diag([-1, 1, 1, 1]))
    nibabel.save(mirrored, tmp_path / "mirrored.nii.gz")
    assert "elsewhere in space" in client.refused("save_label", "chest_00010", str(tmp_path / "mirrored.nii.gz"))
    small.write_bytes(b"no image")
    assert "label of chest_00000" in client.refused("save_label", "chest_00000", str(small))


def test_labels_train_the_model_they_are_given_to(server, trained, images, expected, tmp_path):
    """Four labels, a training that is followed to its end, better weights; the other bundle is left alone."""
    client, original = server.client, trained.weights.read_bytes()
    labels = {
        name: images[name].parent.parent / "png" / "masks" / f"{name}.png" for name in images if name < "chest_00004"
    }
    assert len(labels) == 4

    client("save_label", "chest_00000", str(labels["chest_00000"]))
    assert "at least 2 submitted labels, there is 1" in client.refused("train_start", "lung", {})
    for name in list(labels)[1:]:
        client("save_label", name, str(labels[name]))
    assert client("info")["datastore"]["completed"] == 4

    # What 3D Slicer sends: every option as listed, the run_id empty.
    options = client("info")["trainers"]["lung"]["config"] | {"max_epochs": 5, "device": "cpu"}
    client("train_start", "lung", options)
    assert "Already Running" in client.refused("train_start", "lung", {"max_epochs": 1})
    status = follow(client)
    assert status["status"] == "DONE", "\n".join(status["details"])

    copy = server.app / "model" / "lung"
    assert trained.weights.read_bytes() == original
    assert (copy / "models" / "model.pt").read_bytes() != original
    _same_as_predict(client, "lung", copy, images, tmp_path / "lung")
    assert (mask_of(client("infer", "lung", "chest_00000", {})) != expected["chest_00000"]).any()
    assert not (server.app / "model" / "switched" / "models" / "model.pt").exists()

    _train_the_other_bundle(server, images, tmp_path)


def _same_as_predict(client: Client, model: str, copy: Path, images: dict[str, Path], out: Path) -> None:
    masks = predicted(copy, [images[name] for name in KINDS], out)
    for name, mask in zip(KINDS, masks, strict=True):
        np.testing.assert_array_equal(mask_of(client("infer", model, name, {})), mask)


def _train_the_other_bundle(server: Running, images: dict[str, Path], out: Path) -> None:
    """Another method and image size in the same server: it gets its first weights, the first bundle keeps its own."""
    client = server.client
    first = mask_of(client("infer", "lung", "chest_00000", {}))
    client("train_start", "switched", {"max_epochs": 2, "device": "cpu", "pretrained": False})
    status = follow(client)
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert sorted(client("info")["models"]) == ["lung", "switched"]
    copy = server.app / "model" / "switched"
    _same_as_predict(client, "switched", copy, images, out / "switched")
    np.testing.assert_array_equal(mask_of(client("infer", "lung", "chest_00000", {})), first)


def test_ctrl_c_stops_server_and_training(server, images, trained, free_port, tmp_path):
    studies = images["chest_00000"].parent
    taken = blosam("label", "-b", trained.root, "-s", studies, "--port", free_port, "--app", tmp_path / "other")
    assert taken.returncode == 1 and "cannot listen" in taken.stderr
    server.client.ask("train_start", "lung", {"max_epochs": 5000, "device": "cpu"})
    time.sleep(3)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(40) == 0
    assert "stopped" in server.text()
    assert not _processes_of(server.app)


def _processes_of(app: Path) -> list[str]:
    """Command lines that name the app folder, or run with it as their folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, folder = (process / "cmdline").read_text(), (process / "cwd").resolve()
        except OSError:
            continue
        if str(app) in line or folder == app:
            found.append(line.replace("\0", " "))
    return found


def test_predicts_the_same_with_older_packages(label_environment, trained, images, expected, tmp_path):
    """pydicom 2.4, numpy 1.26, no highdicom; and MONAI Label's stock bundle task agrees, too."""
    script = Path(__file__).with_name("predict_there.py")
    command = [label_environment, script, trained.root, tmp_path / "masks.npz", *(images[name] for name in KINDS)]
    done = subprocess.run(list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    masks = np.load(tmp_path / "masks.npz")
    for name in KINDS:
        np.testing.assert_array_equal(masks[f"blosam {images[name]}"], expected[name])
        np.testing.assert_array_equal(masks[f"stock {images[name]}"], expected[name])
