"""Hypergradients against differentiation through a step that is really taken, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from blosam.engines.hypergradient import adamw_factors, hypergradient, mixed_product_exact, mixed_product_fd

BETAS, EPS = (0.8, 0.95), 1e-8  # not AdamW's defaults: hard-coded betas would show (B6)


class Problem:
    """L1 and L2 of a softplus network with 2 weight matrices and a prompt that enters both layers."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.x1, self.y1, self.x2, self.y2 = draw(12, 5), draw(12, 2), draw(9, 5), draw(9, 2)
        self.weights = (draw(5, 6) * 0.5, draw(6, 2) * 0.5)
        self.prompts = (draw(1, 5) * 0.3, draw(1, 6) * 0.3)

    def loss(self, weights, prompts, x, y):
        hidden = functional.softplus((x + prompts[0]) @ weights[0]) * (1 + prompts[1])
        return (functional.softplus(hidden @ weights[1]) - y).pow(2).mean()

    def lower(self, weights, prompts):
        return self.loss(weights, prompts, self.x1, self.y1)

    def upper(self, weights, prompts):
        return self.loss(weights, prompts, self.x2, self.y2)

    def lower_gradient(self, weights, prompts, create_graph=False):
        weights = [w if w.requires_grad else w.detach().requires_grad_() for w in weights]
        return torch.autograd.grad(self.lower(weights, prompts), weights, create_graph=create_graph)

    def upper_gradients(self, weights, prompts):
        """grad_p L2 and grad_theta L2."""
        leaves = [t.detach().requires_grad_() for t in (*prompts, *weights)]
        both = torch.autograd.grad(self.upper(leaves[len(prompts) :], leaves[: len(prompts)]), leaves)
        return both[: len(prompts)], both[len(prompts) :]


def adamw_at(problem: Problem, steps: int, lr: float):
    """Weights, an AdamW with ``steps`` steps behind it, at a prompt that differs from the present one."""
    weights = [w.clone().requires_grad_() for w in problem.weights]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=BETAS, eps=EPS, weight_decay=0.1)
    for step in range(steps):
        prompts = [p + 0.1 * (step + 1) for p in problem.prompts]
        for w, g in zip(weights, problem.lower_gradient(weights, prompts), strict=True):
            w.grad = g
        optimizer.step()
    return weights, optimizer


def real_step(problem: Problem, weights, optimizer, prompts):
    """Take one step of a copy of the optimizer; returns the stepped weights, the optimizer and the gradients."""
    weights = [w.detach().clone().requires_grad_() for w in weights]
    stepped = torch.optim.AdamW(weights, lr=1.0)
    stepped.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gradients = problem.lower_gradient(weights, prompts)
    for w, g in zip(weights, gradients, strict=True):
        w.grad = g
    stepped.step()
    return weights, stepped, gradients


def numeric_total_derivative(problem: Problem, weights, optimizer, step=1e-6):
    """d/dp of L2 after PyTorch's own AdamW step on L1, by central differences: no formula of ours is involved."""
    result = []
    for which, prompt in enumerate(problem.prompts):
        column = torch.zeros_like(prompt)
        for index in range(prompt.numel()):
            values = []
            for sign in (1, -1):
                prompts = [p.clone() for p in problem.prompts]
                prompts[which].view(-1)[index] += sign * step
                moved, _, _ = real_step(problem, weights, optimizer, prompts)
                values.append(float(problem.upper(moved, prompts).detach()))
            column.view(-1)[index] = (values[0] - values[1]) / (2 * step)
        result.append(column)
    return result


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def relative(a, b):
    return float((flat(a) - flat(b)).norm() / flat(b).norm())


@pytest.mark.parametrize(("method", "tolerance"), [("exact", 1e-10), ("finite_difference", 1e-3)])
def test_sgd_form_equals_autograd_through_the_step(method, tolerance):
    problem, lr = Problem(), 0.3
    prompts = [p.clone().requires_grad_() for p in problem.prompts]
    leaves = [w.clone().requires_grad_() for w in problem.weights]
    stepped = [w - lr * g for w, g in zip(leaves, problem.lower_gradient(leaves, prompts, True), strict=True)]
    truth = torch.autograd.grad(problem.upper(stepped, prompts), prompts)
    direct, upstream = problem.upper_gradients(stepped, prompts)
    ours = hypergradient(problem.lower, problem.weights, prompts, direct=direct, upstream=upstream,
                         step_sizes=[lr, lr], method=method)  # fmt: skip
    assert relative([t - d for t, d in zip(truth, direct, strict=True)], direct) > 0.01  # there is a correction
    # The error of the correction, not of the total, in which the exact first term would hide it.
    assert relative([o - d for o, d in zip(ours, direct, strict=True)],
                    [t - d for t, d in zip(truth, direct, strict=True)]) < tolerance  # fmt: skip


@pytest.mark.parametrize(("method", "tolerance"), [("exact", 1e-5), ("finite_difference", 1e-3)])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_b6_adamw_form_equals_numeric_differentiation_of_the_real_step(method, tolerance, steps):
    problem = Problem()
    weights, optimizer = adamw_at(problem, steps, lr=0.02)
    truth = numeric_total_derivative(problem, weights, optimizer)
    moved, stepped, gradients = real_step(problem, weights, optimizer, problem.prompts)
    direct, upstream = problem.upper_gradients(moved, problem.prompts)
    ours = hypergradient(
        problem.lower, [w.detach() for w in weights], problem.prompts, direct=direct, upstream=upstream,
        step_sizes=[0.02, 0.02], factors=adamw_factors(stepped, moved, gradients), method=method,
    )  # fmt: skip
    wanted = [t - d for t, d in zip(truth, direct, strict=True)]
    assert flat(wanted).norm() > 1e-3 * flat(direct).norm()
    assert relative([o - d for o, d in zip(ours, direct, strict=True)], wanted) < tolerance


def test_first_adamw_step_matches_too():
    problem = Problem()
    weights, optimizer = adamw_at(problem, 0, lr=0.02)
    truth = numeric_total_derivative(problem, weights, optimizer)
    moved, stepped, gradients = real_step(problem, weights, optimizer, problem.prompts)
    direct, upstream = problem.upper_gradients(moved, problem.prompts)
    ours = hypergradient(
        problem.lower, [w.detach() for w in weights], problem.prompts, direct=direct, upstream=upstream,
        step_sizes=[0.02, 0.02], factors=adamw_factors(stepped, moved, gradients),
    )  # fmt: skip
    assert relative(ours, truth) < 1e-6


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_b8_step_size_zero_is_first_order_bit_for_bit(method):
    problem = Problem()
    direct, upstream = problem.upper_gradients(problem.weights, problem.prompts)
    ours = hypergradient(problem.lower, problem.weights, problem.prompts, direct=direct, upstream=upstream,
                         step_sizes=[0.0, 0.0], method=method)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(ours, direct, strict=True))


@pytest.mark.parametrize("product", [mixed_product_exact, mixed_product_fd])
def test_b9_zero_vector_gives_zero_and_nothing_is_written(product):
    problem = Problem()
    before = [t.clone() for t in (*problem.weights, *problem.prompts)]
    result = product(problem.lower, problem.weights, problem.prompts, [torch.zeros_like(w) for w in problem.weights])
    assert all(torch.equal(r, torch.zeros_like(p)) for r, p in zip(result, problem.prompts, strict=True))
    product(problem.lower, problem.weights, problem.prompts, problem.weights)
    assert all(torch.equal(a, b) for a, b in zip(before, (*problem.weights, *problem.prompts), strict=True))


def test_b9_failure_midway_leaves_the_weights_as_they_were():
    problem, calls = Problem(), []

    def failing(weights, prompts):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return problem.lower(weights, prompts)

    before = [w.clone() for w in problem.weights]
    with pytest.raises(RuntimeError, match="out of memory"):
        mixed_product_fd(failing, problem.weights, problem.prompts, problem.weights)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.weights, strict=True))


def test_b10_optimizer_state_is_only_read():
    problem = Problem()
    weights, optimizer = adamw_at(problem, 3, lr=0.02)
    unused = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [unused]})
    before = copy.deepcopy(optimizer.state_dict())
    factors = adamw_factors(optimizer, [*weights, unused], [*(w.grad for w in weights), None])
    assert unused not in optimizer.state
    assert torch.equal(factors[2], torch.zeros(3, dtype=torch.float64))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in state.items())


def test_weights_that_never_had_a_gradient_do_not_swamp_the_finite_difference():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.tensor([0.0, 1e-3, -2.0])
    optimizer.step()
    (factor,) = adamw_factors(optimizer, [weight], [weight.grad])
    assert factor[0] == 0.0
    assert torch.isfinite(factor).all() and factor.abs().max() < 1.0


def test_prompt_that_is_not_used_gets_zero():
    problem = Problem()
    extra = (*problem.prompts, torch.ones(2, dtype=torch.float64))
    for product in (mixed_product_exact, mixed_product_fd):
        result = product(problem.lower, problem.weights, extra, problem.weights)
        assert torch.equal(result[2], torch.zeros(2, dtype=torch.float64))
