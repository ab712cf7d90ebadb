"""S-SAM's prompts: one token a class, one decoder pass each, published sizes, and what the others leave unchanged."""

from __future__ import annotations

import pytest
import torch

from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.networks.adapters import adapter_report
from blosam.networks.prompts import TextPrompt


def network(**settings) -> BloSam:
    return BloSam(encoder="tiny", image_size=64, rank=0, **settings).eval()


@pytest.mark.parametrize(
    ("prompt", "classes", "count"), [("text", 1, 444_672), ("labels", 1, 313_088), ("labels", 5, 314_112)]
)
def test_parameters_of_s_sam_are_the_published_ones(prompt, classes, count):
    with torch.device("meta"):
        net = BloSam(
            encoder="vit_b", image_size=256, out_channels=classes + 1, rank=0, prompt=prompt, trainable="decoder-norms",
            encoder_adapter="svd",
        )  # fmt: skip
    assert adapter_report(net)["trained"] == count


def test_each_class_is_decoded_alone_with_its_own_token():
    net = network(out_channels=4, prompt="labels")
    with torch.no_grad():
        net.label_prompt.tokens.normal_()
        embedding = net.encode(torch.rand(2, 3, 64, 64))
        logits, iou = net.decode_with_iou(embedding)
        assert logits.shape == (2, 4, 32, 32) and iou.shape == (2, 4)
        assert not logits[:, 0].any()
        dense = net.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        for index in range(3):
            # The stock path with one image and one sparse token; its channel 1 is the mask token that answers.
            token = net.label_prompt.tokens[index : index + 1]
            for image in range(2):
                one, quality = net.mask_decoder.decode(
                    embedding[image : image + 1], net.prompt_encoder.pe_layer.dense, dense, token
                )
                torch.testing.assert_close(logits[image, 1 + index], one[0, 1], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(iou[image, 1 + index], quality[0, 1], rtol=1e-4, atol=1e-4)


def test_softmax_against_a_background_of_zero_is_s_sams_rule():
    logits = torch.cat(
        (torch.zeros(5, 1, 8, 8), torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))), 1
    )
    probability = logits[:, 1:].sigmoid()
    best, index = probability.max(1)
    expected = torch.where(best >= 0.5, index + 1, 0)
    assert torch.equal(logits.softmax(1).argmax(1), expected)


def test_text_vectors_can_be_replaced_and_are_saved():
    net = network(prompt="text", out_channels=3)
    vectors = torch.randn(2, 512)
    net.label_prompt.set_vectors(vectors)
    other = network(prompt="text", out_channels=3)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.label_prompt.vectors, vectors)
    with pytest.raises(BlosamError, match="one per class"):
        net.label_prompt.set_vectors(torch.randn(3, 512))
    prompt = TextPrompt(1, 256)  # one class alone still moves, unlike behind a batch normalisation
    gradient = torch.autograd.grad(prompt().square().mul(torch.arange(256)).sum(), prompt.affine.weight)[0]
    assert gradient.abs().max() > 0


def test_without_rank_there_is_no_lora_and_norms_alone_are_trained():
    net = network(trainable="decoder-norms")
    assert not [name for name in net.state_dict() if "lora" in name]
    names = set(net.named_weight_parameters())
    assert len(names) == 18 and all(".norm" in name for name in names)
    assert sum(p.numel() for p in net.weight_parameters()) == 4_608
    whole = network(trainable="whole-decoder")
    inside = {name for name, _ in whole.named_parameters() if name.startswith("mask_decoder.")}
    assert set(whole.named_weight_parameters(iou_head=True)) == inside


@pytest.mark.parametrize("prompt", ["labels", "text"])
def test_export_takes_any_batch(prompt):
    net = network(prompt=prompt, out_channels=3)
    scripted, image = torch.jit.script(net), torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), net(image), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scripted(image[:1]), net(image[:1]), rtol=1e-4, atol=1e-4)
