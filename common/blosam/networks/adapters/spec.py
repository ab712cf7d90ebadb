"""What is adapted in the image encoder, as a short text: a kind, a size where it has one, and the first block."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import BlosamError


@dataclass(frozen=True)
class Kind:
    """One way of adapting an encoder.

    Attributes:
        summary: one line.
        size: rank or hidden width when none is given; 0 where there is no such number.
    """

    summary: str
    size: int = 0


KINDS = {
    "none": Kind("the encoder stays as it is"),
    "lora": Kind("low-rank updates of queries and values (SAMed, PEFT-SAM)", 32),
    "lora-all": Kind("low-rank updates of queries, keys, values and both MLP layers (PEFT-SAM)", 32),
    "qlora": Kind("as lora, with the frozen matrices in 4 bits (QLoRA; CUDA and bitsandbytes)", 32),
    "adaptformer": Kind("a bottleneck beside every MLP, its scale learned", 64),
    "fact": Kind("two factors and a core update queries and values", 16),
    "ssf": Kind("every layer's output scaled and shifted"),
    "med-sa": Kind("Med-SA's bottlenecks behind the attention and beside the MLP", 192),
    "svd": Kind("S-SAM: singular values of all matrices and of the neck's convolutions"),
    "bias": Kind("the biases of the blocks"),
    "norm": Kind("the layer normalisations of the blocks"),
    "adaptive": Kind("AdaptiveSAM: all biases, all normalisations and the position table"),
    "attention": Kind("everything in the attentions"),
    "full": Kind("all weights of the blocks, and from block 0 the whole encoder"),
}


@dataclass(frozen=True)
class AdapterSpec:
    """A parsed ``encoder_adapter``.

    Attributes:
        kind: one of ``KINDS``.
        size: rank or hidden width; 0 where the kind has none.
        start: first adapted block, 0 = all of them; negative numbers count from the end.
        percent: whether ``start`` is a percentage of the blocks instead.
    """

    kind: str = "none"
    size: int = 0
    start: int = 0
    percent: bool = False

    def first(self, count: int) -> int:
        """Index of the first adapted block of ``count``; may lie outside."""
        if self.percent:
            return round(self.start * count / 100)
        return self.start + count if self.start < 0 else self.start

    def __str__(self) -> str:
        begin = f"@{self.start}{'%' * self.percent}" if self.start else ""
        return self.kind + (f":{self.size}" if self.size else "") + begin


def parse_adapter(text: str) -> AdapterSpec:
    """``lora``, ``lora:4``, ``lora-all:32@6``, ``full@50%``: KIND[:SIZE][@FIRST_BLOCK].

    Raises:
        BlosamError: naming what is wrong and the kinds.
    """
    # Few digits, because Python refuses to read very long numbers with an error of its own.
    match = re.fullmatch(r"([a-z-]+)(?::(\d{1,9}))?(?:@(-?\d{1,9})(%)?)?", text)
    if match is None or match[1] not in KINDS:
        raise BlosamError(
            f"unknown encoder adapter '{text[:60]}'. Use KIND[:SIZE][@FIRST_BLOCK], for example lora-all:32@6, with "
            f"one of {', '.join(KINDS)}."
        )
    kind, default = match[1], KINDS[match[1]].size
    size = int(match[2]) if match[2] else default
    if bool(size) != bool(default):
        needs = f"needs a size of 1 or more, for example {kind}:{default}" if default else f"has no size. Write {kind}"
        raise BlosamError(f"encoder adapter '{text}': {kind} {needs}.")
    return AdapterSpec(kind, size, int(match[3] or 0), match[4] is not None)
