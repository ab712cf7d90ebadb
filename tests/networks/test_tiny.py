"""The embedded encoder: shapes, sizes, weights and tracing."""

from __future__ import annotations

import pytest
import torch

from blosam.networks.tiny import ConvBlock, Pointwise, TinyEncoder


@pytest.fixture(scope="module")
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder(64).eval()


@pytest.mark.parametrize("side", [16, 48, 64, 112])
def test_every_multiple_of_sixteen_gives_a_stride_eight_embedding(encoder, side):
    with torch.no_grad():
        out = encoder(torch.rand(2, 3, side, side))
    assert out.shape == (2, 256, side // 8, side // 8)
    assert torch.isfinite(out).all()


def test_weights_do_not_depend_on_the_image_size():
    small, large = TinyEncoder(64).state_dict(), TinyEncoder(1024).state_dict()
    assert {k: v.shape for k, v in small.items()} == {k: v.shape for k, v in large.items()}


def test_at_most_three_and_a_half_million_parameters():
    assert sum(p.numel() for p in TinyEncoder(256).parameters()) <= 3_500_000


def test_every_weight_gets_a_gradient():
    net = TinyEncoder(64)
    # A weighted sum: the plain mean of a normalised output is constant and would have no gradient.
    (net(torch.rand(1, 3, 64, 64)) * torch.randn(1, 256, 8, 8)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_an_image_does_not_change_its_neighbour_in_the_batch(encoder):
    a, b = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        together, alone = encoder(torch.cat([a, b])), encoder(b)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_the_whole_image_is_seen_from_every_place(encoder):
    image = torch.rand(1, 3, 128, 128)
    changed = image.clone()
    changed[..., -8:, -8:] = 0
    with torch.no_grad():
        difference = (encoder(image) - encoder(changed)).abs().amax(dim=1)[0]
    assert (difference > 0).all()


def test_pointwise_is_a_one_by_one_convolution():
    layer, x = Pointwise(5, 7), torch.rand(2, 5, 3, 4)
    expected = torch.nn.functional.conv2d(x, layer.linear.weight[:, :, None, None], layer.linear.bias)
    torch.testing.assert_close(layer(x), expected)


def test_a_block_of_gain_zero_is_the_identity():
    block, x = ConvBlock(16), torch.rand(1, 16, 8, 8)
    torch.nn.init.zeros_(block.gain)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_a_trace_made_with_one_image_serves_any_batch(encoder):
    traced = torch.jit.trace(encoder, torch.rand(1, 3, 64, 64), check_trace=False)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), encoder(images), rtol=1e-4, atol=1e-4)
