"""Each bundle with every consumer of MONAI: its commands, its Python interface, TorchScript, ONNX and MONAI Deploy."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import ensure_tuple
from PIL import Image

from blosam.bundle import Bundle
from blosam.data.phantoms.write import write_dataset
from blosam.networks import to_onnx
from blosam.predictor import Predictor

SCHEMA = Path(__file__).resolve().parents[1] / "data" / "meta_schema_20240725.json"
CPU = "$torch.device('cpu')"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def written_mask(out: Path, image: Path) -> np.ndarray:
    """Rows x Columns of the one mask that was written for an image."""
    stem = image.name.split(".")[0]
    (path,) = [path for path in out.rglob("*") if path.is_file() and stem in path.name]
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return np.asarray(nibabel.load(path).dataobj).squeeze().T


def example(trained, batch: int) -> torch.Tensor:
    """B x 3 x S x S in [0, 1]."""
    size = trained.read("inference")["image_size"]
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def network_of(trained) -> torch.nn.Module:
    return Predictor(trained.root).network


# --- monai.bundle run -----------------------------------------------------------------------------------------


def test_training_writes_flat_weights_an_adapter_and_a_split(trained):
    state = torch.load(trained.root / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert set(state) == set(network_of(trained).state_dict())
    assert {"adapter.safetensors", "last.pt"} <= {path.name for path in (trained.root / "models").iterdir()}
    split = json.loads((trained.root / "results" / "split.json").read_text())
    assert (len(split["training"]), len(split["test"])) == (4, 2)
    assert len((trained.root / "results" / "history.csv").read_text().splitlines()) > 2


def test_evaluating_overlay_measures_the_images_that_did_not_train(trained, tmp_path):
    overlay = f"['{trained.config('train')}','{trained.config('evaluate')}']"
    trained.monai("run evaluating", overlay, dataset_dir=trained.data, num_shots=4, output_dir=tmp_path, device=CPU)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    split = json.loads((trained.root / "results" / "split.json").read_text())
    assert {row.split(",")[0].split(".")[0] for row in rows} == {Path(item["image"]).stem for item in split["test"]}


@pytest.mark.parametrize("image_format", ["png", "dicom"])
def test_inference_gives_the_predictors_masks_on_the_source_grid(trained, tmp_path, image_format):
    items = write_dataset(trained.kind, tmp_path / "new", 2, seed=9, size=150, image_format=image_format)
    out = tmp_path / "out"
    trained.monai(
        "run", trained.config("inference"), dataset_dir=tmp_path / "new" / "images", output_dir=out, device=CPU
    )
    predictor = Predictor(trained.root)
    for item in items:
        expected = predictor.predict(item["image"]).mask
        assert np.array_equal(written_mask(out, Path(item["image"])), expected)


def test_false_as_a_word_turns_a_setting_off(lung):
    """MONAI's command line passes ``--resume false`` on as a word, which would count as true."""
    for word, expected in (("false", False), ("true", True)):
        parser = Bundle(lung.root).parser("train", resume=word, amp=word)
        handlers = parser.get("train")["handlers"]
        (last,) = [handler for handler in handlers if handler["_target_"].endswith("LastCheckpoint")]
        assert parser.get_parsed_content("train#handlers#" + str(handlers.index(last))).resume is expected


def test_weights_of_another_number_of_classes_are_refused(lung, tmp_path):
    with pytest.raises(RuntimeError) as refused:
        lung.monai(
            "run",
            lung.config("inference"),
            dataset_dir=lung.images[0],
            output_dir=tmp_path / "out",
            labels="{'lung': 1, 'heart': 2}",
        )
    chain, words = refused.value, []
    while chain is not None:
        words.append(str(chain))
        chain = chain.__cause__ or chain.__context__
    assert any("do not fit this network" in text for text in words)
    assert not list((tmp_path / "out").rglob("*.png"))


# --- monai.bundle's other commands and functions ----------------------------------------------------------------


def test_metadata_follow_the_committed_schema_without_a_network(trained, monkeypatch):
    monkeypatch.setattr("monai.apps.utils.urlretrieve", lambda *_, **__: pytest.fail("it went to the network"))
    monai.bundle.verify_metadata(meta_file=trained.config("metadata"), filepath=str(SCHEMA))


def test_network_takes_and_gives_what_the_metadata_say(trained, elsewhere):
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=trained.config("metadata"),
        config_file=trained.config("inference"),
        device="cpu",
    )


@pytest.mark.parametrize("trace", [False, True], ids=["scripted", "traced"])
def test_ckpt_export_equals_the_network_for_any_batch(trained, tmp_path, trace):
    words = {"use_trace": True} if trace else {}
    target = tmp_path / "model.ts"
    trained.monai("ckpt_export network_def", trained.config("inference"), filepath=target, **words)
    exported, eager = torch.jit.load(str(target)), network_of(trained)
    with torch.inference_mode():
        for batch in (1, 3):
            images = example(trained, batch)
            torch.testing.assert_close(exported(images), eager(images), atol=1e-4, rtol=1e-4)
    assert np.array_equal(
        Predictor(target).predict(trained.images[0]).mask, Predictor(trained.root).predict(trained.images[0]).mask
    )


def test_bundle_load_fills_the_network(trained, elsewhere):
    eager = network_of(trained)
    for workflow in ("train", "inference"):
        network = monai.bundle.load(
            trained.name, bundle_dir=str(trained.root.parent), workflow_type=workflow, source="github", device="cpu"
        )
        state = network.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in eager.state_dict().items())


@pytest.mark.parametrize("workflow", ["training", "inference"])
def test_config_workflow_finds_every_property(trained, elsewhere, workflow):
    flow = ConfigWorkflow(
        config_file=trained.config({"training": "train"}.get(workflow, workflow)),
        workflow_type=workflow,
        bundle_root=str(trained.root),
        dataset_dir=str(trained.data),
        output_dir=str(elsewhere / "results"),
        logging_file=False,
    )
    flow.initialize()
    assert flow.check_properties() == []
    assert Path(flow.bundle_root) == trained.root and flow.version == trained.read("metadata")["version"]
    if workflow == "training":
        assert flow.max_epochs == trained.read("train")["train"]["trainer"]["max_epochs"]
        assert len(flow.train_dataset_data) == 6 and flow.val_interval == 5
        flow.max_epochs = 1
        flow.initialize()
        assert flow.trainer.state.max_epochs == 1
    else:
        assert len(flow.dataset_data) == 6
        assert flow.network_def.image_size == trained.read("inference")["image_size"]


@pytest.mark.slow
def test_monais_onnx_export_equals_the_network(trained, tmp_path):
    target = tmp_path / "model.onnx"
    trained.monai(
        "onnx_export network_def",
        trained.config("inference"),
        meta_file=trained.config("metadata"),
        filepath=target,
        ckpt_file=trained.root / "models" / "model.pt",
    )
    check_onnx(trained, target, batches=(1,))


@pytest.mark.slow
def test_our_onnx_export_equals_the_network_for_any_batch(trained, tmp_path):
    to_onnx(network_of(trained), tmp_path / "model.onnx")
    check_onnx(trained, tmp_path / "model.onnx", batches=(1, 3))


def check_onnx(trained, path: Path, batches: tuple[int, ...]) -> None:
    session, eager = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), network_of(trained)
    name = session.get_inputs()[0].name
    for batch in batches:
        images = example(trained, batch)
        with torch.inference_mode():
            expected = eager(images).numpy()
        np.testing.assert_allclose(session.run(None, {name: images.numpy()})[0], expected, atol=2e-3, rtol=1e-3)


# --- MONAI Deploy -----------------------------------------------------------------------------------------------


class DeployLike:
    """What MONAI Deploy's bundle operator does with a ``model.ts`` and nothing else.

    Written from its behaviour: configs out of the archive, transforms whose class name holds LoadImage or SaveImage
    taken out, the image with its metadata through the rest, the first axis of the result squeezed away.
    """

    def __init__(self, path: Path, postproc_name: str = "postprocessing_deploy") -> None:
        with zipfile.ZipFile(path) as archive:
            texts = {name: archive.read(f"{path.stem}/extra/{name}.json") for name in ("metadata", "inference")}
        parser = ConfigParser()
        parser.read_meta(json.loads(texts["metadata"]))
        parser.read_config(json.loads(texts["inference"]))
        parser.parse()
        self.device = parser.get_parsed_content("device")
        self.inferer = parser.get_parsed_content("inferer")
        self.outputs = list(parser["_meta_"]["network_data_format"]["outputs"])
        self.inputs = list(parser["_meta_"]["network_data_format"]["inputs"])
        self.before = self.without_files(parser.get_parsed_content("preprocessing"))
        self.after = self.without_files(parser.get_parsed_content(postproc_name))
        self.network = torch.jit.load(str(path), map_location=self.device).eval()

    @staticmethod
    def without_files(steps: Compose) -> Compose:
        names = ("LoadImage", "SaveImage")
        return Compose([step for step in steps.transforms if not any(name in type(step).__name__ for name in names)])

    @torch.no_grad()
    def __call__(self, values: np.ndarray, meta: dict) -> np.ndarray:
        (name,) = self.inputs
        item = self.before({name: MetaTensor.ensure_torch_and_prune_meta(torch.as_tensor(values), meta)})
        prepared = item.pop(name)
        output = ensure_tuple(self.inferer(inputs=prepared[None].to(self.device), network=self.network))[0]
        result = self.after({self.outputs[0]: output, name: prepared})[self.outputs[0]]
        return np.squeeze(np.asarray(result), 0)


@pytest.mark.parametrize("image_format", ["png", "dicom"])
def test_monai_deploy_gets_the_predictors_mask_from_model_ts(trained, tmp_path, elsewhere, image_format):
    target = tmp_path / "model.ts"
    trained.monai("ckpt_export network_def", trained.config("inference"), filepath=target)
    (item,) = write_dataset(trained.kind, tmp_path / "new", 1, seed=12, size=140, image_format=image_format)
    predictor = Predictor(trained.root)
    loaded = predictor.load({"image": item["image"]})["image"]
    mask = DeployLike(target)(np.asarray(loaded), dict(loaded.meta))
    expected = predictor.predict(item["image"]).mask
    assert mask.dtype == np.uint8 and np.array_equal(mask.T, expected)  # Deploy's arrays are W x H
    assert not list(elsewhere.rglob("*")), "nothing is saved"
