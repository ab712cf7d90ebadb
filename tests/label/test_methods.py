"""A bundle that was trained with another method than its configs say, in the real MONAI Label server."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from blosam.data.phantoms.write import write_dataset
from blosam.weightsio import read_facts

from .conftest import KINDS, blosam, bundle_copy, predicted
from .test_server import Running, follow, mask_of

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def server(label_environment, images, free_port, tmp_path_factory):
    """A server with one bundle: S-SAM's weights, configs that train with the recommended method."""
    folder = tmp_path_factory.mktemp("method")
    write_dataset("chest", folder / "data", 4, seed=40, size=128)
    bundle = bundle_copy(folder / "lung")
    words = ("--method", "s-sam", "--epochs", 3, "--views", 1, "--device", "cpu")
    done = blosam("train", folder / "data", "--bundle", bundle.root, *words)
    assert done.returncode == 0, done.stderr
    assert bundle.read("train")["method"] == "recommended"
    running = Running(folder, ["-b", bundle.root, "--studies", images["chest_00000"].parent], free_port)
    yield running
    running.client.process.kill()
    running.process.send_signal(signal.SIGINT)
    running.process.wait(40)


def test_segments_and_trains_on_with_the_method_of_the_weights(server, images, tmp_path):
    client, copy = server.client, server.app / "model" / "lung"

    def same_as_predict(out: str) -> None:
        for name, mask in zip(KINDS, predicted(copy, [images[k] for k in KINDS], tmp_path / out), strict=True):
            np.testing.assert_array_equal(mask_of(client("infer", "lung", name, {"device": "cpu"})), mask)

    same_as_predict("before")
    for name in ("chest_00000", "chest_00001", "chest_00002"):
        label = images[name].parent.parent / "png" / "masks" / f"{name}.png"
        client("save_label", name, str(label))

    weights = copy / "models" / "model.pt"
    for pretrained, method in ((True, "s-sam"), (False, "all-layers")):  # anew = as the bundle's configs say
        before = weights.read_bytes()
        client("train_start", "lung", {"max_epochs": 2, "device": "cpu", "pretrained": pretrained})
        status = follow(client)
        assert status["status"] == "DONE", "\n".join(status["details"])
        assert weights.read_bytes() != before and read_facts(weights)["method"] == method
        same_as_predict(method)
