"""Training: the bilevel trainer on MONAI's engine, hypergradients, schedule, checkpoints and progress."""

from __future__ import annotations

from .checkpoint import LastCheckpoint, ModelSaver
from .checkpoint_loader import CheckpointLoader
from .distributed import ShardSampler, join, leave, local_device, run_together
from .events import BilevelEvents
from .hypergradient import adamw_factors, hypergradient, mixed_product_exact, mixed_product_fd
from .inferers import FrozenFeatureInferer
from .losses import make_loss
from .progress import History, ProgressBar, ValidationLog
from .schedule import PolySchedule, poly_factor
from .stopping import EarlyStop, KeyMetric
from .trainer import BilevelTrainer
from .trajectory import PromptTrajectory

__all__ = [
    "BilevelEvents",
    "BilevelTrainer",
    "CheckpointLoader",
    "EarlyStop",
    "FrozenFeatureInferer",
    "History",
    "KeyMetric",
    "LastCheckpoint",
    "ModelSaver",
    "PolySchedule",
    "ProgressBar",
    "PromptTrajectory",
    "ShardSampler",
    "ValidationLog",
    "adamw_factors",
    "hypergradient",
    "join",
    "leave",
    "local_device",
    "make_loss",
    "mixed_product_exact",
    "mixed_product_fd",
    "poly_factor",
    "run_together",
]
