"""How each of what can be compared is trained; importing this fills the registry, whose functions are here too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn

from blosam import ablations, methods, weights
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
from blosam.compare import prompted
from blosam.compare.budget import BudgetSchedule
from blosam.compare.options import Options
from blosam.compare.registry import (
    Approach,
    Task,
    Trained,
    base_settings,
    digest,
    get,
    names,
    register,
    register_family,
    trained_by,
)
from blosam.data import BilevelLoader
from blosam.engines import BilevelTrainer
from blosam.engines.losses import make_loss
from blosam.networks import BloSam
from blosam.networks.text import label_vectors

__all__ = [
    "Approach",
    "Task",
    "Trained",
    "get",
    "names",
    "register",
    "train_baseline",
    "train_few_shot",
    "train_preset",
]


def train_preset(name: str, task: Task) -> Trained:
    """Train one of :data:`blosam.methods.METHODS`, or a variant of :mod:`blosam.ablations`.

    Raises:
        BlosamError: when the base weights are missing or the views use up the time.
    """
    options = task.options
    preset = _method(name, options)
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
    network = weights.load_base(network, options.base_weights)
    if preset.prompt == "text" and options.text_embeddings:
        network.label_prompt.set_vectors(label_vectors(options.text_embeddings, _names(options.labels)))
    network = network.to(options.device)
    theta = network.weight_parameters(preset.iou_loss_weight > 0)
    prompt = network.prompt_parameters()
    bank, budget = task.prepared(network)
    loader = BilevelLoader(bank, preset.batch_size, task.seed, preset.swap_roles, preset.joint)
    trainer = BilevelTrainer(
        device=torch.device(options.device),
        max_epochs=math.ceil(options.max_steps / len(loader)),
        train_data_loader=loader,
        network=network,
        weight_optimizer=torch.optim.AdamW([{"params": theta}], preset.weight_lr, weight_decay=preset.weight_decay),
        prompt_optimizer=torch.optim.AdamW([{"params": prompt}], preset.prompt_lr, weight_decay=preset.weight_decay),
        loss_function=make_loss(preset.loss, preset.dice_weight),
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
    return trained_by(network.eval(), trainer.state.iteration, budget, [*theta, *prompt], *halves)


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
    return trained_by(network, steps, budget, list(network.parameters()))


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
    return trained_by(supported, steps, budget, trained)


def _method(name: str, options: Options) -> methods.Method:
    """The method; one with a token per class reads it off the text embeddings when there are any."""
    preset = ablations.resolve(name, options.encoder)
    return replace(preset, prompt="text") if options.text_embeddings and preset.prompt == "labels" else preset


def _names(labels: Mapping[str, int]) -> list[str]:
    return sorted(labels, key=labels.__getitem__)


def _preset_settings(name: str, options: Options) -> dict[str, Any]:
    """The preset's numbers and the base weights, so that a changed recipe or new weights are noticed."""
    numbers = asdict(_method(name, options))
    recipe = numbers.pop("name")
    for words in ("summary", "source"):
        numbers.pop(words)
    if numbers["dice_weight"] == methods.Method.dice_weight:  # as it always was when older runs were noted
        numbers.pop("dice_weight")
    if numbers["prompt"] == "text" and options.text_embeddings:
        file = options.text_embeddings
        numbers["text_embeddings"] = digest(file) if Path(file).suffix in (".safetensors", ".npz") else file
    return {"recipe": recipe, **base_settings(options), **numbers}


def _register_all() -> None:
    for name in ("recommended", *methods.METHODS):
        if name == "recommended":
            summary = f"what was measured best for the encoder (tiny: {methods.get(name, 'tiny').name})"
        else:
            summary = methods.METHODS[name].summary
        register(_preset(name, summary))
    register_family(_variant)
    prompted.register_all()
    for name, (summary, train, published_with_backbone) in _BASELINES.items():
        settings = functools.partial(_baseline_settings, name)
        caveat = {"caveat": _random_backbone} if published_with_backbone else {}
        register(Approach(name, summary, train, settings, source=_SOURCES[name], **caveat))


def _preset(name: str, summary: str) -> Approach:
    return Approach(name, summary, functools.partial(train_preset, name), functools.partial(_preset_settings, name))


def _variant(name: str) -> Approach | None:
    """A preset with one thing changed, by its name; None for any other name."""
    return _preset(name, ablations.describe(name)) if ablations.split(name) else None


def _random_backbone(options: Options) -> str:
    return "" if options.backbone_weights else "random backbone, not comparable"


def _baseline_settings(name: str, options: Options) -> dict[str, Any]:
    settings: dict[str, Any] = {"recipe": name}
    if _BASELINES[name][2]:
        settings["backbone_sha256"] = digest(options.backbone_weights)
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

_RESNET = "ResNet-50 starts from --backbone-weights (ImageNet), else at random and then outside of the ranking"
_SOURCES = {
    "unet": "MONAI's BasicUNet; AdamW 1e-3, decay 0.05, batches of 4, BLO-SAM's loss: the usual network from scratch, "
    "without a published few-shot recipe",
    "deeplabv3": "Chen et al. 2017 and the baseline of the BLO-SAM paper (41.99 M parameters with the auxiliary head), "
    f"which states no settings: AdamW 1e-3, BLO-SAM's loss, the auxiliary head weighs 0.4. {_RESNET}",
    "swin-unetr": "stands for SwinUnet (Cao et al. 2021), whose released code has no licence: MONAI's SwinUNETR in 2-D "
    "instead, from random weights instead of ImageNet's, AdamW 1e-3 instead of SGD, CE + Dice as for BLO-SAM",
    "hsnet": "Min, Kang, Cho, ICCV 2021 (28,130,826 parameters, 2,573,794 trained): the numbers the BLO-SAM paper "
    "prints are this network's, though it cites another HSNet (Zhang 2022). Own implementation; "
    "Adam 1e-3, episodes of two "
    f"of the labelled images instead of a large data set of other classes, batches of 2 instead of 20. {_RESNET}",
    "ssp": "Fan et al., ECCV 2022 (8,543,296 parameters, 8,317,952 trained; the BLO-SAM paper prints 8.7 M). Own "
    "implementation; SGD 1e-3 with momentum 0.9, episodes of two of the labelled images, batches of 2 instead of 4, "
    f"polynomial decay instead of two steps. {_RESNET}",
}

_register_all()
