"""LoRA layers: the formula, the start, what they share with the layer they wrap."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer
from torch import nn

from blosam.errors import BlosamError
from blosam.networks.adapters import LoRALinear, add_lora


def test_starts_as_the_wrapped_layer_and_shares_its_tensors():
    linear = nn.Linear(6, 5)
    adapted = LoRALinear.from_linear(linear, rank=2)
    x = torch.randn(3, 4, 6)
    assert torch.equal(adapted(x), linear(x))
    assert adapted.weight is linear.weight and adapted.bias is linear.bias
    assert adapted.lora_a.shape == (2, 6) and adapted.lora_b.shape == (5, 2)


def test_output_is_the_dense_matrix_with_its_low_rank_update():
    adapted = LoRALinear(6, 5, rank=2)
    nn.init.normal_(adapted.lora_b)
    x = torch.randn(3, 6)
    dense = x @ (adapted.weight + adapted.lora_b @ adapted.lora_a).T + adapted.bias
    torch.testing.assert_close(adapted(x), dense)


def test_first_factor_is_kaiming_uniform():
    values = LoRALinear(64, 8, rank=50).lora_a.detach()
    bound = 1 / 64**0.5  # gain sqrt(2 / (1 + 5)) times sqrt(3 / in), for a = sqrt 5
    assert values.abs().max() <= bound
    torch.testing.assert_close(values.std(), torch.tensor(bound / 3**0.5), rtol=0.05, atol=0)


def test_seven_attentions_get_two_adapters_each():
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    before = set(transformer.state_dict())
    add_lora(transformer, rank=4)
    adapted = [name for name, module in transformer.named_modules() if isinstance(module, LoRALinear)]
    assert len(adapted) == 14
    assert {name.rsplit(".", 1)[1] for name in adapted} == {"q_proj", "v_proj"}
    assert len({name.rsplit(".", 1)[0] for name in adapted}) == 7
    added = set(transformer.state_dict()) - before
    assert before <= set(transformer.state_dict()) and len(added) == 28
    assert sum(transformer.get_parameter(name).numel() for name in added) == 23_552


def test_rank_must_be_positive():
    with pytest.raises(BlosamError, match="rank 0 is not positive"):
        LoRALinear(4, 4, rank=0)
