"""``blosam compare``: methods against each other on the same few images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blosam.errors import BlosamError

if TYPE_CHECKING:
    from blosam.compare.options import Options

_METHODS = "recommended,blo-sam,joint,unet"
_Data = Annotated[Path | None, typer.Option(help="Folder with images/ and masks/, or with a dataset.json.")]
_Methods = Annotated[str, typer.Option(help="Names with commas; --list shows them.", show_default=_METHODS)]
_Ablate = Annotated[
    list[str], typer.Option(help="What to vary of the methods (else of blo-sam): names of --list with commas, or all.")
]
_Shots = Annotated[str, typer.Option(help="Numbers of training images, with commas.")]
_Seeds = Annotated[int, typer.Option(help="Draws of training images for each number.")]
_Out = Annotated[Path | None, typer.Option(help="Folder for results; finished runs in it are not repeated.")]
_Encoder = Annotated[str, typer.Option(help="tiny, vit_b, vit_l or vit_h.")]
_BaseWeights = Annotated[str, typer.Option(help="auto, random, or the path of a checkpoint.")]
_Budget = Annotated[float, typer.Option(help="Seconds of training per run, of the processor or on a GPU.")]
_MaxSteps = Annotated[int, typer.Option(help="Updates per run at most.")]
_Views = Annotated[int, typer.Option(help="Augmented views of each image.")]
_ViewsKind = Annotated[str, typer.Option(help="greyscale (radiographs) or rgb (endoscopy).")]
_ImageSize = Annotated[int, typer.Option(help="Longest side in training, in pixels.")]
_Labels = Annotated[str, typer.Option(help="Classes of the masks, e.g. lung=1 or lung=1,heart=2.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU when there is one.")]
_Devices = Annotated[str, typer.Option(help="Several GPUs, e.g. cuda:0,cuda:1; cuda takes all. Instead of --device.")]
_Workers = Annotated[int, typer.Option(help="Runs at the same time, on each device.")]
_Threads = Annotated[int, typer.Option(help="Threads of a run; the processor time of all of them counts.")]
_Backbone = Annotated[
    str, typer.Option(help="ResNet-50 state dict for deeplabv3, hsnet and ssp; without it they are not ranked.")
]
_MedSam = Annotated[
    str, typer.Option(help="MedSAM's released weights for medsam-box; without it that trains by MedSAM's recipe.")
]
_Paper = Annotated[
    str, typer.Option(help="Data set of the BLO-SAM paper to show its table of: kvasir, jsrt, dental, none or auto.")
]
_Text = Annotated[
    str,
    typer.Option(
        help="Vectors of the class names for s-sam and adaptive-sam: .safetensors or .npz (name -> vector), or "
        "package.module:function."
    ),
]
_About = Annotated[str, typer.Option(metavar="NAME", help="Print all about a method, and stop.")]
_List = Annotated[bool, typer.Option("--list", help="Print the methods, one a line, and stop.")]


def compare(
    data: _Data = None,
    methods: _Methods = "",
    ablate: _Ablate = [],  # noqa: B006 - typer copies it
    shots: _Shots = "2,4,8",
    seeds: _Seeds = 3,
    out: _Out = None,
    encoder: _Encoder = "tiny",
    base_weights: _BaseWeights = "auto",
    budget: _Budget = 45.0,
    max_steps: _MaxSteps = 400,
    views: _Views = 16,
    views_kind: _ViewsKind = "greyscale",
    image_size: _ImageSize = 256,
    labels: _Labels = "lung=1",
    device: _Device = "auto",
    devices: _Devices = "",
    workers: _Workers = 1,
    threads: _Threads = 1,
    backbone_weights: _Backbone = "",
    medsam_weights: _MedSam = "",
    paper: _Paper = "auto",
    text_embeddings: _Text = "",
    about: _About = "",
    list_methods: _List = False,
) -> None:
    """Train and measure methods on the same images, views and time; writes results.csv, tables/ and report.html.

    Example: blosam compare --data chest_images --methods recommended,unet --shots 2,4 --out runs/compare
    """
    from blosam import ablations

    if list_methods or about:
        _describe(about)
        return
    if data is None or out is None:
        raise typer.BadParameter("--data and --out are needed (or --list)")
    from blosam.compare.options import Options

    varied = ablations.names(",".join(ablate))
    chosen = _devices(devices) if devices else [_device(device)]
    options = Options(
        methods=tuple(dict.fromkeys(_words(methods or ("blo-sam" if varied else _METHODS)))),
        shots=tuple(dict.fromkeys(_numbers(shots, "--shots"))),
        labels=_labels(labels),
        device=chosen[0],
        data=data, out=out, seeds=seeds, encoder=encoder, base_weights=base_weights, budget=budget,
        max_steps=max_steps, views=views, views_kind=views_kind, image_size=image_size, threads=threads,
        backbone_weights=backbone_weights, medsam_weights=medsam_weights, text_embeddings=text_embeddings,
        paper=paper,
    ).with_ablations(varied)  # fmt: skip
    _run(options, workers, chosen)


def _run(options: Options, workers: int, devices: list[str]) -> None:
    """Carry out the runs and show the result; Ctrl-C ends with what a shell expects.

    Raises:
        BlosamError: when runs failed.
    """
    from blosam.compare.runner import compare as run

    try:
        failures = run(options, workers, devices)
    except KeyboardInterrupt:
        typer.echo("stopped. Finished runs stay; the same command goes on with the others.", err=True)
        raise typer.Exit(130) from None
    _show(options.out, failures, len(options.jobs()))


def _describe(name: str) -> None:
    """All about one method; without a name the methods, one a line for scripts, and beside them what can be varied."""
    from blosam import ablations
    from blosam.compare import approaches
    from blosam.compare.about import about

    if name:
        typer.echo(about(name))
        return
    width = max(map(len, approaches.names()))
    for name in approaches.names():
        typer.echo(f"{name:<{width}} {approaches.get(name).summary}")
    typer.echo("\nWhat --ablate varies; METHOD+NAME-VALUE, e.g. blo-sam+rank-8, is a method as well:", err=True)
    for name, item in ablations.ABLATIONS.items():
        typer.echo(f"{name:<{width}} {item.summary} ({', '.join(item.values)})", err=True)


def _show(out: Path, failures: list[str], jobs: int) -> None:
    """Print the summary, and where the report is.

    Raises:
        BlosamError: when runs failed.
    """
    summary = out / "tables" / "summary.md"
    if summary.is_file():
        typer.echo(summary.read_text(encoding="utf-8"))
        typer.echo(f"report: {out / 'report.html'}")
    if failures:
        raise BlosamError(f"{len(failures)} of {jobs} runs failed; run the command again. {failures[0]}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, option: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdigit() for word in words):
        raise BlosamError(f"{option} {text}: not numbers with commas. Give e.g. 2,4,8.")
    return [int(word) for word in words]


def _labels(text: str) -> dict[str, int]:
    pairs = [word.partition("=") for word in _words(text)]
    if not pairs or not all(name and value.isdigit() for name, _, value in pairs):
        raise BlosamError(f"--labels {text}: not name=value pairs. Give e.g. lung=1,heart=2.")
    return {name: int(value) for name, _, value in pairs}


def _devices(text: str) -> list[str]:
    """The names in ``--devices``, with ``cuda`` resolved to every GPU.

    Raises:
        BlosamError: when one is not there.
    """
    import torch

    names = [_device(name) for name in _words(text)]
    if not names:
        raise BlosamError("--devices names none. Give e.g. cuda:0,cuda:1.")
    every = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return list(dict.fromkeys(each for name in names for each in (every if name == "cuda" else [name])))


def _device(name: str) -> str:
    """The device's name, with ``auto`` resolved.

    Raises:
        BlosamError: when it is not there.
    """
    import torch

    from blosam.commands.train import device_override

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device_override(name)
    return name
