"""BloSam: what is trained, what a pass computes, and that it can be differentiated functionally, twice."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn import functional

from blosam.errors import BlosamError
from blosam.networks import BloSam, FromFeatures, build_sam


@pytest.fixture(scope="module", params=["dense", "sparse"])
def network(request) -> BloSam:
    return BloSam("tiny", 64, out_channels=3, prompt=request.param).eval()


def disturbed(network: BloSam, seed: int = 1) -> BloSam:
    """A copy in which everything that is trained has moved away from its start."""
    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.weight_parameters(iou_head=True) + network.prompt_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


# --- what is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "trained", "without_iou_head", "total"),
    [
        (1, 510_242, 378_144, 90_480_110),
        (3, 790_884, 658_272, 90_760_752),
        (5, 1_071_526, 938_400, 91_041_394),
        (8, 1_492_489, 1_358_592, 91_462_357),
    ],
)
def test_counts_of_vit_b_at_256_pixels(classes, trained, without_iou_head, total):
    with torch.device("meta"):
        network = BloSam("vit_b", 256, out_channels=classes + 1)
    assert count(p for p in network.parameters() if p.requires_grad) == trained
    assert count(network.weight_parameters(iou_head=True)) == trained - 256
    assert count(network.weight_parameters()) + 256 == without_iou_head
    assert count(network.prompt_parameters()) == 256
    assert count(network.parameters()) == total


def test_counts_of_a_real_vit_b():
    network = BloSam(encoder="vit_b", image_size=256, out_channels=2)
    assert count(p for p in network.parameters() if p.requires_grad) == 510_242
    assert count(p for name, p in network.named_parameters() if "lora" in name) == 23_552


@pytest.mark.parametrize("encoder", ["tiny", "vit_l", "vit_h"])
def test_decoder_counts_do_not_depend_on_the_encoder(encoder):
    with torch.device("meta"):
        network = BloSam(encoder, 1024, out_channels=6)
    assert count(p for p in network.parameters() if p.requires_grad) == 1_071_526


@pytest.mark.parametrize("trainable", ["decoder", "all"])
@pytest.mark.parametrize("prompt", ["dense", "sparse"])
def test_exactly_the_listed_parameters_reach_the_logits(images, prompt, trainable):
    network = disturbed(BloSam("tiny", 64, prompt=prompt, trainable=trainable))
    listed = {id(p) for p in network.weight_parameters() + network.prompt_parameters()}
    iou_head = {id(p) for p in network.mask_decoder.iou_prediction_head.parameters()}
    assert {id(p) for p in network.parameters() if p.requires_grad} == listed | iou_head
    # A random weighting of the logits: normalisations make plain sums of some layers constant.
    logits = network.logits_from(network.frozen_features(images))
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert {id(p) for p in network.parameters() if p.grad is not None} == listed
    if trainable == "all":
        network.requires_grad_(True)
        network.zero_grad()
        network.logits_from(images).square().sum().backward()
        reached = {name for name, p in network.named_parameters() if p.grad is not None}
        frozen_prompt = {"prompt_encoder.no_mask_embed.weight"} if prompt == "sparse" else set()
        assert reached == {n for n, p in network.named_parameters() if id(p) in listed} | frozen_prompt


def test_iou_head_learns_only_from_its_own_output(images):
    network = BloSam("tiny", 64)
    head = list(network.mask_decoder.iou_prediction_head.parameters())
    without, with_head = network.weight_parameters(), network.weight_parameters(iou_head=True)
    assert {id(p) for p in with_head} - {id(p) for p in without} == {id(p) for p in head}
    logits, iou = network.logits_and_iou_from(network.frozen_features(images))
    assert logits.shape == (3, 2, 32, 32) and iou.shape == (3, 2)
    iou.sum().backward()
    assert all(p.grad is not None for p in head)


def test_prompt_is_named_and_shaped():
    dense, sparse = BloSam("tiny", 64), BloSam("tiny", 64, prompt="sparse", num_prompt_tokens=5)
    assert {n: tuple(p.shape) for n, p in dense.named_prompt_parameters().items()} == {
        "prompt_encoder.no_mask_embed.weight": (1, 256)
    }
    assert {n: tuple(p.shape) for n, p in sparse.named_prompt_parameters().items()} == {
        "sparse_prompt.tokens": (5, 256)
    }
    assert not sparse.prompt_encoder.no_mask_embed.weight.requires_grad


def test_every_tensor_has_one_name(network):
    """Regression B7: with two names for a tensor, loading virtual weights restores old values."""
    parameters = list(network.named_parameters(remove_duplicate=False))
    assert len({id(p) for _, p in parameters}) == len(parameters)
    storages = [t.untyped_storage().data_ptr() for t in network.state_dict().values()]
    assert len(set(storages)) == len(storages)


def test_state_dict_has_the_same_keys_however_much_is_trained():
    assert list(BloSam("tiny", 64).state_dict()) == list(BloSam("tiny", 64, trainable="all").state_dict())


def test_state_dict_keys_are_those_of_sam_plus_the_adapters():
    own = set(BloSam("tiny", 64, out_channels=4).state_dict())
    base = set(build_sam("tiny", 64).state_dict())
    assert base <= own and all(name.endswith(("lora_a", "lora_b")) for name in own - base)
    assert len(own - base) == 28


# --- construction ----------------------------------------------------------------------------------------------------


def test_construction_is_seeded_by_itself_and_leaves_global_randomness_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = BloSam("tiny", 64, init_seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = BloSam("tiny", 64, init_seed=3).state_dict(), BloSam("tiny", 64, init_seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mask_decoder.mask_tokens.weight"], other["mask_decoder.mask_tokens.weight"])


def test_encoder_weights_do_not_depend_on_classes_or_prompt():
    one, other = BloSam("tiny", 64), BloSam("tiny", 64, out_channels=5, prompt="sparse", rank=2)
    for name, tensor in one.image_encoder.state_dict().items():
        assert torch.equal(tensor, other.image_encoder.state_dict()[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "resnet"}, "unknown encoder 'resnet'.*tiny, vit_b, vit_l, vit_h"),
        ({"image_size": 250}, "image_size 250 is not divisible by 16"),
        ({"out_channels": 1}, "out_channels is 1"),
        ({"rank": -1}, "rank -1"),
        ({"prompt": "words"}, "unknown prompt 'words'.*dense, sparse"),
        ({"prompt": "sparse", "num_prompt_tokens": 0}, "num_prompt_tokens is 0"),
        ({"head": "zero"}, "unknown head 'zero'.*random, pretrained"),
        ({"trainable": "encoder"}, "unknown trainable 'encoder'.*decoder, .*all"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_arguments_name_value_and_mend(arguments, message):
    with pytest.raises(BlosamError, match=message) as caught:
        BloSam(**arguments)
    assert "\n" not in str(caught.value)


# --- passes ----------------------------------------------------------------------------------------------------------


def test_sizes_and_attributes(network, images):
    assert (network.image_size, network.grid, network.logits_size) == (64, 8, 32)
    assert (network.out_channels, network.encoder_name, network.embed_dim) == (3, "tiny", 256)
    embedding = network.encode(images)
    assert embedding.shape == (3, 256, 8, 8)
    assert network.decode(embedding).shape == (3, 3, 32, 32)
    logits = network(images)
    assert logits.shape == (3, 3, 64, 64)
    upsampled = functional.interpolate(network.decode(embedding), (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(logits, upsampled)


def test_a_batch_equals_its_images_one_by_one(network, images):
    network = disturbed(network)
    with torch.no_grad():
        one_by_one = torch.cat([network(image) for image in images.split(1)])
        torch.testing.assert_close(network(images), one_by_one, atol=1e-5, rtol=1e-4)


def test_at_the_start_the_adapted_decoder_is_the_stock_decoder(network, images):
    base = build_sam("tiny", 64, num_multimask_outputs=2).eval()
    base.load_state_dict({name: network.state_dict()[name] for name in base.state_dict()})
    sparse, dense = base.prompt_encoder(points=None, boxes=None, masks=None)
    if network.prompt == "sparse":
        sparse = network.sparse_prompt.tokens.unsqueeze(0)
    with torch.no_grad():
        for image in images.split(1):
            embedding = base.image_encoder(base.preprocess(255 * image))
            torch.testing.assert_close(network.encode(image), embedding, atol=1e-5, rtol=1e-5)
            masks, iou = base.mask_decoder.predict_masks(embedding, base.prompt_encoder.get_dense_pe(), sparse, dense)
            logits, own_iou = network.decode_with_iou(embedding)
            torch.testing.assert_close(logits, masks, atol=1e-5, rtol=0)
            torch.testing.assert_close(own_iou, iou, atol=1e-5, rtol=0)


def test_normalisation_is_sams_and_padding_colour_becomes_zero(network):
    seen = []
    handle = network.image_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    padding = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    bright = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1)
    try:
        with torch.no_grad():
            network.encode(torch.cat((padding, bright)).expand(2, 3, 64, 64))
    finally:
        handle.remove()
    assert seen[0][0].abs().max() < 1e-6
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (255 * bright.flatten() - mean) / std
    torch.testing.assert_close(seen[0][1, :, 5, 9], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 3, 64, 48), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_another_shape_are_refused(network, shape):
    with pytest.raises(BlosamError, match="takes B x 3 x 64 x 64"):
        network(torch.zeros(shape))


def test_frozen_features_carry_no_gradient_and_give_the_same_logits(network, images):
    features = network.frozen_features(images)
    assert not features.requires_grad
    assert torch.equal(network.logits_from(features), network.decode(network.encode(images)))
    everything = BloSam("tiny", 64, trainable="all").eval()
    assert everything.frozen_features(images) is images
    logits = everything.logits_from(images)
    torch.testing.assert_close(logits, everything.decode(everything.encode(images)), atol=1e-5, rtol=1e-5)


def test_features_kept_in_half_precision_are_accepted(network, images):
    features = network.frozen_features(images)
    logits = network.logits_from(features.half())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, network.logits_from(features), atol=0.05, rtol=0.05)


def test_a_frozen_encoder_stays_in_evaluation_mode():
    assert not BloSam("tiny", 64).train().image_encoder.training
    assert BloSam("tiny", 64).train().mask_decoder.training
    assert BloSam("tiny", 64, trainable="all").train().image_encoder.training


def test_dropout_acts_in_training_only(images):
    network = BloSam("tiny", 64, dropout=0.5)
    with torch.no_grad():
        features = network.frozen_features(images)
        assert not torch.equal(network.train().logits_from(features), network.logits_from(features))
        plain = BloSam("tiny", 64)
        assert torch.equal(network.eval().logits_from(features), plain.logits_from(features))


def test_autocast_in_bfloat16(network, images):
    with torch.no_grad():
        exact = network(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = network.frozen_features(images)
            low = network.logits_from(features)
    assert features.dtype == torch.bfloat16 and low.dtype == torch.float32
    exact_low = network.decode(network.encode(images))
    assert (low - exact_low).abs().max() < 0.1 * exact_low.abs().max()
    assert exact.dtype == torch.float32


def test_whole_network_in_bfloat16(network, images):
    low = copy.deepcopy(network).bfloat16()
    assert low(images).dtype == torch.bfloat16


# --- saving ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_weights_give_the_same_logits(network, images, tmp_path):
    trained = disturbed(network)
    fresh = BloSam("tiny", 64, out_channels=3, prompt=network.prompt, init_seed=99).eval()
    assert not torch.equal(fresh(images), trained(images))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(fresh(images), trained(images))
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(fresh(images), trained(images))


# --- functional use --------------------------------------------------------------------------------------------------


def groups(network: BloSam) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """theta and p under the names FromFeatures gives them."""
    theta = {f"network.{name}": p for name, p in network.named_weight_parameters().items()}
    prompt = {f"network.{name}": p for name, p in network.named_prompt_parameters().items()}
    return theta, prompt


def test_functional_call_uses_the_given_tensors_and_restores_nothing(network, images):
    other = disturbed(network)
    theta, prompt = groups(other)
    module, features = FromFeatures(network), network.frozen_features(images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits = functional_call(module, {**theta, **prompt}, (features,))
    assert torch.equal(logits, other.logits_from(features))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    logits, iou = functional_call(FromFeatures(network, with_iou=True), {**theta, **prompt}, (features,))
    assert torch.equal(logits, other.logits_from(features)) and iou.shape == (3, 3)


def smooth(module: torch.nn.Module) -> None:
    """Replace ReLU, whose kinks spoil finite differences: as a module, and inside SAM's MLPs."""
    for child in module.modules():
        if hasattr(child, "act") and isinstance(child.act, torch.nn.ReLU):
            child.act = torch.nn.Softplus()


@pytest.mark.parametrize("trainable", ["decoder", "all"])
def test_hypergradient_by_double_backward_equals_finite_differences(images, trainable, monkeypatch):
    """d/dp of L2(theta - xi dL1/dtheta, p), both losses by functional_call, in double precision."""
    network = disturbed(BloSam("tiny", 32, trainable=trainable)).double().eval()
    smooth(network)
    monkeypatch.setattr(functional, "relu", functional.softplus)  # what SAM's MLPs call
    theta, prompt = groups(network)
    module, images = FromFeatures(network), images[:2, :, :32, :32].double()
    f1, f2 = network.frozen_features(images[:1]), network.frozen_features(images[1:])
    target = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(4)).double()

    def after_one_step(p: dict[str, torch.Tensor], create_graph: bool) -> torch.Tensor:
        lower = (functional_call(module, {**theta, **p}, (f1,)) - target).square().mean()
        gradient = torch.autograd.grad(lower, list(theta.values()), create_graph=create_graph)
        moved = {name: tensor - 0.05 * g for (name, tensor), g in zip(theta.items(), gradient, strict=True)}
        return (functional_call(module, {**moved, **p}, (f2,)) - target).square().mean()

    exact = torch.autograd.grad(after_one_step(prompt, create_graph=True), list(prompt.values()))[0]
    (name, p), step = next(iter(prompt.items())), 1e-5
    direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    plus = after_one_step({name: p + step * direction}, create_graph=False)
    minus = after_one_step({name: p - step * direction}, create_graph=False)
    numeric = (plus - minus).item() / (2 * step)
    assert (exact * direction).sum().item() == pytest.approx(numeric, rel=1e-4)
    first_order = torch.autograd.grad(
        (functional_call(module, {**theta, **prompt}, (f2,)) - target).square().mean(), [p]
    )[0]
    assert (exact - first_order).norm() > 1e-3 * exact.norm()
