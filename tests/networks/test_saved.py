"""A weights file describes its network well enough to build it again, and is not trusted beyond that."""

from __future__ import annotations

import pytest
import torch

from blosam.errors import BlosamError
from blosam.methods import METHODS
from blosam.networks import BloSam, network_for
from blosam.weightsio import load_strict, network_facts, save_state_dict

SMALL = {"encoder": "tiny", "image_size": 32, "out_channels": 3}


def saved(network, path, **changes):
    save_state_dict(network.state_dict(), path, network_facts(network) | changes)
    return path


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_built_again_from_its_weights(name, tmp_path):
    trained = BloSam(**SMALL, **METHODS[name].structure, init_seed=7)
    path = saved(trained, tmp_path / "model.pt", method=name)
    again = network_for(path, method="blo-sam", **SMALL)  # what the weights say wins
    assert (again.structure, again.keeps) == (trained.structure, trained.keeps)
    load_strict(again, path)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), trained.eval()(image))


def test_without_weights_the_method_decides(tmp_path):
    network = network_for(tmp_path / "none.pt", method="late-lora", **SMALL)
    assert str(network.encoder_adapter) == "lora-all:32@50%" and network.rank == 0
    torch.save(network.state_dict(), tmp_path / "silent.pt")
    assert network_for(tmp_path / "silent.pt", method="late-lora", **SMALL).structure == network.structure
    with pytest.raises(BlosamError, match="unknown method 'late-lra'. Choose one of: recommended, blo-sam"):
        network_for(tmp_path / "none.pt", method="late-lra", **SMALL)


def test_weights_of_another_image_size_are_refused_though_their_shapes_fit(tmp_path):
    large = BloSam(**(SMALL | {"image_size": 64}))
    path = saved(large, tmp_path / "model.pt")
    BloSam(**SMALL).load_state_dict(large.state_dict(), strict=True)
    with pytest.raises(BlosamError, match=r"image size 64, the bundle's is 32.*blosam switch"):
        network_for(path, **SMALL)


def test_missing_weights_are_told_because_monai_would_load_others_in_part(tmp_path, caplog):
    network_for(tmp_path / "none.pt", method="joint", **SMALL)
    assert "none.pt: no weights there; the network is that of the method joint." in caplog.text
    caplog.clear()
    network_for(saved(BloSam(**SMALL), tmp_path / "model.pt"), **SMALL)
    assert not caplog.text


def test_what_is_set_by_hand_wins(tmp_path):
    path = saved(BloSam(**SMALL, prompt="sparse", num_prompt_tokens=7), tmp_path / "model.pt")
    assert network_for(path, **SMALL).num_prompt_tokens == 7
    assert network_for(path, **SMALL, rank=2, num_prompt_tokens=3).structure["num_prompt_tokens"] == 3


def test_files_from_before_encoder_adapters_are_those_of_a_plain_encoder(tmp_path):
    network = BloSam(**SMALL)
    facts = {"method": "joint", "encoder": "tiny", "rank": "4", "prompt": "dense"}
    save_state_dict(network.state_dict(), tmp_path / "model.pt", facts)
    assert network_for(tmp_path / "model.pt", method="med-sa", **SMALL).structure == network.structure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "vit_b"}, "are for the encoder vit_b, the bundle's is tiny"),
        ({"image_size": "64"}, "are for the image size 64, the bundle's is 32"),
        ({"rank": "99999999"}, "beyond 4096"),
        ({"rank": "-1"}, "beyond 4096"),
        ({"num_prompt_tokens": "4097"}, "beyond 4096"),
        ({"encoder_adapter": "lora:1000000"}, "beyond 4096"),
        ({"encoder_adapter": f"lora:{'9' * 5000}"}, "unknown encoder adapter 'lora:99999"),
        ({"encoder_adapter": f"full@-{'9' * 5000}%"}, "unknown encoder adapter 'full@-99999"),
        ({"encoder_adapter": "os.system"}, "unknown encoder adapter 'os.system'"),
        ({"prompt": "shell"}, "unknown prompt 'shell'"),
    ],
)
def test_statements_that_cannot_be_ours_are_refused(tmp_path, changes, message):
    path = saved(BloSam(**SMALL), tmp_path / "model.pt", **changes)
    with pytest.raises(BlosamError, match=message):
        network_for(path, **SMALL)


def test_a_damaged_file_is_named(tmp_path):
    path = saved(BloSam(**SMALL), tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BlosamError, match=r"model.pt: .*truncated"):
        network_for(path, **SMALL)
