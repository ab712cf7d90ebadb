"""What is exported has plain layers in the place of adapters and computes the same; the network is not changed."""

from __future__ import annotations

import pytest
import torch

from blosam.methods import METHODS
from blosam.networks import BloSam
from blosam.networks.adapters import KINDS, LoRALinear, LoRAQKV
from blosam.networks.adapters.singular import SVDConv2d, SVDLinear

FOLDABLE = (LoRALinear, LoRAQKV, SVDLinear, SVDConv2d)


def moved(**settings) -> BloSam:
    """A network whose trained numbers are all away from where they start."""
    network = BloSam(encoder="tiny", image_size=32, out_channels=3, **settings).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.weight_parameters() + network.prompt_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("name", ["blo-sam", "s-sam", "adaptive-sam", "late-lora", "med-sa"])  # different structures
def test_scripted_network_equals_the_unfolded_one(name):
    network = moved(**METHODS[name].structure)
    scripted = torch.jit.script(network)
    for batch in (1, 3):
        image = torch.rand(batch, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qlora"])  # needs CUDA: test_quantised.py folds it
def test_folded_copy_has_plain_layers_and_shares_the_rest(kind):
    network = moved(encoder_adapter=kind, rank=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if ".adapter_" not in name}
    folded = network.folded()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), network(image), atol=1e-4, rtol=1e-4)
    assert not [module for module in folded.modules() if isinstance(module, FOLDABLE)]
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(isinstance(module, LoRALinear) for module in network.modules())
    assert folded.prompt_encoder.no_mask_embed.weight is network.prompt_encoder.no_mask_embed.weight
