"""A bundle with every method: what its configs build, and the whole way from training to export for each family."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from monai.bundle import load as monai_load

from blosam import cli
from blosam.bundle import Bundle
from blosam.commands.switch import switch
from blosam.data.bank import FeatureBank
from blosam.engines import make_loss
from blosam.methods import METHODS
from blosam.networks import BloSam, sam
from blosam.networks import blosam as blosam_module
from blosam.predictor import Predictor
from blosam.weightsio import network_facts, read_adapter_metadata, read_facts, save_state_dict

from .conftest import QUICK, ROOT, Trained

FAMILIES = {
    "blo-sam": "decoder low-rank",
    "samed": "encoder low-rank",
    "s-sam": "singular values and labels",
    "adaptive-sam": "text, biases and norms",
    "late-ft": "late blocks completely",
    "med-sa": "bottlenecks",
    "ft-sam": "everything",
}


@pytest.fixture
def copy(tmp_path) -> Bundle:
    """The lung bundle at 32 pixels, without weights."""
    switch(ROOT / "bundles" / "blosam_lung", to=tmp_path / "lung", image_size=32)
    return Bundle(tmp_path / "lung")


def built(bundle: Bundle, *configs: str, **overrides: object) -> torch.nn.Module:
    """The network that some configs, laid over each other as MONAI does it, build."""
    parser = bundle.parser(configs[0])
    for name in configs[1:]:
        parser.update(bundle.read(name))
    for key, value in overrides.items():
        parser[key] = value
    return parser.get_parsed_content("network_def")


def structure_of(name: str) -> dict:
    """What a method makes of a network, in full (``med-sa`` is ``med-sa:192``)."""
    return BloSam(encoder="tiny", image_size=32, out_channels=2, **METHODS[name].structure).structure


# --- what the configs build ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_all_configs_build_the_network_that_was_trained(copy, name):
    trained = built(copy, "train", method=name)
    assert trained.structure == structure_of(name)
    save_state_dict(trained.state_dict(), copy.weights, {"method": name} | network_facts(trained))
    for configs in (("inference",), ("train", "evaluate")):
        again = built(copy, *configs)
        assert again.structure == trained.structure
        again.load_state_dict(trained.state_dict(), strict=True)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_method(copy, name):
    parser = copy.parser("train", method=name)
    logits, target = torch.randn(2, 2, 8, 8), torch.rand(2, 2, 8, 8).softmax(1)
    expected = make_loss(METHODS[name].loss, METHODS[name].dice_weight)(logits, target)
    assert torch.equal(parser.get_parsed_content("loss")(logits, target), expected)
    others = {float(make_loss(loss)(logits, target)) for loss in ("ce-dice", "focal", "dice-focal", "weighted-ce")}
    assert len(others) == 4


@pytest.mark.parametrize("name", ["s-sam", "late-lora"])
def test_a_switched_bundle_says_its_method_everywhere(tmp_path, name):
    switch(ROOT / "bundles" / "blosam_lung", to=tmp_path / "lung", method=name, image_size=32)
    bundle = Bundle(tmp_path / "lung")
    assert built(bundle, "train").structure == built(bundle, "inference").structure == structure_of(name)


def test_monais_load_takes_all_weights_of_another_method_inside_the_folder(copy, monkeypatch):
    """As docs/methods.md says; elsewhere it leaves out what does not fit, of which our part can only warn."""
    trained = built(copy, "train", method="late-lora")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)  # no value that a new network has
    save_state_dict(trained.state_dict(), copy.weights, {"method": "late-lora"} | network_facts(trained))
    monkeypatch.chdir(copy.root)
    settings = {"bundle_dir": str(copy.root.parent), "source": "monaihosting", "device": "cpu"}  # nothing is fetched
    loaded = monai_load(copy.root.name, workflow_type="inference", **settings).state_dict()
    assert loaded.keys() == trained.state_dict().keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in trained.state_dict().items())


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def blosam(monkeypatch, capfd):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blosam", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capfd.readouterr()

    return call


def test_switching_in_place_keeps_weights_that_still_fit(copy, blosam):
    network = built(copy, "train", method="joint")
    save_state_dict(network.state_dict(), copy.weights, {"method": "joint"} | network_facts(network))
    code, out, err = blosam("switch", "--bundle", copy.root, "--method", "med-sa")
    assert code == 0 and "method med-sa" in out, err
    assert [copy.read(name)["method"] for name in ("train", "inference")] == ["med-sa", "med-sa"]
    assert built(copy, "inference").structure == network.structure, "the weights are still those of joint"
    code, out, _ = blosam("info", copy.root)
    assert "method  med-sa" in out and "trained with  joint, trainable decoder, prompt dense" in out
    before = {name: copy.config(name).read_bytes() for name in ("train", "inference", "metadata")}
    for option, value in (("--encoder", "vit_b"), ("--image-size", 64)):
        code, _, err = blosam("switch", copy.root, option, value)
        assert code == 1 and "would not fit another encoder or image size. Give --to" in err
    assert before == {name: copy.config(name).read_bytes() for name in before}


@pytest.mark.parametrize("command", ["train", "switch", "monai"])
def test_misspelt_methods_are_refused_with_the_list(copy, lung, blosam, command):
    if command == "monai":
        with pytest.raises(RuntimeError) as refused:
            lung.monai("run training", str(copy.config("train")), dataset_dir=lung.data, method="late-lra", **QUICK)
        err = str(refused.value.__cause__ or refused.value)
    else:
        words = (lung.data, "--bundle", copy.root) if command == "train" else (copy.root,)
        code, _, err = blosam(command, *words, "--method", "late-lra")
        assert code == 1
    assert "unknown method 'late-lra'" in err and all(name in err for name in ("recommended", *METHODS))


def test_info_and_help_name_every_method(blosam):
    for words in (("info",), ("train", "--help"), ("switch", "--help")):
        _, out, _ = blosam(*words)
        flat = "".join(out.split())
        assert all(name in flat for name in METHODS), words


# --- the whole way ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_train_evaluate_predict_and_export(lung: Trained, tmp_path, blosam, name):
    """The method is named once, in training; the bundle's configs say ``joint``."""
    bundle = Bundle(shutil.copytree(lung.root, tmp_path / "lung", ignore=shutil.ignore_patterns("models", "results")))
    train, evaluate, inference = (str(bundle.config(config)) for config in ("train", "evaluate", "inference"))
    there = {"bundle_root": bundle.root, "dataset_dir": lung.data, "num_shots": 4}
    lung.monai("run training", train, **there, **QUICK, method=name)
    assert read_facts(bundle.weights)["method"] == name
    facts = read_adapter_metadata(bundle.root / "models" / "adapter.safetensors")
    assert facts.items() >= {key: str(value) for key, value in structure_of(name).items()}.items()

    overlay = f"['{train}','{evaluate}']"
    lung.monai("run evaluating", overlay, **there, output_dir=tmp_path / "measured", device="$torch.device('cpu')")
    assert len((tmp_path / "measured" / "metrics.csv").read_text().splitlines()) == 1 + 2

    lung.monai("ckpt_export network_def", inference, bundle_root=bundle.root, filepath=tmp_path / "monai.ts")
    code, _, err = blosam("export", "--bundle", bundle.root, "--out", tmp_path / "ours.ts")
    assert code == 0, err
    network = Predictor(bundle.root).network
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(image)
        for file in ("monai.ts", "ours.ts"):
            torch.testing.assert_close(torch.jit.load(str(tmp_path / file))(image), expected, atol=1e-4, rtol=1e-4)

    with zipfile.ZipFile(tmp_path / "lung.zip", "w") as archive:
        for path in sorted(bundle.root.rglob("*.*")):
            if "results" not in path.parts:
                archive.write(path, f"lung/{path.relative_to(bundle.root)}")
    masks = []
    for source in (bundle.root, tmp_path / "lung.zip", tmp_path / "ours.ts"):
        out = tmp_path / f"out_{source.suffix or 'folder'}"
        words = ("--bundle", source, "--out", out, "--format", "png", "--device", "cpu")
        code, _, err = blosam("predict", lung.images[0], *words)
        assert code == 0, err
        masks.append(Predictor(source).predict(lung.images[0]).mask)
        assert json.loads((out / "run.json").read_text())["inputs"]
    assert np.array_equal(masks[0], masks[1]) and (masks[0] != masks[2]).mean() < 1e-3


@pytest.mark.slow
def test_a_bundle_of_another_method_passes_the_checks_of_the_model_zoo(lung, tmp_path):
    bundle = Bundle(shutil.copytree(lung.root, tmp_path / "lung", ignore=shutil.ignore_patterns("models", "results")))
    there = {"bundle_root": bundle.root, "dataset_dir": lung.data, "num_shots": 4}
    lung.monai("run training", str(bundle.config("train")), **there, **QUICK, method="s-sam")
    tool = ROOT / "tools" / "verify_bundle.py"
    done = subprocess.run([sys.executable, str(tool), str(bundle.root)], capture_output=True, text=True)
    assert done.returncode == 0 and "TorchScript verified" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("amp", [False, True])
def test_late_adapters_of_a_vit_run_the_frozen_blocks_once_per_view(lung, tmp_path, monkeypatch, amp):
    """In training and validation together: 4 images with 2 views each, and 2 images of D2, whatever the epochs."""
    small = sam.EncoderConfig(16, 64, dim=48, depth=4, heads=4, global_blocks=(1, 3))
    monkeypatch.setitem(sam.CONFIGS, "vit_b", small)  # bfloat16 takes minutes in a ViT-B on most CPUs
    root = tmp_path / "lung"
    switch(lung.root, to=root, method="late-lora", encoder="vit_b", image_size=32)
    prefixes, banks, run_prefix = [], [], blosam_module.run_prefix
    monkeypatch.setattr(
        blosam_module, "run_prefix", lambda *given: prefixes.append(given[1].shape[0]) or run_prefix(*given)
    )
    fill = FeatureBank.fill
    monkeypatch.setattr(FeatureBank, "fill", lambda bank: (banks.append(bank), fill(bank))[1])
    settings = {**QUICK, "train#trainer#max_epochs": 4}
    flow = Bundle(root).run("training", dataset_dir=str(lung.data), num_shots=4, amp=amp, **settings)
    network = flow.parser.get_parsed_content("network")
    assert network.keeps == "tokens" and banks[0].get([0], [0])["features"].shape == (1, 2, 2, 48)
    validated = len(flow.parser.get_parsed_content("validate#dataset"))
    assert sum(prefixes) == 4 * 2 + validated
    frozen = built(Bundle(root), "train").state_dict()
    for key, tensor in network.state_dict().items():
        if key.startswith("image_encoder.blocks.") and int(key.split(".")[2]) < 2:
            assert torch.equal(tensor, frozen[key])
    again = Predictor(root).network
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in again.state_dict().items())
