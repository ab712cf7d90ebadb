"""The bilevel trainer: weights theta on D1, prompt p on D2, alternately, on MONAI's engine.

BLO-SAM, section 3, with the order of operations of the first-order algorithm: one lower step, then one upper step at
the stepped weights. Gradients are taken with ``torch.autograd.grad`` for one group at a time and never accumulate,
so nothing can leak from one level or iteration into another. Several processes average these gradients explicitly:
``DistributedDataParallel`` would do that in ``backward`` alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Trainer, Workflow
from monai.handlers import EarlyStopHandler
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.optim import Optimizer

from blosam import processes, weightsio
from blosam.errors import BlosamError

from .distributed import ProcessLost, SharedFailure
from .events import BilevelEvents
from .hypergradient import MIXED_PRODUCTS, adamw_factors, hypergradient
from .objective import Batch, Objective
from .output import StepOutput
from .randomness import capture_rng, preserved_rng

logger = logging.getLogger(__name__)

_AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Gradients = Sequence[Tensor | None]


class BilevelTrainer(Trainer):
    """Alternate a weight step on D1 with a prompt step on D2.

    ``engine.state.output`` holds floats by name: ``loss`` (D1), ``d2_loss`` (not in joint mode), ``lr`` and
    ``prompt_lr`` used in the step, and ``prompt_norm`` after it. ``BilevelEvents`` fire after each half step.

    Args:
        device: where to train; the network must be there already.
        max_epochs: passes over D1.
        train_data_loader: yields ``{"d1": batch, "d2": batch}`` with ``features`` (B x what ``frozen_features``
            gives for one image) and ``label`` (B x (K+1) x 4g x 4g in [0, 1]), usually a ``BilevelLoader``. Its
            ``bank`` is filled at the first epoch, after every checkpoint loader has run, and its
            ``next_iteration`` follows the engine, so that a resumed run continues the same sequence.
        network: a ``BloSam``.
        weight_optimizer: holds theta and nothing else. Parameters without a gradient are skipped.
        prompt_optimizer: holds p and nothing else.
        loss_function: (logits, soft target), both B x (K+1) x 4g x 4g, -> scalar.
        inferer: called as ``inferer(features, function)``. Defaults to ``SimpleInferer``.
        joint: update theta and p together on ``d1`` (all images), as SAMed does; no upper level.
        order: 1 treats the stepped weights as constant in p; 2 differentiates through the step.
        hypergradient: ``exact`` or ``finite_difference``, for ``order=2``.
        unroll: ``adamw`` differentiates the AdamW step that is taken; ``sgd`` a plain gradient step.
        iou_loss_weight: weight of the predicted-IoU loss in the lower level; 0 as published.
        clip_norm: limit of the L2 norm of theta's gradient; 0 = none.
        amp: mixed precision, in ``amp_dtype``.
        amp_dtype: ``bfloat16`` or ``float16``. ``None`` is bfloat16, or float16 on a GPU that lacks it.
        key_train_metric: name and ignite metric over ``engine.state.output``.
        train_handlers: MONAI or ignite handlers.

    Raises:
        BlosamError: for settings that contradict each other, or optimizers of another network.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        weight_optimizer: Optimizer,
        prompt_optimizer: Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        inferer: Callable | None = None,
        joint: bool = False,
        order: int = 1,
        hypergradient: str = "exact",
        unroll: str = "adamw",
        iou_loss_weight: float = 0.0,
        clip_norm: float = 0.0,
        amp: bool = False,
        amp_dtype: str | torch.dtype | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        train_handlers: Sequence | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            key_metric=key_train_metric,
            handlers=train_handlers,
            amp=amp,
            event_names=[BilevelEvents],
            decollate=False,
        )
        self.network = network
        self.weight_optimizer = weight_optimizer
        self.prompt_optimizer = prompt_optimizer
        self.optimizers = (weight_optimizer, prompt_optimizer)
        self.train_handlers = tuple(train_handlers or ())
        self.joint = joint
        self.order = order
        self.hypergradient = hypergradient
        self.unroll = unroll
        self.clip_norm = clip_norm
        self.amp_dtype = _amp_dtype(amp_dtype, self.state.device) if amp else None
        scaling = self.amp_dtype is torch.float16  # bfloat16 has the range of float32
        self.scalers = tuple(torch.amp.GradScaler(self.state.device.type, enabled=scaling) for _ in self.optimizers)
        self.objective = Objective(network, loss_function, inferer or SimpleInferer(), iou_loss_weight, self._autocast)
        self.weights, self._weight_names = _named(network, weight_optimizer, "weight_optimizer")
        self.prompts, self._prompt_names = _named(network, prompt_optimizer, "prompt_optimizer")
        self._check_settings(scaling)
        for handler in self.train_handlers:
            if isinstance(handler, EarlyStopHandler) and handler._handler is None:
                handler.set_trainer(self)  # a config cannot: the trainer is built from its handlers

    def run(self) -> None:  # type: ignore[override]
        """Train to ``max_epochs``, from the restored state if a handler restored one.

        Raises:
            BlosamError: when a loss or gradient is not finite, or (in one of several processes) another one failed.
            KeyboardInterrupt: on Ctrl-C, after the handlers of ``INTERRUPTED``.
        """
        for event, handler in (
            (Events.STARTED, self._restore),
            (Events.EPOCH_STARTED, self._prepare_epoch),
            (Events.EPOCH_COMPLETED, self._close_epoch),
        ):
            if not self.has_event_handler(handler, event):  # registered now = called after all other handlers
                self.add_event_handler(event, handler)
        try:
            with SharedFailure():
                Workflow.run(self)  # Trainer.run would make a CUDA scaler whatever the device
                processes.wait_for_all()  # until the main process has written the last file
        except (KeyboardInterrupt, ProcessLost):
            self.fire_event(BilevelEvents.INTERRUPTED)
            raise

    def lower_loss(self, batch: Batch, weights: Sequence[Tensor], prompts: Sequence[Tensor]) -> Tensor:
        """L1(theta, p) on a batch with other tensors in the place of theta and p; the network is not changed.

        Args:
            batch: a D1 batch on the device.
            weights: one tensor per parameter of ``weight_optimizer``, in its order.
            prompts: one tensor per parameter of ``prompt_optimizer``, in its order.
        """
        tensors = dict(zip(self._weight_names + self._prompt_names, (*weights, *prompts), strict=True))
        return torch.func.functional_call(self.objective, tensors, (batch, True))

    def _iteration(self, engine: Engine, batchdata: dict[str, Batch]) -> StepOutput:
        """One global step: lower, then upper (or both at once in joint mode)."""
        if not self.network.training:  # setting it anew on hundreds of modules would be felt in every step
            self.network.train()
        batch = {level: self._on_device(data) for level, data in batchdata.items()}
        optimizers = {"lr": self.weight_optimizer, "prompt_lr": self.prompt_optimizer}
        self.state.output = StepOutput({name: float(each.param_groups[0]["lr"]) for name, each in optimizers.items()})
        if self.joint:
            self._joint_step(batch["d1"])
        elif self.order == 1:
            self._lower_step(batch["d1"])
            self._upper_step(batch["d2"])
        else:
            self._second_order_step(batch["d1"], batch["d2"])
        self.state.output["prompt_norm"] = float(torch.nn.utils.get_total_norm(self.prompts).detach())
        return self.state.output

    def _joint_step(self, batch: Batch) -> None:
        loss = self.objective(batch, True)
        # One scaler: both groups come from one loss.
        gradients = _gradients(self.scalers[0].scale(loss), self.weights + self.prompts)
        self._record("loss", loss)
        split = len(self.weights)
        self._apply(0, self.weights, gradients[:split], self.scalers[0], update=False)
        self._apply(1, self.prompts, gradients[split:], self.scalers[0])
        self.fire_event(BilevelEvents.LOWER_COMPLETED)

    def _lower_step(self, batch: Batch) -> Gradients:
        """theta -> theta+ on D1; returns the gradient that was used."""
        loss = self.objective(batch, True)
        gradients = _gradients(self.scalers[0].scale(loss), self.weights)
        self._record("loss", loss)  # reading it earlier would make a GPU wait before its backward pass
        self._apply(0, self.weights, gradients, self.scalers[0])
        self.fire_event(BilevelEvents.LOWER_COMPLETED)
        return gradients

    def _upper_step(self, batch: Batch) -> None:
        """p -> p+ on D2 at theta+, theta+ taken as constant."""
        loss = self.objective(batch, False)
        gradients = _gradients(self.scalers[1].scale(loss), self.prompts)
        self._record("d2_loss", loss)
        self._apply(1, self.prompts, gradients, self.scalers[1])
        self.fire_event(BilevelEvents.UPPER_COMPLETED)

    def _second_order_step(self, d1: Batch, d2: Batch) -> None:
        """The same two steps, the upper one with the derivative through the lower one."""
        before = tuple(w.detach().clone() for w in self.weights)
        sizes = [group["lr"] for group in self.weight_optimizer.param_groups for _ in group["params"]]
        random_state = capture_rng()
        gradients = self._lower_step(d1)
        loss = self.objective(d2, False)
        upper = _gradients(loss, self.prompts + self.weights)
        self._record("d2_loss", loss)
        split = len(self.prompts)

        def lower_loss(weights: Sequence[Tensor], prompts: Sequence[Tensor]) -> Tensor:
            with preserved_rng(random_state):  # the dropout masks of the step that is differentiated
                return self.lower_loss(d1, weights, prompts)

        factors = None
        if self.unroll == "adamw":
            factors = adamw_factors(self.weight_optimizer, self.weights, gradients)
        total = hypergradient(
            lower_loss, before, self.prompts, direct=upper[:split], upstream=upper[split:], step_sizes=sizes,
            factors=factors, method=self.hypergradient,
        )  # fmt: skip
        # Linear in the mixed product, of which every process has its own part.
        self._apply(1, self.prompts, processes.averaged(total), self.scalers[1])
        self.fire_event(BilevelEvents.UPPER_COMPLETED)

    def _apply(
        self,
        level: int,
        parameters: Sequence[Tensor],
        gradients: Gradients,
        scaler: torch.amp.GradScaler,
        update: bool = True,
    ) -> None:
        """One optimizer step with exactly these gradients."""
        optimizer = self.optimizers[level]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else _laid_out_as(parameter, gradient)
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        if not scaler.is_enabled():  # the scaler expects overflows and skips those steps itself
            self._require_finite("gradient norm", float(norm))
        if level == 0 and self.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        scaler.step(optimizer)
        if update:
            scaler.update()

    def _record(self, name: str, loss: Tensor) -> None:
        value = float(loss.detach())
        self._require_finite(name, value)
        self.state.output[name] = value

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise BlosamError(
                f"training: the {name} is {value} in iteration {self.state.iteration} (epoch {self.state.epoch}). "
                "Lower the learning rates or train without amp; models/last.pt keeps the last saved epoch."
            )

    def _on_device(self, batch: Batch) -> Batch:
        return {key: value.to(self.state.device, non_blocking=self.non_blocking) for key, value in batch.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _restore(self, engine: Engine) -> None:
        self.fire_event(BilevelEvents.RESTORE)
        if processes.world_size() > 1:
            self._begin_together()

    def _begin_together(self) -> None:
        """Refuse machines with other files than the main one's, and begin with the same weights everywhere."""
        processes.require_same("frozen weights with the digest", weightsio.frozen_sha256(self.network))
        processes.copy_from_main(self.weights + self.prompts)
        loader = self.data_loader
        if hasattr(loader, "bank") and not self.joint:
            processes.require_same("D1 and D2", [loader.bank.d1, loader.bank.d2])
        size, count = getattr(loader, "batch_size", None), processes.world_size()
        if size is not None and size < count:
            logger.info(
                "A batch has %d image(s) for %d processes: the encoding is divided, the steps are not faster. "
                "A larger train#loader#batch_size divides them, but is another training.", size, count,
            )  # fmt: skip

    def _prepare_epoch(self, engine: Engine) -> None:
        bank = getattr(self.data_loader, "bank", None)
        if bank is not None:
            with preserved_rng():  # a resumed run fills the bank at another point of the random stream
                bank.fill()
        if hasattr(self.data_loader, "next_iteration"):
            self.data_loader.next_iteration = self.state.iteration

    def _close_epoch(self, engine: Engine) -> None:
        self.fire_event(BilevelEvents.EPOCH_VALIDATED)
        self.fire_event(BilevelEvents.EPOCH_CLOSED)

    def _check_settings(self, scaling: bool) -> None:
        if self.order not in (1, 2):
            raise BlosamError(f"order is {self.order}. Use 1 (first order) or 2 (second order).")
        if self.hypergradient not in MIXED_PRODUCTS:
            raise BlosamError(f"hypergradient is '{self.hypergradient}'. Use one of: {', '.join(MIXED_PRODUCTS)}.")
        if self.unroll not in ("adamw", "sgd"):
            raise BlosamError(f"unroll is '{self.unroll}'. Use adamw or sgd.")
        shared = {id(p) for p in self.weights} & {id(p) for p in self.prompts}
        if shared:
            raise BlosamError(f"{len(shared)} parameters are in both optimizers. Give each level its own.")
        if not self.joint and not self.prompts:
            raise BlosamError("the network has no prompt to learn on D2 (prompt none). Use joint, or another prompt.")
        if self.joint or self.order == 1:
            return
        if scaling:
            raise BlosamError("order is 2 and amp_dtype is float16, which overflows. Use bfloat16 or amp false.")
        if self.clip_norm > 0:
            raise BlosamError(f"order is 2 and clip_norm is {self.clip_norm}, which has no derivative. Use 0.")
        options = [g for g in self.weight_optimizer.param_groups if g.get("amsgrad") or g.get("maximize")]
        if self.unroll == "adamw" and (not isinstance(self.weight_optimizer, torch.optim.AdamW) or options):
            raise BlosamError(
                f"unroll is adamw, but weight_optimizer is {type(self.weight_optimizer).__name__}"
                f"{' with amsgrad or maximize' if options else ''}. Use plain torch.optim.AdamW, or unroll sgd."
            )


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout: convolutions on CPUs give it channels last.

    ``backward`` would see to that, ``torch.autograd.grad`` does not, and fused optimizers walk through the memory of
    both side by side.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """Of this process's loss; the same in all processes."""
    return processes.averaged(torch.autograd.grad(loss, parameters, allow_unused=True))


def _named(network: nn.Module, optimizer: Optimizer, role: str) -> tuple[tuple[nn.Parameter, ...], tuple[str, ...]]:
    """The optimizer's parameters and their names inside ``Objective``."""
    names = {id(parameter): f"network.{name}" for name, parameter in network.named_parameters()}
    parameters = tuple(p for group in optimizer.param_groups for p in group["params"])
    foreign = sum(id(p) not in names for p in parameters)
    if foreign:
        raise BlosamError(f"{role}: {foreign} of its parameters are not in the network. Build it from this network.")
    return parameters, tuple(names[id(p)] for p in parameters)


def _amp_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The mixed-precision type, chosen by the device when not given."""
    if dtype is None:
        lacking = device.type == "cuda" and not torch.cuda.is_bf16_supported()
        return torch.float16 if lacking else torch.bfloat16
    chosen = _AMP_TYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise BlosamError(f"amp_dtype is '{dtype}'. Use one of: {', '.join(_AMP_TYPES)}.")
    return chosen
