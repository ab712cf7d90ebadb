"""Adapters in the encoder: same outputs at the start, published sizes, folding, and the frozen part run once."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.networks.adapters import (
    KINDS,
    adapt_encoder,
    adapter_report,
    block_names,
    decompose_all,
    fold,
    parse_adapter,
    run_prefix,
    run_suffix,
    trained_names,
)
from blosam.networks.adapters.factor import FacTQKV
from blosam.networks.adapters.lora import LoRAQKV
from blosam.networks.adapters.scaling import SSFLinear, SSFNorm
from blosam.networks.adapters.singular import SVDConv2d, SVDLinear
from blosam.networks.sam import build_sam

ADAPTED = [kind for kind in KINDS if kind not in ("none", "qlora")]  # qlora: test_quantised.py
TEXTS = {
    "lora": "lora:2",
    "lora-all": "lora-all:2",
    "adaptformer": "adaptformer:3",
    "fact": "fact:2",
    "med-sa": "med-sa:5",
}
FOLDABLE = ("lora", "lora-all", "fact", "ssf", "svd")


def small_vit() -> nn.Module:
    """SAM's own ViT, three narrow blocks, one of them global; 64 pixels."""
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT

    torch.manual_seed(3)
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=24, depth=3, num_heads=2, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=3, global_attn_indexes=(1,), out_chans=8,
    )  # fmt: skip
    for parameter in encoder.parameters():  # tables and biases start at zero, which would hide mistakes
        nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def tiny() -> nn.Module:
    torch.manual_seed(3)
    return build_sam("tiny", 64).image_encoder.eval()


def move(encoder: nn.Module, names: list[str]) -> None:
    """What training would do: every trained number changes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in names:
            parameter = encoder.get_parameter(name)
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize(
    ("text", "size", "count"),
    [
        ("lora", 256, 1_179_648),
        ("lora-all", 256, 4_718_592),
        ("lora-all@6", 256, 2_359_296),
        ("lora-all@50%", 256, 2_359_296),
        ("fact", 256, 301_056),
        ("adaptformer", 256, 1_189_644),
        ("ssf", 256, 202_752),
        ("bias", 256, 101_376),
        ("norm", 256, 36_864),
        ("attention", 1024, 28_441_088),
        ("full@6", 1024, 42_573_568),
        ("full", 1024, 89_670_912),
        ("med-sa", 256, 7_100_928),
        ("svd", 256, 73_728 + 1_024 + 36_864 + 196_608),
        ("lora:4", 256, 147_456),
        ("none", 256, 0),
    ],
)
def test_parameters_of_a_vit_b_are_the_published_ones(text, size, count):
    with torch.device("meta"):
        encoder = build_sam("vit_b", size).image_encoder
    spec = parse_adapter(text)
    adapt_encoder(encoder, spec)
    assert sum(encoder.get_parameter(name).numel() for name in trained_names(encoder, spec)) == count


@pytest.mark.parametrize("make", [small_vit, tiny])
@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapted_encoder_starts_as_the_plain_one_and_then_learns(make, kind):
    plain, image = make(), torch.rand(2, 3, 64, 64)
    adapted, spec = make(), parse_adapter(TEXTS.get(kind, kind))
    before = set(adapted.state_dict())
    adapt_encoder(adapted, spec)
    decompose_all(adapted)
    assert before <= set(adapted.state_dict()), "base checkpoints must load without renaming"
    with torch.no_grad():
        torch.testing.assert_close(adapted(image), plain(image), rtol=1e-5, atol=1e-5)
    names = trained_names(adapted, spec)
    parameters = [adapted.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(adapted(image).square().sum(), parameters, allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
    move(adapted, names)
    assert (adapted(image) - plain(image)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", FOLDABLE)
def test_folding_gives_plain_layers_that_compute_the_same(kind):
    encoder, image = small_vit(), torch.rand(2, 3, 64, 64)
    spec = parse_adapter(TEXTS.get(kind, kind))
    names = set(encoder.state_dict())
    adapt_encoder(encoder, spec)
    decompose_all(encoder)
    move(encoder, trained_names(encoder, spec))
    folded = fold(copy.deepcopy(encoder))
    assert set(folded.state_dict()) == names
    assert {type(m) for m in folded.modules()} == {type(m) for m in small_vit().modules()}
    with torch.no_grad():
        torch.testing.assert_close(folded(image), encoder(image), rtol=1e-4, atol=1e-4)


def test_formulas_against_numpy():
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 12), torch.randn(5, 6)
    w, b, rows = (t.detach().numpy().astype(float) for t in (linear.weight, linear.bias, x))
    lora = LoRAQKV(linear, 2, "qv")
    for name in ("adapter_q_b", "adapter_v_b"):
        nn.init.normal_(lora.get_parameter(name))
    value = {name: p.detach().numpy().astype(float) for name, p in lora.named_parameters()}
    expected = rows @ w.T + b
    expected[:, :4] += rows @ (value["adapter_q_b"] @ value["adapter_q_a"]).T
    expected[:, 8:] += rows @ (value["adapter_v_b"] @ value["adapter_v_a"]).T
    np.testing.assert_allclose(lora(x).detach().numpy(), expected, atol=1e-5)

    fact = FacTQKV(linear, 3)
    nn.init.normal_(fact.adapter_out)
    u, q, v, out = (
        p.detach().numpy().astype(float) for p in (fact.adapter_u, fact.adapter_q, fact.adapter_v, fact.adapter_out)
    )
    expected = rows @ w.T + b
    expected[:, :4] += rows @ (out @ q @ u).T
    expected[:, 8:] += rows @ (out @ v @ u).T
    np.testing.assert_allclose(fact(x).detach().numpy(), expected, atol=1e-5)

    ssf = SSFLinear(linear)
    nn.init.normal_(ssf.adapter_scale), nn.init.normal_(ssf.adapter_shift)
    scale, shift = ssf.adapter_scale.detach().numpy(), ssf.adapter_shift.detach().numpy()
    np.testing.assert_allclose(ssf(x).detach().numpy(), scale * (rows @ w.T + b) + shift, atol=1e-5)

    norm = SSFNorm(nn.LayerNorm(6))
    nn.init.normal_(norm.adapter_scale), nn.init.normal_(norm.adapter_shift)
    centred = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    scale, shift = norm.adapter_scale.detach().numpy(), norm.adapter_shift.detach().numpy()
    np.testing.assert_allclose(norm(x).detach().numpy(), scale * centred + shift, atol=1e-5)


@pytest.mark.parametrize("convolution", [False, True])
def test_singular_values_follow_the_published_formula(convolution):
    torch.manual_seed(0)
    base = nn.Conv2d(3, 5, 3, padding=1, bias=False) if convolution else nn.Linear(7, 4)
    tuned = SVDConv2d(base) if convolution else SVDLinear(base)
    tuned.decompose()
    nn.init.normal_(tuned.adapter_delta, std=0.8), nn.init.normal_(tuned.adapter_shift, std=0.8)
    matrix = base.weight.detach().numpy().astype(float).reshape(base.weight.shape[0], -1)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    with torch.no_grad():
        tuned.adapter_shift[-1] = -2
    a, b = 1 + tuned.adapter_delta.detach().numpy().astype(float), tuned.adapter_shift.detach().numpy().astype(float)
    expected = u @ np.diag(np.maximum(a * s + b, 0)) @ vt
    found = tuned.tuned_weight().detach().numpy().reshape(matrix.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.maximum(a * s + b, 0) == 0).any(), "the test must reach the kink"


def test_a_decomposition_is_saved_and_follows_other_weights():
    first, second = SVDLinear(nn.Linear(6, 6)), SVDLinear(nn.Linear(6, 6))
    first.decompose()
    second.load_state_dict(first.state_dict())
    second.decompose()
    assert torch.equal(second.adapter_u, first.adapter_u)
    other = nn.Linear(6, 6)
    second.load_state_dict({**second.state_dict(), "weight": other.weight, "bias": other.bias})
    second.decompose()
    torch.testing.assert_close((second.adapter_u * second.adapter_s) @ second.adapter_vt, other.weight.detach())


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_prefix_and_suffix_are_the_whole_encoder(start):
    encoder, image = small_vit(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens = run_prefix(encoder, image, start)
        assert tokens.shape == (2, 4, 4, 24)
        assert torch.equal(run_suffix(encoder, tokens, start), encoder(image))


@pytest.mark.parametrize(
    ("text", "keeps"),
    [("none", "embedding"), ("lora:2", "image"), ("lora-all:2@-1", "image"), ("full@-2", "image"), ("svd", "image")],
)
def test_network_with_adapters_gives_the_same_from_features_and_trains_only_what_it_says(text, keeps):
    network = BloSam(encoder="tiny", image_size=64, encoder_adapter=text).eval()
    image = torch.rand(2, 3, 64, 64)
    assert network.keeps == keeps
    with torch.no_grad():
        low = network.logits_from(network.frozen_features(image))
        torch.testing.assert_close(low, network.decode(network.encode(image)), rtol=1e-5, atol=1e-5)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    spec = parse_adapter(text)
    inside = {name for name in trained if name.startswith("image_encoder.")}
    assert inside == {f"image_encoder.{name}" for name in trained_names(network.image_encoder, spec)}
    assert set(network.named_weight_parameters(True)) | set(network.named_prompt_parameters()) == trained
    report = adapter_report(network)
    assert report["trained"] == sum(network.get_parameter(name).numel() for name in trained)
    assert report["trained_bytes"] == 4 * report["trained"] and report["total"] > report["trained"]


def test_late_blocks_of_a_vit_keep_tokens_and_reach_the_same_logits(monkeypatch):
    from blosam.networks import sam

    monkeypatch.setitem(sam.CONFIGS, "vit_b", sam.EncoderConfig(16, 64, dim=24, depth=3, heads=2, global_blocks=(1,)))
    network = BloSam(encoder="vit_b", image_size=64, encoder_adapter="lora-all:2@2").eval()
    move(network.image_encoder, trained_names(network.image_encoder, network.encoder_adapter))
    image = torch.rand(2, 3, 64, 64)
    features = network.frozen_features(image)
    assert network.keeps == "tokens" and features.shape == (2, 4, 4, 24) and not features.requires_grad
    logits = network.logits_from(features)
    torch.testing.assert_close(logits, network.decode(network.encode(image)), rtol=1e-5, atol=1e-5)
    trained = network.weight_parameters()
    gradients = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


def test_samed_s_count_and_export_of_an_adapted_network():
    with torch.device("meta"):
        network = BloSam(encoder="vit_b", image_size=256, out_channels=6, encoder_adapter="lora:4")
    assert adapter_report(network)["trained"] == 1_071_526 + 147_456
    network = BloSam(encoder="tiny", image_size=64, encoder_adapter="svd").eval()
    move(network.image_encoder, trained_names(network.image_encoder, network.encoder_adapter))
    image = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(torch.jit.script(network)(image), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fold(copy.deepcopy(network))(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["loraa", "lora:0", "ssf:3", "lora@", "", "lora:4@12"])
def test_wrong_adapters_are_named(text):
    with pytest.raises(BlosamError, match="adapter"):
        with torch.device("meta"):
            adapt_encoder(build_sam("vit_b", 64).image_encoder, parse_adapter(text))


def test_blocks_are_listed_in_the_order_of_the_image():
    with torch.device("meta"):
        assert block_names(build_sam("vit_b", 64).image_encoder) == [f"blocks.{n}" for n in range(12)]
    names = block_names(tiny())
    assert names[0] == "stages.0.0" and names[-1] == "fuse8" and len(names) == 14
    with pytest.raises(BlosamError, match="no blocks"):
        block_names(nn.Linear(2, 2))
