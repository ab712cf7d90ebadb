"""Methods by name, and settings as they arrive from the command line."""

from __future__ import annotations

import pytest
import torch

from blosam.engines.losses import make_loss
from blosam.errors import BlosamError
from blosam.methods import METHODS, PUBLISHED, flag
from blosam.networks import BloSam


@pytest.mark.parametrize(("given", "meant"), [(True, True), ("true", True), ("True", True), (1, True),
                                              (False, False), ("false", False), (0, False)])  # fmt: skip
def test_words_of_the_command_line_are_what_they_say(given, meant):
    assert flag(given) is meant


def test_other_words_are_refused():
    with pytest.raises(BlosamError, match="'maybe'"):
        flag("maybe")


@pytest.mark.parametrize("name", [method.name for method in PUBLISHED])
@pytest.mark.parametrize("classes", [1, 2])
def test_published_methods_build_learn_and_say_what_differs(name, classes):
    method = METHODS[name]
    assert len(method.source) > 20
    network = BloSam(
        encoder="tiny", image_size=64, out_channels=classes + 1, rank=method.rank, prompt=method.prompt,
        head=method.head, trainable=method.trainable, encoder_adapter=method.encoder_adapter,
    )  # fmt: skip
    image = torch.rand(2, 3, 64, 64)
    target = torch.rand(2, classes + 1, 32, 32).softmax(1)
    loss = make_loss(method.loss)(network.logits_from(network.frozen_features(image)), target)
    parameters = network.weight_parameters() + network.prompt_parameters()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert torch.isfinite(loss) and sum(g is not None for g in gradients) >= 0.8 * len(parameters)
