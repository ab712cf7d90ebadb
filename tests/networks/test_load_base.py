"""Loading base weights: which tensor goes where, equality with stock segment_anything, and every refusal."""

from __future__ import annotations

import copy
import functools
import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from torch.nn import functional

from blosam.errors import BlosamError
from blosam.networks import BloSam, load_base

HEADS = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")


def drawn(state: dict[str, torch.Tensor], seed: int = 5) -> dict[str, torch.Tensor]:
    """A copy with the zero position tables drawn as well, as in a trained SAM."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in state.items():
        if name.endswith("pos_embed") or "rel_pos" in name:
            tensor.normal_(std=0.1, generator=generator)
    return state


def stock_masks(sam: torch.nn.Module, embedding: torch.Tensor, order: list[int]) -> tuple[torch.Tensor, ...]:
    """Logits and quality for one embedding by segment_anything's own decoder without prompts.

    Its mask tokens, hypernetworks and quality outputs are first put in the given order (with repetitions).
    """
    source, decoder = sam.mask_decoder, copy.deepcopy(sam.mask_decoder)
    decoder.mask_tokens.weight.copy_(source.mask_tokens.weight[order])
    for name in ("weight", "bias"):
        last = getattr(source.iou_prediction_head.layers[-1], name)
        getattr(decoder.iou_prediction_head.layers[-1], name).copy_(last[order])
    for i, index in enumerate(order):
        state = source.output_hypernetworks_mlps[index].state_dict()
        decoder.output_hypernetworks_mlps[i].load_state_dict(state)
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    return decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)


@pytest.fixture(scope="module")
def tiny_state(tiny_sam) -> dict[str, torch.Tensor]:
    return drawn(tiny_sam.state_dict())


@pytest.fixture(scope="module")
def tiny_file(tiny_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    save_file(tiny_state, path)
    return path


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory):
    """A stock vit_b with random weights, and its checkpoint of official size and layout (375 MB, removed later)."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        sam = sam_model_registry["vit_b"]()
    sam.load_state_dict(drawn(sam.state_dict()))
    path = tmp_path_factory.mktemp("vit_b") / "sam_vit_b_random.pth"
    torch.save(sam.state_dict(), path)
    yield sam.eval(), path
    path.unlink()


# --- what is loaded --------------------------------------------------------------------------------------------------


def test_random_head_takes_everything_but_the_heads(tiny_file, tiny_state):
    network = BloSam("tiny", 64, out_channels=6, prompt="sparse")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_base(network, tiny_file)
    for name, tensor in network.state_dict().items():
        own = any(head in name for head in HEADS) or "lora" in name or name.startswith("sparse_prompt")
        assert torch.equal(tensor, before[name] if own else tiny_state[name]), name


def test_grid_positions_follow_the_loaded_frequencies(tiny_file, tiny_sam):
    network = BloSam("tiny", 64)
    load_base(network, tiny_file)
    loaded = network.prompt_encoder.pe_layer.dense
    torch.testing.assert_close(loaded, tiny_sam.prompt_encoder.get_dense_pe(), atol=1e-5, rtol=0)


def test_loading_leaves_trainability_and_global_randomness_alone(tiny_file):
    network = BloSam("tiny", 64, head="pretrained")
    trainable, state = [p.requires_grad for p in network.parameters()], torch.get_rng_state()
    load_base(network, tiny_file)
    assert [p.requires_grad for p in network.parameters()] == trainable
    assert torch.equal(torch.get_rng_state(), state)


def test_small_encoder_loads_at_another_image_size(tiny_file, images):
    network = BloSam("tiny", 48, head="pretrained")
    load_base(network, tiny_file)
    assert network(images[:, :, :48, :48]).shape == (3, 2, 48, 48)


def test_half_precision_file_becomes_single_precision(tiny_state, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in tiny_state.items()}, path)
    network = BloSam("tiny", 64)
    load_base(network, path)
    name = "mask_decoder.iou_token.weight"
    assert network.get_parameter(name).dtype == torch.float32
    assert torch.equal(network.get_parameter(name), tiny_state[name].half().float())


def test_pretrained_head_starts_as_sams_own_masks(tiny_file, tiny_sam, images):
    """Output tokens attend to each other, so only K + 1 = 4 channels can be compared with stock SAM."""
    network = BloSam("tiny", 64, out_channels=4, head="pretrained").eval()
    load_base(network, tiny_file)
    with torch.no_grad():
        embedding = network.encode(images[:1])
        logits, iou = network.decode_with_iou(embedding)
        masks, quality = stock_masks(tiny_sam, embedding, [0, 0, 1, 2])
    torch.testing.assert_close(logits[:, 1:], masks[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(iou, quality, atol=1e-5, rtol=0)


def test_pretrained_background_leaves_the_decision_to_the_sign_of_the_foreground(tiny_file, images):
    network = BloSam("tiny", 64, head="pretrained").eval()
    load_base(network, tiny_file)
    with torch.no_grad():
        background, foreground = network.decode(network.encode(images)).unbind(1)
    assert background.abs().max() < 0.05 * foreground.abs().max()
    clear = foreground.abs() > background.abs()
    assert clear.float().mean() > 0.9
    assert torch.equal((foreground > background)[clear], (foreground > 0)[clear])


def test_spare_channels_take_the_multimask_heads_in_turn(tiny_file, tiny_state):
    network = BloSam("tiny", 64, out_channels=7, head="pretrained")
    load_base(network, tiny_file)
    state = network.state_dict()
    for channel, source in enumerate([0, 0, 1, 2, 3, 1, 2]):
        token = "mask_decoder.mask_tokens.weight"
        assert torch.equal(state[token][channel], tiny_state[token][source])
        for layer in (0, 1, 2):
            name = "mask_decoder.output_hypernetworks_mlps.{}.layers.{}.weight"
            copied = torch.equal(state[name.format(channel, layer)], tiny_state[name.format(source, layer)])
            assert copied == (channel > 0 or layer < 2)


def test_background_noise_depends_on_the_seed_of_the_network_alone(tiny_file):
    name = "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight"
    weights = []
    for seed in (0, 0, 1):
        network = BloSam("tiny", 64, head="pretrained", init_seed=seed)
        load_base(network, tiny_file)
        weights.append(network.get_parameter(name).detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 0 < weights[0].abs().max() < 0.01


# --- the official layout ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_official_vit_b_at_another_size_starts_as_stock_sam(vit_b, images):
    """At step 0 encoder and decoder with LoRA give what segment_anything gives, to 1e-5 of the values' scale."""
    sam, path = vit_b
    network = BloSam("vit_b", 64, out_channels=4, head="pretrained").eval()
    load_base(network, path)
    position = sam.image_encoder.pos_embed.permute(0, 3, 1, 2)
    resized = functional.interpolate(position, (4, 4), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    original = sam.image_encoder.pos_embed
    try:
        sam.image_encoder.pos_embed = torch.nn.Parameter(resized)
        sam.image_encoder.img_size = 64
        sam.prompt_encoder.image_embedding_size = (4, 4)
        with torch.no_grad():
            embedding = sam.image_encoder(sam.preprocess(255 * images[:1]))
            torch.testing.assert_close(network.encode(images[:1]), embedding, atol=2e-5, rtol=1e-5)
            masks, _ = stock_masks(sam, embedding, [0, 0, 1, 2])
            torch.testing.assert_close(network.decode(embedding)[:, 1:], masks[:, 1:], atol=1e-5, rtol=0)
    finally:
        sam.image_encoder.pos_embed = original


def test_checkpoint_of_another_architecture_names_both(tmp_path):
    blocks = {f"image_encoder.blocks.{block}.norm1.bias": torch.zeros(768) for block in range(12)}
    path = tmp_path / "sam_vit_b.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 768), **blocks}, path)
    with pytest.raises(BlosamError, match="sam_vit_b.pth: holds a SAM with encoder vit_b, the network has tiny"):
        load_base(some_network(), path)


# --- refusals --------------------------------------------------------------------------------------------------------


@functools.cache
def some_network() -> BloSam:
    return BloSam("tiny", 64)


def refused(path: Path, match: str, **kwargs) -> None:
    """Loading fails with one line that names the file, and changes nothing."""
    network = some_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(BlosamError, match=match) as caught:
        load_base(network, path, **kwargs)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def test_missing_file(tmp_path):
    refused(tmp_path / "none.pth", "no such file with base weights.*blosam weights fetch tiny")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_truncated_file(tiny_state, tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    few = {name: tiny_state[name] for name in sorted(tiny_state)[:20]}
    torch.save(few, path) if suffix == ".pth" else save_file(few, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused(path, "truncated")


def test_pickled_objects_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"weights": Trap()}, protocol=2))
    torch.save({"weights": Trap()}, tmp_path / "zipped.pth")
    refused(tmp_path / "bare.pth", "bare.pth")
    refused(tmp_path / "zipped.pth", "zipped.pth: holds pickled Python objects")
    assert not (tmp_path / "ran").exists()


def test_digest(tiny_file):
    digest = hashlib.sha256(tiny_file.read_bytes()).hexdigest()
    load_base(BloSam("tiny", 64), tiny_file, expected_sha256=digest.upper())
    wrong = "0" * 64
    refused(tiny_file, f"its sha256 is {digest}, expected {wrong}", expected_sha256=wrong)


def test_missing_unexpected_and_misshaped_tensors_are_named(tiny_state, tmp_path):
    state = dict(tiny_state)
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.extra"] = torch.zeros(1)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 128)
    path = saved(state, tmp_path / "odd.pth")
    refused(path, r"missing \(mask_decoder.iou_token.weight\)")
    refused(path, r"unexpected \(mask_decoder.extra\)")
    refused(path, r"no_mask_embed.weight \(1, 128\) instead of \(1, 256\)")


def test_heads_must_be_there_even_when_they_are_not_used(tiny_state, tmp_path):
    state = {name: tensor for name, tensor in tiny_state.items() if "mask_tokens" not in name}
    refused(saved(state, tmp_path / "headless.pth"), "missing .mask_decoder.mask_tokens.weight")


def test_a_trained_network_is_no_base(tmp_path):
    refused(saved(BloSam("tiny", 64).state_dict(), tmp_path / "model.pt"), "28 tensors unexpected .*lora")


def test_larger_vit_is_named_by_width_and_depth(tmp_path):
    state = {f"image_encoder.blocks.{i}.norm1.weight": torch.zeros(1) for i in range(24)}
    state["image_encoder.pos_embed"] = torch.zeros(1, 1, 1, 1024)
    refused(saved(state, tmp_path / "large.pth"), "holds a SAM with encoder vit_l, the network has tiny")


def test_tensors_of_something_else(tmp_path):
    refused(saved({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth"), "is no base for encoder tiny")
