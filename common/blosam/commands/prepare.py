"""``blosam prepare``: from images and labels as people have them to a checked ``dataset.json``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder with images and labels, or one COCO file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder: dataset.json, masks/, contact_sheet.png.")],
    classes: Annotated[
        str, typer.Option(help="Names in the order of their numbers: lung,heart; with mask values: left=50,right=100.")
    ] = "",
    images: Annotated[Path | None, typer.Option(help="Folder of the images, when it is not found by itself.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of the mask images, likewise.")] = None,
    patients: Annotated[
        str, typer.Option(help="Regular expression whose parentheses hold the patient in a file name: '^(\\w+?)_'.")
    ] = "",
    validation: Annotated[float, typer.Option(help="Share of the patients that choose the best weights.")] = 0.0,
    test: Annotated[
        float | None, typer.Option(help="Share of the patients to measure on; default 0.25 from 8 patients on, else 0.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the patients.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable pairs instead of stopping.")] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the images into OUT; DICOM files get neutral names.")
    ] = False,
) -> None:
    """Check images and labels and divide them by patient, so that `blosam train OUT` works.

    Labels may be: mask images (PNG, JPEG, NIfTI, DICOM) in masks/ or beside the images as NAME_mask; DICOM SEG; COCO or
    LabelMe polygons. Every pair is read; what is wrong with which file is listed, and nothing is written until it is
    mended (or --skip-bad). Look at OUT/contact_sheet.png: shifted or inverted masks show at a glance.

    Exit code 0: written; 1: something is wrong, the list says what; 2: wrong usage.

    Example: blosam prepare raw --out chest --classes lung --test 0.5
    """
    from blosam.prepare.dataset import Options, Unusable
    from blosam.prepare.dataset import prepare as run

    options = Options(images, masks, classes, patients, validation, test, seed, skip_bad, copy)
    try:
        summary = run(source, out, options)
    except Unusable as error:
        _list(error.problems)
        raise
    if summary.problems:
        _list(summary.problems)
        typer.echo(f"left out: {len(summary.problems)}; listed in {out / 'problems.csv'}")
    for warning in summary.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"found: {summary.kind}; classes: {', '.join(summary.classes)}")
    typer.echo(f"patients: {summary.patients[0]}, from {summary.patients[1]}")
    typer.echo(", ".join(f"{part} {count}" for part, count in summary.counts.items()) + _unlabelled(summary.unlabelled))
    typer.echo(
        f"wrote {out / 'dataset.json'}; look at {out / 'contact_sheet.png'}, then: blosam train {out} --bundle B"
    )


def _list(problems) -> None:
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)


def _unlabelled(count: int) -> str:
    return f"; {count} images without a label" if count else ""
