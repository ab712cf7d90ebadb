"""One process of tests/engines/test_distributed.py: does what the scenario says and writes down what came out.

python worker.py FOLDER SCENARIO ...      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or alone
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator

from blosam import processes
from blosam.data import BilevelLoader, FeatureBank
from blosam.engines import (
    BilevelEvents,
    BilevelTrainer,
    History,
    LastCheckpoint,
    ModelSaver,
    PolySchedule,
    PromptTrajectory,
    ShardSampler,
    join,
    leave,
    run_together,
)
from blosam.engines.distributed import whole_batch
from blosam.engines.objective import published_loss
from blosam.errors import BlosamError
from blosam.evaluation import NativeDice, PerImageTable

torch.set_num_threads(1)
_spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("conftest.py"))
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

TRAININGS = {
    "uneven batches": {"batch_size": 3},
    "one image a batch": {},
    "swapped roles": {"batch_size": 2, "swap_roles": True},
    "joint": {"batch_size": 4, "joint": True, "clip_norm": 1e-2},
    "second order": {"batch_size": 3, "order": 2},
    "second order, sgd": {"batch_size": 2, "order": 2, "unroll": "sgd"},
    "finite difference": {"batch_size": 3, "order": 2, "hypergradient": "finite_difference"},
    "predicted IoU": {"batch_size": 3, "iou": 0.5},
    "predicted IoU, second order": {"batch_size": 3, "iou": 0.5, "order": 2},
    "float16": {"batch_size": 3, "amp": True, "amp_dtype": "float16"},
    "auto views": {"batch_size": 2, "num_views": "auto", "epochs": 1},
}

FAILURES = ("first raises", "second raises", "second killed", "second hangs")


def make_trainer(handlers=(), images=7, epochs=3, num_views=3, batch_size=1, joint=False, swap_roles=False, iou=0.0,
                 dropout=0.0, **options):  # fmt: skip
    """Everything anew, as a process that starts would build it; other processes start from other weights."""
    net = toys.ToyNet(dropout=dropout)
    if processes.rank():
        with torch.no_grad():
            net.head.weight += 1.0
    bank = FeatureBank(Dataset(toys.make_items(images)), net, toys.jitter, num_views, dtype=torch.float16, seconds=1.0)
    loader = BilevelLoader(bank, batch_size, joint=joint, swap_roles=swap_roles)
    weights = torch.optim.AdamW(net.weight_parameters(iou > 0), lr=5e-3, weight_decay=0.1, fused=True)
    prompts = torch.optim.AdamW(net.prompt_parameters(), lr=5e-3, weight_decay=0.1, fused=True)
    return BilevelTrainer("cpu", epochs, loader, net, weights, prompts, published_loss(), joint=joint,
                          iou_loss_weight=iou, train_handlers=[PolySchedule(), *handlers], **options)  # fmt: skip


def trained(trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*trainer.weights, *trainer.prompts)]


def train(**options) -> dict:
    """Losses and weights after every step, and the whole bank."""
    trainer = make_trainer(**options)
    record = {"losses": [], "weights": [], "norms": []}

    def note(engine):
        record["losses"].append([engine.state.output.get(name, 0.0) for name in ("loss", "d2_loss")])
        record["weights"].append(torch.cat([p.reshape(-1) for p in trained(trainer)]))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    bank = trainer.data_loader.bank
    record |= {"num_views": bank.num_views, "features": bank._features, "labels": bank._labels}
    return record


def resume(folder: Path) -> dict:
    """Four epochs at once, and two and two; dropout draws from the random stream that is restored."""
    results = []
    for parts in ((4,), (2, 4)):
        path = folder / f"{len(parts)}"
        for last, epochs in enumerate(parts):
            handlers = [
                LastCheckpoint(path / "last.pt", resume=last > 0),
                History(path / "history.csv"),
                PromptTrajectory(path / "prompt.npz"),
                ModelSaver(path / "model.pt"),
            ]
            torch.manual_seed(3)
            trainer = make_trainer(handlers, epochs=4, batch_size=3, dropout=0.3)
            if epochs < 4:
                trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), trainer.terminate)
            trainer.run()
        results.append(trained(trainer))
    return {"undisturbed": results[0], "resumed": results[1]}


def evaluate(folder: Path, images: int) -> dict:
    """Dice and table of some images whose predictions are shifted masks."""
    items = []
    for index, item in enumerate(toys.make_items(images)):
        name = {"filename_or_obj": f"image{index}.png"}
        items.append({key: MetaTensor(item[key].float(), meta=dict(name)) for key in ("image", "label")})
    dataset = Dataset(items)
    table = PerImageTable(folder / f"table{images}", {"object": 1}, save_overlays=True)
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=DataLoader(dataset, sampler=ShardSampler(dataset)), network=torch.nn.Identity(),
        inferer=lambda image, network: (image.mean(1, keepdim=True) > 0.7).float(),
        key_val_metric={"dice": NativeDice(2)}, val_handlers=[table],
    )  # fmt: skip
    run_together(evaluator)
    state = evaluator.state
    return {
        "dice": state.metrics["dice"],
        "best": state.best_metric,
        "details": state.metric_details["dice"],
        "rows": state.table["rows"],
    }


def loss() -> dict:
    """Loss of a batch that was put together, first and second derivative in a weight that all images share."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, 6, 6, generator=generator, dtype=torch.float64)
    target = torch.softmax(torch.randn(5, 2, 6, 6, generator=generator, dtype=torch.float64), 1)
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    own = list(range(processes.rank(), 5, processes.world_size()))
    run = own + [0] * (-(-5 // processes.world_size()) - len(own))
    shard = (logits[run] * weight[:, None, None]).tanh()
    value = published_loss()(whole_batch(shard, torch.tensor(own), 5), target)
    (gradient,) = torch.autograd.grad(value, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient @ torch.tensor([1.0, 2.0], dtype=torch.float64), weight)
    (gradient,), (second,) = processes.averaged([gradient]), processes.averaged([second])
    return {"logits": logits, "target": target, "weight": weight.detach(), "loss": value.detach(),
            "gradient": gradient, "second": second}  # fmt: skip


def fail(how: str, folder: Path) -> None:
    """Train, and let one process fail in its third iteration."""
    trainer = make_trainer([LastCheckpoint(folder / "last.pt", interval=5)], epochs=50, batch_size=3)
    culprit = 0 if how.startswith("first") else 1

    def trouble(engine):
        if processes.rank() != culprit or engine.state.iteration < 4:
            return
        if how.endswith("raises"):
            raise BlosamError("scan7.png: the disk is full. Free some space.")
        if how.endswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    trainer.add_event_handler(BilevelEvents.LOWER_COMPLETED, trouble)
    trainer.run()


def differ() -> dict:
    """Another number of images in one process."""
    try:
        make_trainer(images=7 + processes.rank(), batch_size=2).run()
    except BlosamError as error:
        return {"error": str(error)}
    return {}


def play(name: str, folder: Path) -> dict:
    """The result of a scenario."""
    if name in TRAININGS:
        return train(**TRAININGS[name])
    if name.startswith("evaluate"):
        return evaluate(folder, int(name.split()[1]))
    return {"resume": lambda: resume(folder), "loss": loss, "differ": differ}[name]()


def member(team: dict, number: int) -> None:
    """One process of a team, as torchrun would have started it; does not return."""
    folder = Path(team["folder"])
    output = os.open(folder / f"output{number}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(team["count"])}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(team["port"]), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    code = 1
    try:
        join("cpu", timeout=team["timeout"])
        if team["scenarios"][0] in FAILURES:
            fail(team["scenarios"][0], folder)
        torch.save({name: play(name, folder) for name in team["scenarios"]}, folder / f"rank{number}.pt")
        leave()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Run the teams one after another; the exit codes of each go to its ``codes.json``."""
    logging.basicConfig(level=logging.INFO)
    for team in json.loads(sys.argv[1]):
        children = []
        for number in range(team["count"]):
            child = os.fork()
            if child == 0:
                member(team, number)
            children.append(child)
        hanging = children[1:] if team["scenarios"] == ["second hangs"] else []
        codes = []
        for child in children:
            if child in hanging:
                os.kill(child, signal.SIGKILL)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        (Path(team["folder"]) / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main()
