"""``blosam predict``: segment images with a trained bundle."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from blosam.commands.train import Device
from blosam.errors import BlosamError

FORMATS = ("png", "nifti", "overlay", "dicom-seg", "dicom-seg-fractional", "dicom-sr")
AXES = ("auto", "0", "1", "2")


Inputs = Annotated[
    list[Path],
    typer.Argument(help="Images (PNG, JPEG, NIfTI, DICOM), folders of them, studies, DICOMDIRs.", show_default=False),
]
BundlePath = Annotated[
    Path, typer.Option("--bundle", "-b", help="A trained bundle, a release zip or an exported model.ts.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks and run.json.")]
Format = Annotated[str, typer.Option("--format", "-f", help=f"Any of {', '.join(FORMATS)}; comma-separated.")]
Axis = Annotated[str, typer.Option(help="Cut 3-D files along axis 0, 1 or 2; auto takes the thickest.")]
Batch = Annotated[int, typer.Option(min=1, help="Images through the network at once; masks do not change.")]
Workers = Annotated[int, typer.Option(min=0, help="Threads that read ahead of the network.")]
Force = Annotated[bool, typer.Option(help="Replace files that exist; segment images the bundle was not made for.")]
Restart = Annotated[bool, typer.Option(help="Segment again what an earlier run finished.")]
Report = Annotated[
    Path | None, typer.Option(help="Also write a page with pictures, areas and warnings to this .html file.")
]
Confidence = Annotated[
    str, typer.Option(help="How sure a mask is: auto, views, iou or none; slower, see docs/quality.md.")
]
LeastConfidence = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help='Mark results below this as "needs review".')
]
Trust = Annotated[bool, typer.Option(help="Run a bundle that does more than ours; only if you trust its maker.")]
Names = Annotated[
    str, typer.Option(help="Name results of PNG and NIfTI files by their stem, or by hash like those of DICOM.")
]
Deidentified = Annotated[bool, typer.Option(help="Refuse DICOM files that hold identifiers.")]
KeepUids = Annotated[bool, typer.Option(help="Write DICOM UIDs into run.json as they are, not hashed.")]
ShowPaths = Annotated[bool, typer.Option(help="Print paths of inputs, on the terminal only.")]


def predict(
    inputs: Inputs,
    bundle: BundlePath,
    out: Out,
    format: Format = "png",
    axis: Axis = "auto",
    device: Device = "auto",
    batch: Batch = 1,
    workers: Workers = 2,
    force: Force = False,
    restart: Restart = False,
    report: Report = None,
    confidence: Confidence = "",
    min_confidence: LeastConfidence = None,
    trust: Trust = False,
    names: Names = "stem",
    deidentified: Deidentified = False,
    keep_uids: KeepUids = False,
    show_paths: ShowPaths = False,
) -> None:
    """Segment images; masks come back on the image's own grid. No click, box or text is needed.

    OUT/run.json tells what happened to each input. The same command again continues an interrupted run. Names of
    patients and paths appear neither there nor on the terminal; inputs are called by position and SHA-256.

    Exit code 0: all done; 1: some inputs failed; 2: wrong usage.

    Example: blosam predict new_images --bundle bundles/blosam_lung --out masks --format png,overlay
    """
    from blosam.dicom.derived import require_highdicom
    from blosam.inference.privacy import discreet
    from blosam.inference.run import Options

    options = Options(
        formats=tuple(parse_formats(format)),
        axis=None if one_of(axis, AXES, "--axis") == "auto" else int(axis),
        force=force,
        deidentified=deidentified,
        keep_uids=keep_uids,
        hashed_names=one_of(names, ("stem", "hash"), "--names") == "hash",
        min_confidence=min_confidence,
        thumbnails=report is not None,
        batch=batch,
        workers=workers,
    )
    if any(name.startswith("dicom") for name in options.formats):
        require_highdicom()
    wanted = confidence or ("none" if min_confidence is None else "auto")
    call = Call(inputs, bundle, out, device, wanted, restart, show_paths, trust, report)
    with discreet(show_paths):
        failed = _segment(call, options)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Call:
    """What the user asked for beyond the options that decide the results."""

    inputs: list[Path]
    bundle: Path
    out: Path
    device: str
    confidence: str
    restart: bool
    show_paths: bool
    trust: bool
    report: Path | None


def _segment(call: Call, options: Any) -> int:
    """Run and tell; the number of inputs and studies that failed."""
    from tqdm import tqdm

    from blosam.inference.report import write_run_report
    from blosam.inference.session import segment
    from blosam.inference.shards import processes
    from blosam.predictor import Predictor

    with processes() as team:
        predictor = Predictor(call.bundle, choose_device(call.device, team.local_rank), call.trust, call.confidence)
        bar = tqdm(desc="segmenting", unit="input", disable=None if team.rank == 0 else True, file=sys.stderr)

        def tell(record: dict[str, Any], message: str) -> None:
            bar.update()
            if record["status"] == "failed":
                text = f"{record['name']}: {record['reason']}" + (f"\n  {message}" if call.show_paths else "")
                tqdm.write(f"error: {text}", file=sys.stderr)  # on a line of its own, above the progress bar

        try:
            summary = segment(
                call.inputs, predictor, call.out, options,
                processes=team, restart=call.restart, begin=bar.reset, listener=tell,
            )  # fmt: skip
            if call.report is not None and team.rank == 0:
                write_run_report(call.report, call.out, summary, predictor.labels)
        except BlosamError as error:
            raise error if call.show_paths else BlosamError(_without_paths(str(error), call)) from error
        finally:
            bar.close()
    for study in summary.studies:
        if study["status"] == "failed":
            typer.echo(f"error: {study['name']}: {study['reason']}", err=True)
    if team.rank == 0:
        place = f"in {call.out}" if call.show_paths else "and run.json are in --out"
        typer.echo(f"{tell_summary(summary)}; results {place}")
    return summary.failed


def tell_summary(summary: Any) -> str:
    """One line on how the inputs ended."""
    total = len(summary.records) - summary.count("ignored")
    parts = [f"{summary.count('done') + summary.count('needs review')} of {total} inputs segmented"]
    if summary.repeated:
        parts.append(f"{summary.repeated} of them finished earlier (--restart repeats them)")
    for status in ("needs review", "ignored", "failed"):
        if summary.count(status):
            parts.append(f"{summary.count(status)} {status}")
    return "; ".join(parts)


def _without_paths(text: str, call: Call) -> str:
    """The text with the paths the user gave replaced by what they are."""
    places = [(call.out, "--out"), (call.report, "--report"), *((path, "an input") for path in call.inputs)]
    for path, words in sorted(places, key=lambda place: -len(str(place[0]))):
        text = text.replace(str(path), words) if path is not None else text
    return text


def parse_formats(text: str) -> list[str]:
    """The formats in a comma-separated list.

    Raises:
        typer.BadParameter: naming the unknown one and the choices.
    """
    formats = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'empty'}. Choose among {', '.join(FORMATS)}.", param_hint="--format"
        )
    return list(dict.fromkeys(formats))


def one_of(value: str, choices: tuple[str, ...], option: str) -> str:
    """A checked choice.

    Raises:
        typer.BadParameter: when it is none of them.
    """
    if value not in choices:
        raise typer.BadParameter(f"{value}. Choose among {', '.join(choices)}.", param_hint=option)
    return value


def choose_device(device: str, local_rank: int = 0) -> str:
    """A checked device name; ``auto`` becomes a GPU when there is one, each process on its own under torchrun."""
    import torch

    from blosam.commands.train import device_override

    if device == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{local_rank % count}" if count else "cpu"
    device_override(device)
    return device
