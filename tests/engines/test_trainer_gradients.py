"""The gradients that reach the optimizers, on a network whose convolutions lay theirs out in their own way."""

from __future__ import annotations

import pytest
import torch
from monai.data import Dataset
from torch.nn import functional

from blosam.data import BilevelLoader, FeatureBank
from blosam.engines import BilevelEvents, BilevelTrainer
from blosam.networks import BloSam


@pytest.fixture
def one_step(dice_ce, items):
    """Function (fused, options) for the weights after one iteration, having checked the gradients' layout."""

    def run(fused: bool, options: dict) -> list[torch.Tensor]:
        big = [{key: functional.interpolate(v[None].float(), 64)[0] for key, v in i.items()} for i in items(4)]
        net = BloSam(encoder="tiny", image_size=64, out_channels=2)
        loader = BilevelLoader(FeatureBank(Dataset(big), net, num_views=1), 2, joint=options.get("joint", False))
        weights = torch.optim.AdamW(net.weight_parameters(), lr=5e-3, fused=fused)
        prompts = torch.optim.AdamW(net.prompt_parameters(), lr=5e-3, fused=fused)
        trainer = BilevelTrainer("cpu", 1, loader, net, weights, prompts, dice_ce, **options)
        steps = []

        def check(engine):
            steps.append([p for p in trainer.weights if p.grad is not None and p.grad.stride() != p.stride()])
            engine.terminate()

        trainer.add_event_handler(BilevelEvents.LOWER_COMPLETED, check)
        trainer.run()
        assert steps and not any(steps)
        return [p.detach() for p in (*trainer.weights, *trainer.prompts)]

    return run


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"joint": True}], ids=["first order", "second order", "joint"])
def test_the_fused_optimizer_takes_the_same_step(one_step, options):
    """A convolution may return its gradient channels last, which fused AdamW would add to the wrong weights."""
    for plain, fused in zip(one_step(False, options), one_step(True, options), strict=True):
        assert torch.allclose(plain, fused, atol=1e-6)
