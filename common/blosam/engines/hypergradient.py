"""Gradient of the upper loss with respect to the prompt, through one step of the weights.

Pure functions on tuples of tensors: nothing is changed in place, so a failure midway leaves the network as it was.

With theta' = theta - xi * update(grad_theta L1(theta, p)), where the update is element-wise in the gradient g with
derivative D, the chain rule gives

    dL2/dp = grad_p L2(theta', p) - (d2 L1 / dp dtheta)(theta, p) . (xi * D * w),    w = grad_theta' L2(theta', p).

Source: BLO-SAM, section 3 and appendix A (which takes D = 1, plain gradient descent); the AdamW form differentiates
the step that is really taken. theta is the weight *before* the step, in both factors of the lower loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = tuple[Tensor, ...]
LowerLoss = Callable[[Tensors, Tensors], Tensor]  # (theta, p) -> scalar

FD_RADIUS = 1e-2  # length of the step in weight space, as in the authors' code


def mixed_product_exact(
    lower_loss: LowerLoss, weights: Sequence[Tensor], prompts: Sequence[Tensor], vector: Sequence[Tensor]
) -> Tensors:
    """(d2 L1 / dp dtheta) . vector by differentiating twice.

    Args:
        lower_loss: L1 as a function of (theta, p), on one fixed D1 batch.
        weights: theta, where the derivative is taken.
        prompts: p, where the derivative is taken.
        vector: one tensor per weight, of its shape.

    Returns:
        One tensor per prompt, of its shape; exactly zero for a zero vector.
    """
    if _norm(vector) == 0.0:  # 0 * inf in the second derivative would be NaN
        return _zeros(prompts)
    weights, prompts = _leaves(weights), _leaves(prompts)
    with torch.enable_grad():
        gradients = torch.autograd.grad(lower_loss(weights, prompts), weights, create_graph=True, allow_unused=True)
        # Without a graph a weight's gradient does not depend on p: its row of the mixed derivative is zero.
        terms = [(g * v).sum() for g, v in zip(gradients, vector, strict=True) if g is not None and g.requires_grad]
        if not terms:
            return _zeros(prompts)
        products = torch.autograd.grad(torch.stack(terms).sum(), prompts, allow_unused=True)
    return _filled(products, prompts)


def mixed_product_fd(
    lower_loss: LowerLoss,
    weights: Sequence[Tensor],
    prompts: Sequence[Tensor],
    vector: Sequence[Tensor],
    radius: float = FD_RADIUS,
) -> Tensors:
    """(d2 L1 / dp dtheta) . vector by central differences of grad_p L1 along the vector.

    Two gradients instead of a second derivative: less memory, but inexact, and with ReLU networks (SAM's decoder
    has them) the error does not vanish with the radius.

    Args:
        lower_loss: L1 as a function of (theta, p), on one fixed D1 batch.
        weights: theta, the centre of the difference.
        prompts: p.
        vector: one tensor per weight, of its shape.
        radius: L2 length of the move in weight space, whatever the length of the vector.

    Returns:
        One tensor per prompt, of its shape; exactly zero for a zero vector.
    """
    norm = _norm(vector)
    if norm == 0.0:
        return _zeros(prompts)
    epsilon = radius / norm
    ahead, behind = (
        _prompt_gradient(
            lower_loss,
            [w.detach() + sign * epsilon * v for w, v in zip(weights, vector, strict=True)],
            prompts,
        )
        for sign in (1.0, -1.0)
    )
    return tuple((a - b) / (2.0 * epsilon) for a, b in zip(ahead, behind, strict=True))


MIXED_PRODUCTS: dict[str, Callable[..., Tensors]] = {
    "exact": mixed_product_exact,
    "finite_difference": mixed_product_fd,
}


def adamw_factors(optimizer: Optimizer, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensors:
    """D, the derivative of AdamW's update m^ / (sqrt(v^) + eps) with respect to the gradient of the same step.

    D = (1-b1) / ((1-b1^t) (sqrt(v^)+eps)) - m^ (1-b2) g / ((1-b2^t) sqrt(v^) (sqrt(v^)+eps)^2).
    Decoupled weight decay does not depend on the gradient and does not appear.

    Args:
        optimizer: AdamW *after* the step; moments, t, betas and eps are read from it and nothing is changed.
        weights: the optimizer's parameters.
        gradients: g of that step, one per weight; ``None`` where the optimizer skipped the weight.

    Returns:
        One tensor per weight, of its shape and dtype. Zero where g and its whole history are zero (dead units, LoRA's
        A while B is still zero): the mixed derivative vanishes there, and the formal value 1/eps would only
        swamp the finite difference.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    factors = []
    for weight, gradient in zip(weights, gradients, strict=True):
        state = optimizer.state.get(weight)  # [] would insert an entry
        if gradient is None or not state:
            factors.append(torch.zeros_like(weight))
            continue
        group = settings[id(weight)]
        (beta1, beta2), eps, t = group["betas"], group["eps"], float(state["step"])
        correction1, correction2 = 1.0 - beta1**t, 1.0 - beta2**t
        # In double precision: at t = 1 the two terms cancel almost completely.
        first = state["exp_avg"].double() / correction1
        root = (state["exp_avg_sq"].double() / correction2).sqrt()
        slope = (1.0 - beta1) / (correction1 * (root + eps))
        bend = first * (1.0 - beta2) * gradient.double() / (correction2 * root * (root + eps) ** 2)
        factors.append(torch.where(root > 0, slope - bend, 0.0).to(weight.dtype))
    return tuple(factors)


def hypergradient(
    lower_loss: LowerLoss,
    weights: Sequence[Tensor],
    prompts: Sequence[Tensor],
    *,
    direct: Sequence[Tensor | None],
    upstream: Sequence[Tensor | None],
    step_sizes: Sequence[float],
    factors: Sequence[Tensor] | None = None,
    method: str = "exact",
    radius: float = FD_RADIUS,
) -> Tensors:
    """dL2/dp through one weight step.

    Args:
        lower_loss: L1 as a function of (theta, p), on the D1 batch of that step.
        weights: theta before the step.
        prompts: p.
        direct: grad_p L2 at the stepped weights; ``None`` counts as zero.
        upstream: w = grad_theta L2 at the stepped weights; ``None`` counts as zero.
        step_sizes: xi, the learning rate of each weight in that step.
        factors: D of :func:`adamw_factors`; ``None`` means plain gradient descent, D = 1.
        method: ``exact`` or ``finite_difference``.
        radius: of the finite difference.

    Returns:
        One tensor per prompt. With every step size zero this is ``direct``, bit for bit.
    """
    filled = _filled(upstream, weights)
    vector = tuple(size * w for size, w in zip(step_sizes, filled, strict=True))
    if factors is not None:
        vector = tuple(v * d for v, d in zip(vector, factors, strict=True))
    options = {"radius": radius} if method == "finite_difference" else {}
    correction = MIXED_PRODUCTS[method](lower_loss, weights, prompts, vector, **options)
    return tuple(d - c for d, c in zip(_filled(direct, prompts), correction, strict=True))


def _prompt_gradient(lower_loss: LowerLoss, weights: Sequence[Tensor], prompts: Sequence[Tensor]) -> Tensors:
    prompts = _leaves(prompts)
    with torch.enable_grad():
        gradients = torch.autograd.grad(lower_loss(tuple(weights), prompts), prompts, allow_unused=True)
    return _filled(gradients, prompts)


def _leaves(tensors: Sequence[Tensor]) -> Tensors:
    """Fresh leaves that share memory with ``tensors``, so that no graph reaches the network's own parameters."""
    return tuple(t.detach().requires_grad_() for t in tensors)


def _filled(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    return tuple(torch.zeros_like(x) if t is None else t.detach() for t, x in zip(tensors, like, strict=True))


def _zeros(like: Sequence[Tensor]) -> Tensors:
    return tuple(torch.zeros_like(x) for x in like)


def _norm(tensors: Sequence[Tensor]) -> float:
    """L2 norm of the concatenated tensors."""
    return math.sqrt(sum(float(t.detach().double().pow(2).sum()) for t in tensors))
