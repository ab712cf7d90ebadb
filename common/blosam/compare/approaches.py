"""The registry of what can be compared, and how each of it is trained.

An approach gets a :class:`Task` (the same images, views, seed, time) and gives a :class:`Trained` network. To add one,
write a function from task to trained network and ``register`` it; nothing else needs to know.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import Dataset
from torch import nn

from blosam import methods, weights
from blosam.baselines import (
    SSP,
    DeepLab,
    HSNet,
    PlainNetwork,
    Supported,
    SwinUnetr2d,
    UNet,
    train_episodes,
    train_plain,
)
from blosam.compare.budget import Budget, BudgetSchedule, clock_of
from blosam.compare.curve import LearningCurve, StepDone
from blosam.compare.options import Options
from blosam.data import BilevelLoader, FeatureBank, default_views
from blosam.engines import BilevelTrainer
from blosam.engines.losses import make_loss
from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.weightsio import sha256_of


@dataclass(frozen=True)
class Task:
    """What every approach gets for one run.

    Args:
        dataset: the preprocessed training images, ``image`` 3 x S x S and ``label`` 1 x S x S each.
        options: settings of the comparison.
        seed: of this run.
        curve: looks at the training while it goes on; None does not.
    """

    dataset: Dataset
    options: Options
    seed: int
    curve: LearningCurve | None = None

    @property
    def out_channels(self) -> int:
        """K + 1."""
        return len(self.options.labels) + 1

    def bank(self, network: nn.Module) -> FeatureBank:
        """The views, before encoding: view v of image i is the same picture for every approach."""
        views = default_views(self.options.views_kind)
        device = next(network.parameters()).device
        return FeatureBank(self.dataset, network, views, self.options.views, self.seed, device)

    def prepared(self, network: nn.Module) -> tuple[FeatureBank, Budget]:
        """The views, encoded, and the budget of which that was the first part.

        Raises:
            BlosamError: when no time is left to train.
        """
        options = self.options
        budget = Budget(options.budget, options.max_steps, clock_of(options.device), options.device)
        bank = self.bank(network)
        bank.fill()
        budget.check()
        return bank, budget

    def followed(self, network: nn.Module, budget: Budget) -> AbstractContextManager[StepDone | None]:
        """Train in the body; what it gives must be called with the loss after every step, if it gives anything."""
        return nullcontext() if self.curve is None else self.curve.follow(network, budget)


@dataclass(frozen=True)
class Trained:
    """What an approach gives back.

    Args:
        network: B x 3 x S x S in [0, 1] -> logits B x (K+1) x S x S, with the last weights of the training.
        steps: updates made.
        encoding_seconds: time for drawing and encoding the views, on the clock of the budget.
        training_seconds: time for everything, encoding included, on the clock of the budget.
        parameters: all of the network's numbers.
        trained_parameters: those that an optimizer changed.
        d1: indices of D1 in the training list; empty when all images were used together.
        d2: indices of D2.
    """

    network: nn.Module
    steps: int
    encoding_seconds: float
    training_seconds: float
    parameters: int
    trained_parameters: int
    d1: tuple[int, ...] = ()
    d2: tuple[int, ...] = ()


@dataclass(frozen=True)
class Approach:
    """One line of the comparison.

    Args:
        name: what users type.
        summary: one line.
        train: from task to trained network.
        settings: what the result depends on beyond ``Options.shared_settings``; plain JSON values.
        caveat: why the row cannot be ranked with these options; empty when it can.
    """

    name: str
    summary: str
    train: Callable[[Task], Trained]
    settings: Callable[[Options], dict[str, Any]]
    caveat: Callable[[Options], str] = lambda options: ""


_REGISTRY: dict[str, Approach] = {}


def register(approach: Approach) -> Approach:
    """Add an approach, or replace the one of that name."""
    _REGISTRY[approach.name] = approach
    return approach


def names() -> list[str]:
    """Every registered name, ``recommended`` first."""
    return list(_REGISTRY)


def get(name: str) -> Approach:
    """The approach of that name.

    Raises:
        BlosamError: when there is none.
    """
    if name not in _REGISTRY:
        raise BlosamError(f"unknown method '{name}'. Choose among: {', '.join(names())}.")
    return _REGISTRY[name]


def train_preset(name: str, task: Task) -> Trained:
    """Train one of :data:`blosam.methods.COMPARED` with the bilevel trainer.

    Raises:
        BlosamError: when the base weights are missing or the views use up the time.
    """
    options = task.options
    preset = methods.get_compared(name, options.encoder)
    network = BloSam(
        encoder=options.encoder,
        image_size=options.image_size,
        out_channels=task.out_channels,
        rank=preset.rank,
        prompt=preset.prompt,
        head=preset.head,
        trainable=preset.trainable,
        encoder_adapter=preset.encoder_adapter,
        init_seed=task.seed,
    )
    network = weights.load_base(network, options.base_weights).to(options.device)
    theta = network.weight_parameters(preset.iou_loss_weight > 0)
    prompt = network.prompt_parameters()
    bank, budget = task.prepared(network)
    loader = BilevelLoader(bank, preset.batch_size, task.seed, preset.swap_roles, preset.joint)
    trainer = BilevelTrainer(
        device=torch.device(options.device),
        max_epochs=math.ceil(options.max_steps / len(loader)),
        train_data_loader=loader,
        network=network,
        weight_optimizer=torch.optim.AdamW(theta, preset.weight_lr, weight_decay=preset.weight_decay),
        prompt_optimizer=torch.optim.AdamW(prompt, preset.prompt_lr, weight_decay=preset.weight_decay),
        loss_function=make_loss(preset.loss),
        joint=preset.joint,
        order=preset.order,
        hypergradient=preset.hypergradient,
        unroll=preset.unroll,
        iou_loss_weight=preset.iou_loss_weight,
        clip_norm=preset.clip_norm,
        train_handlers=[BudgetSchedule(budget, preset.warmup)],
    )
    with task.followed(network, budget) as step_done:
        if step_done is not None:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: step_done(trainer.state.output["loss"]))
        trainer.run()
    halves = ((), ()) if preset.joint else (tuple(bank.d1), tuple(bank.d2))
    return _trained(network.eval(), trainer.state.iteration, budget, [*theta, *prompt], *halves)


def train_baseline(make: Callable[[Task], PlainNetwork], task: Task) -> Trained:
    """Train a plain network from what ``make`` gives, on all images.

    Raises:
        BlosamError: when the views use up the time.
    """
    options = task.options
    network = make(task).to(options.device)
    bank, budget = task.prepared(network)
    with task.followed(network, budget) as step_done:
        steps = train_plain(network, bank, budget, seed=task.seed, step_done=step_done)
    return _trained(network, steps, budget, list(network.parameters()))


def train_few_shot(make: Callable[[str | None], nn.Module], optimizer: str, task: Task) -> Trained:
    """Train a few-shot network in episodes on the labelled images, which are also its support images afterwards.

    Raises:
        BlosamError: when the views use up the time.
    """
    options = task.options
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(task.seed)
        network = make(options.backbone_weights or None).to(options.device)
    bank, budget = task.prepared(PlainNetwork(options.image_size, task.out_channels, network).to(options.device))
    trained = [p for p in network.parameters() if p.requires_grad]
    labelled = bank.get(range(len(bank)), [0] * len(bank))
    supported = Supported(network, labelled["features"], labelled["label"]).eval()
    with task.followed(supported, budget) as step_done:
        steps = train_episodes(network, bank, budget, 1e-3, optimizer=optimizer, seed=task.seed, step_done=step_done)
    return _trained(supported, steps, budget, trained)


def _trained(
    network: nn.Module,
    steps: int,
    budget: Budget,
    trained: list[nn.Parameter],
    d1: tuple[int, ...] = (),
    d2: tuple[int, ...] = (),
) -> Trained:
    return Trained(
        network=network,
        steps=steps,
        encoding_seconds=budget.preparation,
        training_seconds=budget.elapsed,
        parameters=sum(p.numel() for p in network.parameters()),
        trained_parameters=sum(p.numel() for p in trained),
        d1=d1,
        d2=d2,
    )


def _preset_settings(name: str, options: Options) -> dict[str, Any]:
    """The preset's numbers and the base weights, so that a changed recipe or new weights are noticed."""
    numbers = asdict(methods.get_compared(name, options.encoder))
    recipe = numbers.pop("name")
    for words in ("summary", "source"):
        numbers.pop(words)
    base = weights.resolve_base(options.encoder, options.base_weights)
    return {
        "recipe": recipe,
        "encoder": options.encoder,
        "base_weights": "random" if base is None else base.name,
        "base_sha256": "" if base is None else _sha256(base, base.stat().st_mtime_ns),
        **numbers,
    }


@functools.cache
def _sha256(path: Path, changed: int) -> str:
    """Digest of a file; ``changed`` makes a rewritten file a new question."""
    return sha256_of(path)


def _register_all() -> None:
    for name in ("recommended", *methods.COMPARED):
        if name == "recommended":
            summary = f"what was measured best for the encoder (tiny: {methods.get(name, 'tiny').name})"
        else:
            summary = methods.COMPARED[name].summary
        register(
            Approach(name, summary, functools.partial(train_preset, name), functools.partial(_preset_settings, name))
        )
    for name, (summary, train, published_with_backbone) in _BASELINES.items():
        settings = functools.partial(_baseline_settings, name)
        caveat = {"caveat": _random_backbone} if published_with_backbone else {}
        register(Approach(name, summary, train, settings, **caveat))


def _random_backbone(options: Options) -> str:
    return "" if options.backbone_weights else "random backbone, not comparable"


def _baseline_settings(name: str, options: Options) -> dict[str, Any]:
    settings: dict[str, Any] = {"recipe": name}
    if _BASELINES[name][2]:
        path = Path(options.backbone_weights) if options.backbone_weights else None
        settings["backbone_sha256"] = "" if path is None else _sha256(path, path.stat().st_mtime_ns)
    return settings


def _unet(task: Task) -> PlainNetwork:
    return UNet(task.options.image_size, task.out_channels, init_seed=task.seed)


def _deeplab(task: Task) -> PlainNetwork:
    backbone = task.options.backbone_weights or None
    return DeepLab(task.options.image_size, task.out_channels, task.seed, backbone)


def _swin(task: Task) -> PlainNetwork:
    return SwinUnetr2d(task.options.image_size, task.out_channels, init_seed=task.seed)


# Name: summary, training, whether it was published with a pretrained backbone.
_BASELINES: dict[str, tuple[str, Callable[[Task], Trained], bool]] = {
    "unet": (
        "MONAI's BasicUNet (16-256 features) from random weights, on all images",
        functools.partial(train_baseline, _unet),
        False,
    ),
    "deeplabv3": (
        "torchvision's DeepLabV3 on ResNet-50 with its auxiliary head, on all images",
        functools.partial(train_baseline, _deeplab),
        True,
    ),
    "swin-unetr": (
        "MONAI's SwinUNETR in 2-D from random weights (for SwinUnet), on all images",
        functools.partial(train_baseline, _swin),
        False,
    ),
    "hsnet": (
        "hypercorrelation squeeze on a frozen ResNet-50, in episodes; looks at the labelled images when it segments",
        functools.partial(train_few_shot, HSNet, "adam"),
        True,
    ),
    "ssp": (
        "self-support prototypes on ResNet-50, in episodes; looks at the labelled images when it segments",
        functools.partial(train_few_shot, SSP, "sgd"),
        True,
    ),
}

_register_all()
