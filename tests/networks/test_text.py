"""Text vectors from files and functions, and the prompt that learns nothing."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from blosam.compare import approaches
from blosam.compare.options import Job, Options
from blosam.compare.runner import run_job
from blosam.data.phantoms.write import write_dataset
from blosam.engines import BilevelTrainer
from blosam.engines.objective import published_loss
from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.networks.text import label_vectors


def test_vectors_come_from_files_in_the_order_of_the_classes(tmp_path):
    vectors = {"lung": np.arange(6, dtype=np.float32), "heart": np.ones(6, np.float32), "rib": np.zeros(4, np.float32)}
    np.savez(tmp_path / "v.npz", **vectors)
    save_file({name: torch.from_numpy(v) for name, v in vectors.items()}, tmp_path / "v.safetensors")
    for name in ("v.npz", "v.safetensors"):
        found = label_vectors(str(tmp_path / name), ["heart", "lung"])
        assert torch.equal(found, torch.tensor(np.stack([vectors["heart"], vectors["lung"]])))
    with pytest.raises(BlosamError, match="no vector for liver"):
        label_vectors(str(tmp_path / "v.npz"), ["liver"])
    with pytest.raises(BlosamError, match="one length"):
        label_vectors(str(tmp_path / "v.npz"), ["lung", "rib"])
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(BlosamError, match="no readable .npz"):
        label_vectors(str(tmp_path / "bad.npz"), ["lung"])


def test_vectors_come_from_functions(monkeypatch):
    module = ModuleType("my_texts")
    module.embed = lambda names: np.array([[len(name), 1.0] for name in names])
    module.wrong = lambda names: np.array([[np.nan]] * len(names))
    monkeypatch.setitem(sys.modules, "my_texts", module)
    assert label_vectors("my_texts:embed", ["lung", "heart"]).tolist() == [[4, 1], [5, 1]]
    for source, words in (("my_texts:wrong", "finite"), ("my_texts:none", "cannot be imported"),
                          ("no_such_module:f", "cannot be imported"), ("vectors.txt", "names no text")):  # fmt: skip
        with pytest.raises(BlosamError, match=words):
            label_vectors(source, ["lung"])


def test_comparison_uses_them_in_place_of_the_table(tmp_path):
    write_dataset("chest", tmp_path / "data", 3, seed=0, size=64)
    np.savez(tmp_path / "v.npz", lung=np.random.default_rng(0).normal(size=20))
    options = Options(tmp_path / "data", tmp_path, ("s-sam",), (2,), 1, views=1, image_size=64, max_steps=2, budget=60,
                      text_embeddings=str(tmp_path / "v.npz"))  # fmt: skip
    record = run_job(options, Job("s-sam", 2, 0))
    assert record["own"]["prompt"] == "text" and len(record["own"]["text_embeddings"]) == 64
    table = approaches.get("s-sam").settings(Options(tmp_path, tmp_path, ()))
    assert table["prompt"] == "labels" and "text_embeddings" not in table


def test_the_prompt_none_learns_nothing_and_bilevel_training_refuses_it():
    net = BloSam(encoder="tiny", image_size=64, prompt="none")
    assert net.prompt_parameters() == [] and not net.prompt_encoder.no_mask_embed.weight.requires_grad
    dense = BloSam(encoder="tiny", image_size=64)
    dense.load_state_dict(net.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(image), dense(image))

    label = torch.rand(1, 2, 32, 32).softmax(1)
    batches = [{"d1": {"features": net.frozen_features(image), "label": label}}]

    def trainer(joint: bool) -> BilevelTrainer:
        return BilevelTrainer(
            device=torch.device("cpu"), max_epochs=1, train_data_loader=batches, network=net,
            weight_optimizer=torch.optim.AdamW(net.weight_parameters()),
            prompt_optimizer=torch.optim.AdamW([{"params": []}]), loss_function=published_loss(), joint=joint,
        )  # fmt: skip

    learning = trainer(joint=True)
    learning.run()
    assert learning.state.iteration == 1 and learning.state.output["prompt_norm"] == 0
    with torch.no_grad():
        assert not torch.equal(net(image), dense(image))
    with pytest.raises(BlosamError, match="no prompt to learn"):
        trainer(joint=False)
