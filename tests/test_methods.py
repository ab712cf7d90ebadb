"""Settings as they arrive from the command line."""

from __future__ import annotations

import pytest

from blosam.errors import BlosamError
from blosam.methods import flag


@pytest.mark.parametrize(("given", "meant"), [(True, True), ("true", True), ("True", True), (1, True),
                                              (False, False), ("false", False), (0, False)])  # fmt: skip
def test_words_of_the_command_line_are_what_they_say(given, meant):
    assert flag(given) is meant


def test_other_words_are_refused():
    with pytest.raises(BlosamError, match="'maybe'"):
        flag("maybe")
