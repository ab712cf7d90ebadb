"""Ablations: names, what each value changes and what it leaves, and what a comparison needs for them."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from blosam import ablations
from blosam.ablations import ABLATIONS, NotApplicableError, expand, resolve, split, variants
from blosam.errors import BlosamError
from blosam.methods import METHODS
from blosam.networks import BloSam

WORDS = {"name", "summary", "source"}


def changed(name: str, base: str = "blo-sam") -> dict:
    before, after = asdict(resolve(base, "tiny")), asdict(resolve(name, "tiny"))
    return {key: value for key, value in after.items() if value != before[key] and key not in WORDS}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("blo-sam+rank-8", {"rank": 8}),
        ("blo-sam+lambda-0.2", {"dice_weight": 0.2}),
        ("blo-sam+order-joint", {"joint": True}),
        ("blo-sam+order-swap", {"swap_roles": True}),
        ("blo-sam+order-second", {"order": 2}),
        ("blo-sam+order-finite-difference", {"order": 2, "hypergradient": "finite_difference"}),
        ("blo-sam+trainable-decoder", {"head": "pretrained"}),
        ("blo-sam+trainable-heads", {"head": "pretrained", "rank": 0}),
        ("blo-sam+rank-8+lambda-0", {"rank": 8, "dice_weight": 0.0}),
    ],
)
def test_a_variant_differs_in_what_its_name_says(name, changes):
    assert changed(name) == changes and resolve(name, "tiny").name == name


def test_late_variants_keep_kind_and_size():
    assert changed("late-lora+late-75", "late-lora") == {"encoder_adapter": "lora-all:32@75%"}
    assert changed("s-sam+late-25", "s-sam") == {"encoder_adapter": "svd@25%"}
    assert changed("late-lora+late-0", "late-lora") == {"encoder_adapter": "lora-all:32"}


def test_the_value_that_a_method_has_already_is_the_method():
    assert variants("blo-sam", "rank", "tiny")["4"] == "blo-sam"
    assert variants("blo-sam", "lambda", "tiny")["0.8"] == "blo-sam"
    assert variants("blo-sam", "order", "tiny")["first"] == "blo-sam"
    assert variants("late-lora", "late", "tiny")["50"] == "late-lora"
    assert variants("recommended", "order", "tiny")["joint"] == "recommended"  # whose recipe is joint there
    assert variants("recommended", "order", "vit_b")["first"] == "recommended"


def test_names_of_variants_are_safe_file_names_that_lead_back():
    for ablation, item in ABLATIONS.items():
        for value, name in variants(item.base, ablation, "tiny").items():
            assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]*[a-z0-9]", name)
            assert name == item.base or split(name) == (item.base, ablation, value)
    for name in (*METHODS, "recommended", "unet", "blo-sam+rank-3", "blo-sam+nonsense-4", "blo-sam+rank", "+"):
        assert split(name) is None


@pytest.mark.parametrize(
    ("base", "ablation"),
    [("late-lora", "rank"), ("blo-sam", "late"), ("s-sam", "lambda"), ("s-sam", "trainable")],
)
def test_what_makes_no_sense_is_refused(base, ablation):
    with pytest.raises(NotApplicableError, match=base):
        variants(base, ablation, "tiny")


def test_expansion_varies_the_presets_and_keeps_the_others():
    methods, by_examples = expand(["rank", "examples"], ["blo-sam", "unet"], "tiny")
    assert methods == ["blo-sam", "unet", *(f"blo-sam+rank-{rank}" for rank in (1, 2, 8, 16))]
    assert by_examples == ["blo-sam"]
    methods, by_examples = expand(["late", "lambda"], ["samed", "blo-sam"], "tiny")
    assert [name for name in methods if "+late" in name] == [f"samed+late-{start}" for start in (25, 50, 75)]
    assert {name.partition("+")[0] for name in methods if "+lambda" in name} == {"samed", "blo-sam"}
    assert by_examples == []


def test_a_base_is_added_when_no_method_can_be_varied():
    methods, by_examples = expand(["late"], ["unet"], "tiny")
    assert methods[:2] == ["unet", "late-lora"] and len(methods) == 5 and by_examples == []
    assert expand(["examples"], ["unet"], "tiny") == (["unet", "blo-sam"], ["blo-sam"])
    assert expand([], ["unet", "unet"], "tiny") == (["unet"], [])


def test_names_from_the_command_line():
    assert ablations.names("rank, lambda,rank") == ["rank", "lambda"]
    assert ablations.names("rank,all") == list(ABLATIONS) and ablations.names("") == []
    with pytest.raises(BlosamError, match=r"--ablate ranks: unknown.*lambda"):
        ablations.names("rank,ranks")


@pytest.mark.parametrize(
    ("value", "weights", "prompt"),
    [
        ("prompt", 0, 256),
        ("lora", 23_552, 256),  # 14 pairs of rank 4 in the seven attentions
        ("heads", 73_952 + 2 * 139_808 + 3 * 256, 256),  # upscaling, two hypernetworks, three tokens
        ("decoder", 23_552 + 73_952 + 2 * 139_808 + 3 * 256, 256),
        ("norms", 4_608, 256),
    ],
)
def test_what_is_trained_counts_as_published(value, weights, prompt):
    method = resolve(f"blo-sam+trainable-{value}", "tiny")
    network = BloSam("tiny", 64, rank=method.rank, trainable=method.trainable, head=method.head)
    assert sum(p.numel() for p in network.weight_parameters()) == weights
    assert sum(p.numel() for p in network.prompt_parameters()) == prompt
    counted = {id(p) for p in network.weight_parameters(iou_head=True) + network.prompt_parameters()}
    assert all(p.requires_grad == (id(p) in counted) for p in network.parameters())
