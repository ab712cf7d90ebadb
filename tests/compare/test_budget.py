"""The budget: whichever of steps and seconds runs out first ends the training, with the learning rate decayed."""

from __future__ import annotations

import time

import pytest
import torch
from ignite.engine import Engine

from blosam.compare import budget as module
from blosam.compare.budget import Budget, BudgetSchedule, clock_of, rate_factor
from blosam.errors import BlosamError


class Clock:
    """Two clocks that are set by hand, in seconds: ``now`` passes, ``computed`` is processor time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.computed = 7.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.computed


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_progress_is_the_larger_share_and_counts_from_the_first_step(clock):
    budget = Budget(10.0, 8)
    clock.now += 2.0  # encoding the views
    budget.check()
    assert budget.preparation == 0.0
    assert budget.progress(0) == 0.0 and budget.preparation == pytest.approx(2.0)
    clock.now += 1.0
    assert budget.progress(4) == 0.5
    clock.now += 5.0
    assert budget.progress(5) == pytest.approx(6 / 8)
    clock.now += 9.0
    assert budget.progress(6) == 1.0
    with pytest.raises(BlosamError, match="fewer --views"):
        budget.check()


def test_processor_time_ignores_what_others_do(clock):
    budget = Budget(10.0, 1000, "processor")
    assert budget.progress(0) == 0.0
    clock.now += 500.0  # the machine was busy with other work
    clock.computed += 2.5
    assert budget.progress(1) == pytest.approx(0.25) and budget.elapsed == pytest.approx(2.5)


def test_processor_time_is_that_of_this_process():
    budget = Budget(1000.0, 1, "processor")
    time.sleep(0.2)
    slept = budget.elapsed
    begun = time.process_time()
    while time.process_time() - begun < 0.2:
        sum(range(1000))
    assert slept < 0.1 < 0.2 <= budget.elapsed


def test_pauses_do_not_count_even_within_each_other_or_after_an_error(clock):
    budget = Budget(10.0, 1000)
    budget.progress(0)
    clock.now += 1.0
    with budget.pause():
        clock.now += 3.0
        with budget.pause():
            clock.now += 4.0
        assert budget.elapsed == pytest.approx(1.0)
    clock.now += 1.0
    with pytest.raises(ValueError, match="measuring"), budget.pause():
        clock.now += 5.0
        raise ValueError("measuring failed")
    assert budget.elapsed == pytest.approx(2.0) and budget.progress(1) == pytest.approx(0.2)


def test_a_cpu_is_measured_in_processor_time_and_a_gpu_on_the_wall():
    assert [clock_of(name) for name in ("cpu", "cuda", "cuda:1")] == ["processor", "wall", "wall"]


@pytest.mark.parametrize(("seconds", "steps"), [(0, 1), (1, 0), (-1, 5)])
def test_impossible_budgets_are_refused(seconds, steps):
    with pytest.raises(BlosamError, match="trains nothing"):
        Budget(seconds, steps)


def test_rate_rises_then_decays():
    assert rate_factor(0.0, 0, warmup=4) == 0.25
    assert rate_factor(0.5, 10, warmup=4) == pytest.approx(0.5**0.9)
    assert rate_factor(0.5, 10, warmup=0) == pytest.approx(0.5**0.9)
    assert 0 < rate_factor(1.0, 10, warmup=0) < 1e-5


def train(budget: Budget, clock: Clock, step_seconds: float) -> list[float]:
    """Learning rates of a run whose steps take ``step_seconds`` each."""
    rates: list[float] = []
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    def step(engine, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        clock.now += step_seconds

    engine = Engine(step)
    engine.optimizers = (optimizer,)
    BudgetSchedule(budget).attach(engine)
    engine.run([0] * 3, max_epochs=100)
    return rates


def test_steps_end_the_run_within_an_epoch_and_set_the_published_rates(clock):
    rates = train(Budget(1e6, 5), clock, 0.001)
    assert rates == pytest.approx([0.1 * (1 - t / 5) ** 0.9 for t in range(5)], rel=1e-6)


def test_seconds_end_the_run(clock):
    rates = train(Budget(4.0, 1000), clock, 1.0)
    assert rates == pytest.approx([0.1 * (1 - t / 4) ** 0.9 for t in range(4)], rel=1e-6)
