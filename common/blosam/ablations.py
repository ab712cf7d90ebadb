"""Ablations: a method with one thing changed, to see how much of its result comes from that thing.

A variant is named ``METHOD+ABLATION-VALUE``, e.g. ``blo-sam+rank-8``, which is also a safe file name everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from blosam import methods
from blosam.errors import BlosamError
from blosam.methods import Method

EXAMPLES = (2, 4, 8, 16)
"""Numbers of training images of the ablation ``examples``, which changes no method."""


class NotApplicableError(BlosamError):
    """The method has nothing that the ablation could change."""


@dataclass(frozen=True)
class Ablation:
    """One thing that is varied.

    Args:
        name: what users type.
        summary: one line.
        axis: what the values are, for the axis of a plot.
        values: in the order in which they are shown.
        derive: the method with a value; raises :class:`NotApplicableError` when it makes no sense.
        base: method that is varied when none of those that are compared can be.
        numeric: whether the values are numbers, so that distances between them mean something.
    """

    name: str
    summary: str
    axis: str
    values: tuple[str, ...]
    derive: Callable[[Method, str], Method]
    base: str = "blo-sam"
    numeric: bool = True


_TRAINABLE = {
    "prompt": {"trainable": "none", "rank": 0, "joint": True},  # without weights there is nothing for D1 to teach
    "lora": {"trainable": "lora"},
    "heads": {"trainable": "decoder", "rank": 0},
    "decoder": {"trainable": "decoder"},
    "norms": {"trainable": "decoder-norms", "rank": 0},
    "encoder-lora": {"trainable": "none", "rank": 0, "encoder_adapter": "lora:4"},
    # A rate that suits low-rank updates destroys weights that are trained themselves.
    "whole-decoder": {"trainable": "whole-decoder", "rank": 0, "weight_lr": 5e-4},
    "all": {"trainable": "all", "rank": 0, "weight_lr": 5e-4},
}
_ORDER = {
    "joint": {"joint": True},
    "first": {},
    "swap": {"swap_roles": True},
    "second": {"order": 2, "hypergradient": "exact", "clip_norm": 0.0},
    "finite-difference": {"order": 2, "hypergradient": "finite_difference", "clip_norm": 0.0},
}


def _trainable(base: Method, value: str) -> Method:
    if base.prompt != "dense":
        raise NotApplicableError(f"{base.name} has a prompt of its own kind; vary what is trained of blo-sam.")
    # Heads that stay frozen must be SAM's own, and all variants must begin alike.
    changes = {"head": "pretrained", "encoder_adapter": "none", "rank": base.rank or 4, **_TRAINABLE[value]}
    return replace(base, **changes)


def _order(base: Method, value: str) -> Method:
    return replace(base, **{"joint": False, "order": 1, "swap_roles": False, **_ORDER[value]})


def _lambda(base: Method, value: str) -> Method:
    if base.loss != "ce-dice":
        raise NotApplicableError(f"the loss of {base.name} has no weight between cross-entropy and Dice.")
    return replace(base, dice_weight=float(value))


def _rank(base: Method, value: str) -> Method:
    if not base.rank:
        raise NotApplicableError(f"{base.name} has no low-rank updates in the decoder.")
    return replace(base, rank=int(value))


def _late(base: Method, value: str) -> Method:
    kind = base.encoder_adapter.partition("@")[0]
    if kind == "none":
        raise NotApplicableError(f"{base.name} adapts nothing in the encoder.")
    return replace(base, encoder_adapter=kind if value == "0" else f"{kind}@{value}%")


ABLATIONS: dict[str, Ablation] = {
    item.name: item
    for item in (
        Ablation(
            "trainable",
            "what is trained: the prompt alone, parts of the decoder, low-rank updates of the encoder, or everything",
            "trained",
            tuple(_TRAINABLE),
            _trainable,
            numeric=False,
        ),
        Ablation(
            "order",
            "joint training, first order, swapped roles, second order (exact), second order (finite difference)",
            "optimisation",
            tuple(_ORDER),
            _order,
            numeric=False,
        ),
        Ablation("lambda", "weight of Dice in the loss", "weight of Dice", ("0", "0.2", "0.5", "0.8", "1"), _lambda),
        Ablation("rank", "rank of the decoder's low-rank updates", "rank", ("1", "2", "4", "8", "16"), _rank),
        Ablation(
            "late",
            "first adapted block of the encoder, in percent of its blocks",
            "first adapted block (%)",
            ("0", "25", "50", "75"),
            _late,
            base="late-lora",
        ),
        Ablation(
            "examples",
            "number of training images, as far as the data allow",
            "training images",
            tuple(map(str, EXAMPLES)),
            lambda base, value: base,
        ),
    )
}


def names(text: str) -> list[str]:
    """Ablations from a list with commas; ``all`` is every one.

    Raises:
        BlosamError: for an unknown name.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word != "all" and word not in ABLATIONS:
            raise BlosamError(f"--ablate {word}: unknown. Choose among: all, {', '.join(ABLATIONS)}.")
    return list(ABLATIONS) if "all" in words else list(dict.fromkeys(words))


def split(name: str) -> tuple[str, str, str] | None:
    """Base, ablation and value of a variant's name; None for any other name."""
    base, plus, rest = name.rpartition("+")
    ablation, _, value = rest.partition("-")
    if not plus or ablation not in ABLATIONS or value not in ABLATIONS[ablation].values or ablation == "examples":
        return None
    return base, ablation, value


def resolve(name: str, encoder: str) -> Method:
    """A method or a variant by its name.

    Raises:
        BlosamError: when there is none.
    """
    parts = split(name)
    if parts is None:
        return methods.get(name, encoder)
    base, ablation, value = parts
    derived = ABLATIONS[ablation].derive(resolve(base, encoder), value)
    return replace(derived, name=name, summary=describe(name))


def describe(name: str) -> str:
    """One line on a variant; empty for any other name."""
    parts = split(name)
    return "" if parts is None else f"{parts[0]} with {ABLATIONS[parts[1]].axis}: {parts[2]}"


def variants(base: str, ablation: str, encoder: str) -> dict[str, str]:
    """Value -> name of the method with it; the base itself for the value that it has already.

    Raises:
        NotApplicableError: when the ablation makes no sense for the base.
        BlosamError: when there is no such base.
    """
    plain = _numbers(resolve(base, encoder))
    found = {value: f"{base}+{ablation}-{value}" for value in ABLATIONS[ablation].values if ablation != "examples"}
    return {value: base if _numbers(resolve(name, encoder)) == plain else name for value, name in found.items()}


def expand(ablations: Sequence[str], chosen: Sequence[str], encoder: str) -> tuple[list[str], list[str]]:
    """What must be compared for some ablations.

    Args:
        ablations: their names.
        chosen: the methods that were asked for; those that are no preset are compared, not varied.
        encoder: of the comparison.

    Returns:
        All methods in the order of the runs, and those to be run with each of :data:`EXAMPLES`.

    Raises:
        BlosamError: for an unknown name.
    """
    presets = [name for name in chosen if split(name) is None and name in ("recommended", *methods.METHODS)]
    found, by_examples = list(chosen), []
    for ablation in ablations:
        bases = [name for name in presets if _applies(ablation, name, encoder)]
        bases = bases or [ABLATIONS[ablation].base]
        if ablation == "examples":
            by_examples = bases
        for base in bases:
            found += [base, *variants(base, ablation, encoder).values()]
    return list(dict.fromkeys(found)), by_examples


def _applies(ablation: str, name: str, encoder: str) -> bool:
    try:
        variants(name, ablation, encoder)
    except NotApplicableError:
        return False
    return True


def _numbers(method: Method) -> Method:
    """The method without its words."""
    return replace(method, name="", summary="", source="")
