"""``blosam pretrain``: make the weights of the embedded model from drawn images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the run: last.pt, losses.csv, held_out.csv, tiny.safetensors.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run in steps (reproducible).")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Length of the run in minutes of training.")] = None,
    stop_at: Annotated[
        int | None, typer.Option(min=1, help="Stop at this step and leave the rest to a resume.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the images in pixels, a multiple of 16.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Images a step, even.")] = 16,
    kinds: Annotated[str, typer.Option(help="What is drawn, separated by commas.")] = "shapes,chest,dental,colonoscopy",
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the images.")] = 0,
    device: Annotated[str, typer.Option(help="PyTorch device, for example cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw images.")] = 1,
    start: Annotated[
        Path | None, typer.Option(help="Weights to begin with: tiny.safetensors of an earlier run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from last.pt.")] = False,
) -> None:
    """Pretrain the embedded model on images this project draws itself.

    Example: blosam pretrain --out runs/tiny --steps 4000
    """
    import torch

    from blosam.errors import BlosamError
    from blosam.pretraining.loop import Pretraining, Settings

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BlosamError(f"--device {device}: no CUDA GPU is usable here. Use --device cpu.")
    settings = Settings(
        steps=steps,
        minutes=minutes,
        stop_at=stop_at,
        size=size,
        batch_size=batch_size,
        seed=seed,
        kinds=tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
    )
    run = Pretraining(out, settings, device=device, workers=workers, resume=resume, start=start)
    path = run.run()
    typer.echo(f"wrote {path} after {run.step} steps, {run.seconds / 60:.1f} minutes")
