"""What a second process gains: encoding and training steps of one process against those of two, one thread each.

    OMP_NUM_THREADS=1 python benchmarks/distributed_speed.py [--encoder vit_b] [--image-size 256] [--out FILE.json]

Random weights and drawn ellipses, every image in every batch (joint training). Two figures for each part: seconds on
the clock, which suffer from other programs, and processor seconds of the busiest process, which is what a free core for
each process would need. The last line is the ratio of one process to two: encoding, then steps, by processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.data import Dataset

from blosam import processes
from blosam.atomicio import atomic_write
from blosam.data.bank import FeatureBank
from blosam.data.loader import BilevelLoader
from blosam.engines import BilevelTrainer, PolySchedule, join, leave
from blosam.engines.objective import published_loss
from blosam.networks import BloSam

IMAGES = BATCH = 4
PROCESSES = (1, 2)
SKIPPED = 2  # first steps, which also pay for set-up


def draw_images(size: int) -> list[dict[str, torch.Tensor]]:
    """Noisy bright ellipses, 3 x size x size in [0, 1], with their masks."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    items = []
    for index in range(IMAGES):
        mask = ((rows / (0.3 + 0.1 * index)) ** 2 + (columns / 0.5) ** 2 < 1).to(torch.uint8)[None]
        image = 0.3 + 0.4 * mask + 0.2 * torch.rand(3, size, size, generator=generator)
        items.append({"image": image.clamp(0, 1), "label": mask})
    return items


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds ``[on the clock, of the processor]`` of this process for encoding and for one step, and the last loss."""
    network = BloSam(encoder=arguments.encoder, image_size=arguments.image_size, out_channels=2)
    items = Dataset(draw_images(arguments.image_size))
    bank = FeatureBank(items, network, views=dict, num_views=arguments.views)
    loader = BilevelLoader(bank, batch_size=BATCH, joint=True)
    marks: list[tuple[float, float]] = []
    trainer = BilevelTrainer(
        "cpu", arguments.steps + SKIPPED, loader, network,
        torch.optim.AdamW(network.weight_parameters(), lr=5e-3, weight_decay=0.1, fused=True),
        torch.optim.AdamW(network.prompt_parameters(), lr=5e-3, weight_decay=0.1, fused=True), published_loss(),
        joint=True, train_handlers=[PolySchedule()],
    )  # fmt: skip
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: marks.append((time.perf_counter(), time.process_time()))
    )
    network.frozen_features(items[0]["image"][None])  # set-up
    processes.wait_for_all()
    before = (time.perf_counter(), time.process_time())
    bank.fill()
    after = (time.perf_counter(), time.process_time())
    trainer.run()
    first, last = marks[SKIPPED - 1], marks[-1]
    return {
        "encoding": [after[k] - before[k] for k in (0, 1)],
        "step": [(last[k] - first[k]) / arguments.steps for k in (0, 1)],
        "loss": trainer.state.output["loss"],
    }


def run(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Start ``count`` processes as torchrun does; the slowest clock and the busiest processor."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = [sys.executable, __file__, "--worker"]
    for name in ("encoder", "image_size", "views", "steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1"}
    team = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(k), "LOCAL_RANK": str(k)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in team]
    record: dict[str, Any] = {"processes": count, "last_loss": found[0]["loss"]}
    for part in ("encoding", "step"):
        clock, processor = (max(one[part][k] for one in found) for k in (0, 1))
        record[part] = {"seconds": round(clock, 4), "processor_seconds": round(processor, 4)}
    return record


def main() -> None:
    """Compare, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_b")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--note", default="", help="kept in the record: what else the machine was doing")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker:
        join("cpu")
        print(json.dumps(measure(arguments)))
        leave()
        return
    records = [run(count, arguments) for count in PROCESSES]
    one, two = records
    ratios = {
        part: {key: round(one[part][key] / two[part][key], 2) for key in one[part]} for part in ("encoding", "step")
    }
    record = {
        "encoder": arguments.encoder, "image_size": arguments.image_size, "images": IMAGES, "views": arguments.views,
        "batch_size": BATCH, "steps": arguments.steps, "runs": records, "one_to_two": ratios,
        "cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__, "note": arguments.note,
    }  # fmt: skip
    print(json.dumps(record, indent=4))
    if abs(one["last_loss"] - two["last_loss"]) > 1e-3:
        sys.exit(f"error: the last losses differ: {one['last_loss']} and {two['last_loss']}.")
    if arguments.out:
        with atomic_write(arguments.out, mode="w") as file:
            file.write(json.dumps(record, indent=4) + "\n")
    print(f"ratio {ratios['encoding']['processor_seconds']} {ratios['step']['processor_seconds']}")


if __name__ == "__main__":
    main()
