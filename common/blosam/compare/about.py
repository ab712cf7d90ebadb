"""All about one method: what it does, where it comes from, what differs from its authors' code, settings and counts."""

from __future__ import annotations

import textwrap
from dataclasses import asdict

import torch

from blosam import ablations, methods
from blosam.compare import approaches
from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.networks.adapters import adapter_report

_WIDTH = 100
_COUNTED = ("tiny", "vit_b")


def about(name: str) -> str:
    """The text that ``blosam compare --about NAME`` prints.

    Raises:
        BlosamError: when there is no such method.
    """
    approach = approaches.get(name)
    lines = [name, *_wrapped(approach.summary), ""]
    if name != "recommended" and name not in methods.METHODS and not ablations.split(name):
        return "\n".join([*lines, "Source and differences", *_wrapped(approach.source)])
    for encoder in _COUNTED if name == "recommended" else ("tiny",):
        method = ablations.resolve(name, encoder)
        if name == "recommended":
            lines += [f"With the encoder {encoder}: {method.name}"]
        lines += ["Source and differences", *_wrapped(method.source), "", "Settings", *_settings(method), ""]
        lines += ["Parameters, one class, 256 pixels", *_counts(method), ""]
    return "\n".join(lines).rstrip()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _settings(method: methods.Method) -> list[str]:
    unused = {"name", "summary", "source"} | (
        {"hypergradient", "unroll"} if method.order == 1 or method.joint else set()
    )
    unused |= {"order", "swap_roles"} if method.joint else set()
    return [f"  {key}: {value}" for key, value in asdict(method).items() if key not in unused]


def _counts(method: methods.Method) -> list[str]:
    lines = []
    for encoder in _COUNTED:
        try:
            with torch.device("meta"):
                network = BloSam(encoder=encoder, image_size=256, head=method.head, **method.structure)
        except BlosamError as error:  # for example a block that this encoder does not have
            lines.append(f"  {encoder}: {error}")
            continue
        counts = adapter_report(network)
        lines.append(f"  {encoder}: {counts['trained']:,} of {counts['total']:,} trained")
    return lines
