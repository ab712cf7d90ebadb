"""The learning rates a run really uses."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from blosam.engines import BilevelEvents, PolySchedule, poly_factor
from blosam.errors import BlosamError


def run_and_note(trainer):
    """(lr, prompt lr) at the moment of each weight step, and the betas seen."""
    rates, betas = [], set()

    def note(engine):
        groups = engine.weight_optimizer.param_groups + engine.prompt_optimizer.param_groups
        rates.append(tuple(group["lr"] for group in groups))
        betas.update(tuple(group["betas"]) for group in groups)

    trainer.add_event_handler(BilevelEvents.LOWER_COMPLETED, note)
    trainer.run()
    return rates, betas


def test_b2_b3_rates_follow_the_closed_form_from_zero_and_betas_stay(make_trainer):
    rates, betas = run_and_note(make_trainer(epochs=5, lr=4e-3, prompt_lr=7e-3))
    wanted = [(4e-3 * (1 - t / 10) ** 0.9, 7e-3 * (1 - t / 10) ** 0.9) for t in range(10)]
    assert torch.tensor(rates) == pytest.approx(torch.tensor(wanted))
    assert rates[0] == (4e-3, 7e-3)
    assert betas == {(0.9, 0.999)}


def test_b3_each_group_keeps_its_own_base_rate():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 0.1}])
    from ignite.engine import Engine

    engine, seen = Engine(lambda e, b: None), []
    PolySchedule(optimizers=[optimizer]).attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append([g["lr"] for g in optimizer.param_groups]))
    engine.run([0, 1], max_epochs=2)
    factors = [(1 - t / 4) ** 0.9 for t in range(4)]
    assert [s[0] for s in seen] == pytest.approx(factors)
    assert [s[1] for s in seen] == pytest.approx([0.1 * f for f in factors])


def test_total_comes_from_the_engine_so_an_override_of_max_epochs_counts(make_trainer):
    trainer = make_trainer(epochs=5)
    trainer.state.max_epochs = 2
    rates, _ = run_and_note(trainer)
    assert [r[0] for r in rates] == pytest.approx([5e-3 * (1 - t / 4) ** 0.9 for t in range(4)])


def test_warmup_rises_linearly_then_decays():
    values = [poly_factor(t, 10, warmup=4) for t in range(10)]
    assert values == pytest.approx([min(1, (t + 1) / 4) * (1 - t / 10) ** 0.9 for t in range(10)])
    assert poly_factor(3, 10, power=0) == 1.0


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="10"):
        poly_factor(10, 10)
    with pytest.raises(BlosamError, match="warmup is -1"):
        PolySchedule(warmup=-1)
