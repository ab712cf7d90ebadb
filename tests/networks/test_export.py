"""Exported networks equal the eager one for every batch size: TorchScript, monai.bundle ckpt_export, ONNX."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export
from monai.data import load_net_with_metadata

from blosam.errors import BlosamError
from blosam.networks import BloSam, to_onnx, to_torchscript


@pytest.fixture(scope="module")
def network() -> BloSam:
    return trained_like(BloSam("tiny", 64, out_channels=3))


def trained_like(network: BloSam) -> BloSam:
    """The same network with everything that starts at zero (adapters, position tables) moved."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("lora_b", "pos_embed")) or "rel_pos" in name:
                parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def assert_equal_for_every_batch(exported, network: BloSam, images: torch.Tensor) -> None:
    with torch.no_grad():
        for batch in (1, 2, 3):
            expected = network(images[:batch])
            torch.testing.assert_close(exported(images[:batch]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"prompt": "sparse", "trainable": "all", "dropout": 0.2}])
def test_torchscript_file(arguments, images, tmp_path):
    network = trained_like(BloSam("tiny", 64, **arguments)).train()
    to_torchscript(network, tmp_path / "model.ts", metadata={"version": "0.1.0"})
    assert network.training
    network.eval()
    assert_equal_for_every_batch(torch.jit.load(tmp_path / "model.ts"), network, images)
    _, metadata, _ = load_net_with_metadata(str(tmp_path / "model.ts"))
    assert metadata == {"version": "0.1.0"}


def test_scripted_vit(images):
    """Windows, padding and relative positions of a SAM encoder survive, for batches other than the traced one."""
    network = trained_like(BloSam("vit_b", 64))
    assert_equal_for_every_batch(torch.jit.script(network), network, images)


def test_scripting_inside_another_module(network, images):
    class Softmax(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.inner(image).softmax(1)

    scripted = torch.jit.script(Softmax(copy.deepcopy(network)))
    torch.testing.assert_close(scripted(images), network(images).softmax(1), atol=1e-5, rtol=1e-4)


def test_tracing_with_one_image_accepts_more(network, images):
    assert_equal_for_every_batch(torch.jit.trace(network, images[:1]), network, images)


def test_scripting_keeps_double_precision(network, images):
    double = copy.deepcopy(network).double()
    scripted = torch.jit.script(double)
    assert scripted(images).dtype == torch.float64
    torch.testing.assert_close(scripted(images), double(images))


@pytest.mark.parametrize("use_trace", [False, True])
def test_monai_ckpt_export(network, images, tmp_path, use_trace):
    definition = {
        "_target_": "blosam.networks.BloSam",
        "encoder": "tiny",
        "image_size": 64,
        "out_channels": 3,
        "init_seed": 5,
    }
    for folder in ("configs", "models"):
        (tmp_path / folder).mkdir()
    shape = {"num_channels": 3, "spatial_shape": [64, 64], "dtype": "float32"}
    metadata = {"version": "0.1.0", "network_data_format": {"inputs": {"image": shape}}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    config = tmp_path / "configs" / "inference.json"
    config.write_text(json.dumps({"network_def": definition}))
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    ckpt_export(config_file=str(config), bundle_root=str(tmp_path), use_trace=use_trace)
    exported, stored, _ = load_net_with_metadata(str(tmp_path / "models" / "model.ts"))
    assert stored["version"] == "0.1.0"
    assert_equal_for_every_batch(exported, network, images)


def test_onnx_file(network, images, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX runtime is in blosam[export]")
    network.train()
    to_onnx(network, tmp_path / "model.onnx")
    assert network.training
    network.eval()
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == ["pred"]
    assert_equal_for_every_batch(
        lambda image: torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0]), network, images
    )


def test_onnx_without_its_packages_says_what_to_install(network, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BlosamError, match=r"needs onnx and onnxscript. Install blosam\[export\]"):
        to_onnx(network, tmp_path / "model.onnx")


def test_networks_too_large_for_onnx_are_refused(tmp_path):
    with torch.device("meta"):
        network = BloSam("vit_h", 256)
    with pytest.raises(BlosamError, match="vit_h network is 2,5.*at most 2 GiB"):
        to_onnx(network, tmp_path / "model.onnx")


@pytest.mark.parametrize("write", [to_torchscript, to_onnx])
def test_a_file_that_cannot_be_written_is_a_clear_error(network, tmp_path, write):
    blocked = Path(tmp_path / "file")
    blocked.write_text("not a folder")
    with pytest.raises(BlosamError, match="cannot write"):
        write(network, blocked / "model")
