"""QLoRA by construction: what becomes 4 bits, what is trained, folded and saved, with a stand-in for bitsandbytes.

The library needs a GPU; the stand-in rounds to 15 levels when a tensor is moved, as the library does on its way there.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from blosam.errors import BlosamError
from blosam.networks import BloSam, sam
from blosam.networks.adapters import fold
from blosam.networks.adapters.quantised import QuantisedLinear, QuantisedQKV


class Params4bit(nn.Parameter):
    def __new__(cls, data, requires_grad=False, quant_type="fp4"):
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.quant_type, made.quant_state = quant_type, None
        return made

    def to(self, *args, **kwargs):
        if self.quant_state is None:
            scale = self.data.abs().max() / 7
            self.quant_state = SimpleNamespace(scale=scale, shape=self.shape)
            self.data = ((self.data / scale).round() + 8).to(torch.uint8).reshape(-1, 1)
        return self


def dequantize_4bit(data, state):
    return (data.float() - 8).reshape(state.shape) * state.scale


def matmul_4bit(x, transposed, bias=None, quant_state=None):
    return nn.functional.linear(x, dequantize_4bit(transposed.t(), quant_state), bias)


@pytest.fixture
def library(monkeypatch):
    fake = ModuleType("bitsandbytes")
    fake.nn, fake.functional = SimpleNamespace(Params4bit=Params4bit), SimpleNamespace(dequantize_4bit=dequantize_4bit)
    fake.matmul_4bit = matmul_4bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    small = sam.EncoderConfig(16, 64, dim=24, depth=3, heads=2, global_blocks=(1,))
    monkeypatch.setitem(sam.CONFIGS, "vit_b", small)


def network(adapter: str = "qlora:2@1") -> BloSam:
    return BloSam(encoder="vit_b", image_size=64, encoder_adapter=adapter).eval()


def test_every_matrix_of_the_blocks_is_replaced_and_late_attentions_learn(library):
    net = network()
    kinds = {name: type(module) for name, module in net.image_encoder.named_modules() if isinstance(module, nn.Linear)}
    late = {"blocks.1.attn.qkv", "blocks.2.attn.qkv"}
    assert {name for name, kind in kinds.items() if kind is QuantisedQKV} == late
    assert {name for name, kind in kinds.items() if kind is QuantisedLinear} == set(kinds) - late and len(kinds) == 12
    assert all(module.weight.quant_type == "nf4" for module in net.modules() if isinstance(module, QuantisedLinear))
    encoder = {name for name in net.named_weight_parameters() if name.startswith("image_encoder.")}
    assert encoder == {f"image_encoder.{name}.adapter_{part}_{ab}" for name in late for part in "qv" for ab in "ab"}


def test_quantised_network_learns_and_folds_to_plain_layers(library):
    net, plain = network(), network("lora:2@1")
    plain.load_state_dict(net.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(image), plain(image))  # not on the GPU yet: nothing is rounded
        net.to("cpu")
        assert net.image_encoder.blocks[0].mlp.lin1.weight.dtype == torch.uint8
        for name, parameter in net.named_parameters():
            if name.endswith("_b"):
                parameter.normal_(std=0.1)
        rounded = net(image)
    trained = [p for name, p in net.named_weight_parameters().items() if ".adapter_" in name]
    gradients = torch.autograd.grad(net(image).sum(), trained)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    plain.load_state_dict(net.state_dict())  # plain numbers, so `lora` takes them
    again = network()
    again.to("cpu").load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(image), rounded, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again(image), rounded, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fold(net)(image), rounded, rtol=1e-4, atol=1e-4)
    assert not [module for module in net.modules() if isinstance(module, QuantisedLinear)]


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # import fails
    with pytest.raises(BlosamError, match=r"pip install 'blosam\[qlora\]'"):
        network("qlora")
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BlosamError, match="needs a CUDA device"):
        network("qlora")
