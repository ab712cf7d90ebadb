"""`blosam compare --about NAME`: every method says where it comes from, what differs, its settings and its size."""

from __future__ import annotations

import pytest

from blosam.compare import approaches
from blosam.compare.about import about
from blosam.errors import BlosamError
from blosam.methods import METHODS


@pytest.mark.parametrize("name", [name for name in approaches.names() if name != "recommended"])
def test_every_method_cites_its_source(name):
    text = about(name)
    source = " ".join(text.split("Source and differences")[1].split())
    assert text.startswith(name) and len(source) > 100
    assert ("Settings" in text) == (name in METHODS)


def test_counts_are_the_published_ones():
    assert "vit_b: 510,242 of 90,480,110 trained" in about("blo-sam")
    assert "vit_b: 313,088 of" in about("s-sam")
    assert "With the encoder vit_b: blo-sam" in about("recommended")
    assert "rank: 8" in about("blo-sam+rank-8")
    with pytest.raises(BlosamError, match="unknown method"):
        about("nope")
