"""``blosam pacs``: segment what lies in an image archive, and store the results there."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blosam.commands.train import Device
from blosam.errors import BlosamError

if TYPE_CHECKING:
    from blosam.pacs.pipeline import Pipeline
    from blosam.pacs.selection import Selection

Url = Annotated[str, typer.Option(help="DICOMweb root, e.g. https://pacs.example.org/dicom-web", show_default=False)]
BundlePath = Annotated[Path, typer.Option("--bundle", "-b", help="A trained bundle, a release zip or a model.ts.")]
Study = Annotated[list[str], typer.Option(help="Study UID; may be repeated.")]
Accession = Annotated[str | None, typer.Option(help="Accession number.")]
Date = Annotated[str | None, typer.Option(help="Study date: YYYYMMDD or YYYYMMDD-YYYYMMDD.")]
Since = Annotated[str | None, typer.Option(help="Studies since YYYYMMDD, or of the last days, e.g. 7d.")]
All = Annotated[bool, typer.Option("--all", help="All studies of the archive.")]
Modality = Annotated[list[str], typer.Option(help="May be repeated. Default: those the bundle accepts.")]
Limit = Annotated[int, typer.Option(min=0, help="At most so many studies; 0 = all.")]
Store = Annotated[str, typer.Option(help="Any of seg, seg-fractional, sr; comma-separated.")]
Again = Annotated[bool, typer.Option(help="Segment and store again what was done before.")]
Force = Annotated[bool, typer.Option(help="Segment images that the bundle was not made for.")]
LeastConfidence = Annotated[float | None, typer.Option(min=0.0, max=1.0, help='Mark results below "needs review".')]
DryRun = Annotated[bool, typer.Option(help="Show what would be done; retrieve and store nothing.")]
Poll = Annotated[float, typer.Option("--watch", min=0, help="Poll for new studies every so many seconds; 0 = once.")]
StablePolls = Annotated[int, typer.Option(min=0, help="Take a study when it has not grown for so many polls.")]
Attempts = Annotated[int, typer.Option(min=1, help="Try a failing study so often while watching.")]
State = Annotated[Path | None, typer.Option(help="Private folder for journal and temporary files.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Keep copies of the results in this folder.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with a token, or 'Basic USER:PASSWORD'.")]
Header = Annotated[list[str], typer.Option(help="'Name: value', or @FILE with such lines; may be repeated.")]
CaBundle = Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not verify TLS; send credentials over plain http.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the server to say anything.")]
Retries = Annotated[int, typer.Option(min=0, help="Repeat a request so often when the server is busy or away.")]
KeepUids = Annotated[bool, typer.Option(help="Show study UIDs as they are, not hashed.")]


def pacs(
    url: Url,
    bundle: BundlePath,
    study: Study = [],  # noqa: B006 - Typer copies it
    accession: Accession = None,
    date: Date = None,
    since: Since = None,
    everything: All = False,
    modality: Modality = [],  # noqa: B006
    limit: Limit = 0,
    store: Store = "seg,sr",
    again: Again = False,
    force: Force = False,
    min_confidence: LeastConfidence = None,
    dry_run: DryRun = False,
    watch: Poll = 0,
    stable_polls: StablePolls = 2,
    attempts: Attempts = 3,
    state: State = None,
    out: Out = None,
    token_file: TokenFile = None,
    header: Header = [],  # noqa: B006
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    timeout: Seconds = 60.0,
    retries: Retries = 4,
    device: Device = "auto",
    keep_uids: KeepUids = False,
) -> None:
    """Segment images of a PACS through DICOMweb and store DICOM SEG and SR there.

    Running it twice stores once; the same command goes on after an interruption. A token comes from --token-file or
    the environment variable BLOSAM_PACS_TOKEN, never from the command line. Messages name studies by a hash.

    Exit code 0: all done; 1: something failed; 2: wrong usage.

    Example: blosam pacs --url https://pacs.example.org/dicom-web --bundle bundles/blosam_lung --since 7d
    """
    from blosam.pacs.access import Access, parse_headers, token_from
    from blosam.pacs.selection import Selection

    kinds = _parse_kinds(store)
    if watch and (dry_run or again):
        raise typer.BadParameter("goes with neither --dry-run nor --again.", param_hint="--watch")
    access = Access(
        url, token_from(token_file), parse_headers(header), ca_bundle, insecure, min(10.0, timeout), timeout, retries
    )
    for warning in access.check():
        typer.echo(f"warning: {warning}", err=True)
    modalities = tuple(name.upper() for name in modality)
    selection = Selection(tuple(study), modalities, date, since, accession, everything, limit)
    selection.check()
    with _quiet(), _stopped_by_signals(bool(watch)):
        with _prepared(
            access, bundle, kinds, modalities, state, out, again, force, device, dry_run, watch, min_confidence
        ) as pipeline:
            selection = replace(selection, modalities=pipeline.modalities)
            name = (lambda uid: uid) if keep_uids else (lambda uid: pipeline.journal.hashed(uid)[:12])
            if watch:
                _watch(pipeline, selection, watch, stable_polls, attempts, name)
            elif dry_run:
                _show(pipeline, selection, name)
            else:
                _run(pipeline, selection, name)


@contextmanager
def _prepared(
    access: Any,
    bundle: Path,
    kinds: list[str],
    modalities: tuple[str, ...],
    state: Path | None,
    out: Path | None,
    again: bool,
    force: bool,
    device: str,
    dry_run: bool,
    watch: float,
    min_confidence: float | None,
) -> Iterator[Pipeline]:
    """Archive, journal and bundle, ready to go; temporary images of this and of killed runs are removed."""
    from blosam.commands.predict import choose_device
    from blosam.inference.sources import open_bundle
    from blosam.pacs.client import Archive
    from blosam.pacs.installation import default_state, hasher
    from blosam.pacs.journal import Journal, private_folder
    from blosam.pacs.pipeline import Pipeline
    from blosam.predictor import Predictor
    from blosam.writers import make_folder

    archive = Archive(access)
    if not watch:
        archive.ask()  # before the bundle is loaded, so that a wrong address or token shows at once
    if out is not None:
        make_folder(out)
    if dry_run:
        with open_bundle(bundle) as opened:
            metadata, sha256, segment = opened.metadata, opened.sha256, _never
    else:
        from blosam.pacs.segmenter import BundleSegmenter

        judged = "none" if min_confidence is None else "auto"
        predictor = Predictor(bundle, device=choose_device(device), confidence=judged)
        metadata, sha256 = predictor.metadata, predictor.sha256
        segment = BundleSegmenter(predictor, "", kinds, force, min_confidence)
    modalities = modalities or tuple((metadata.get("accepted_images") or {}).get("modalities") or ())
    folder = state or default_state()
    with Journal(folder, access.url, sha256, hasher(folder)) as journal:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)  # images that a killed run left; the journal's lock makes us the only
        try:
            yield Pipeline(archive, journal, segment, sha256, modalities, private_folder(work), out, again)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _never(files: list[Path], out: Path) -> Any:
    raise RuntimeError("nothing is segmented in a dry run")


def _run(pipeline: Pipeline, selection: Selection, name: Callable[[str], str]) -> None:
    """Go through the studies once, and sum up."""
    from tqdm import tqdm

    from blosam.pacs.errors import AccessRefused, Unreachable
    from blosam.pacs.watch import count, once

    studies = selection.find(pipeline.archive)
    done, bad, totals = 0, 0, {"new": 0, "stored": 0, "present": 0, "refused": 0, "failed": 0}
    bar = tqdm(total=len(studies), desc="studies", unit="study", file=sys.stderr, disable=len(studies) < 2 or None)
    try:
        for outcome in once(pipeline, studies):
            bar.update()
            done += 1
            bad += outcome.failed
            if outcome.failed or (outcome.report and outcome.report.refused):
                word = "error" if outcome.failed else "note"
                tqdm.write(f"{word}: study {name(outcome.study.uid)}: {outcome.text()}", file=sys.stderr)
            if outcome.report:
                totals["new"] += outcome.report.images - outcome.report.known
                for key in ("stored", "present", "refused", "failed"):
                    totals[key] += getattr(outcome.report, key)
    except (AccessRefused, Unreachable) as error:
        raise BlosamError(
            f"{error} Stopped after {done} of {count(len(studies), 'study')}; the same command goes on from there."
        ) from None
    finally:
        bar.close()
    parts = [f"{count(len(studies), 'study')}: {count(totals['new'], 'new image')}"]
    parts.append(f"{count(totals['stored'], 'result')} stored")
    for key, words in (("present", "there already"), ("refused", "not suitable"), ("failed", "images failed")):
        parts += [f"{totals[key]} {words}"] if totals[key] else []
    parts += [f"{count(bad, 'study')} failed"] if bad else []
    typer.echo(", ".join(parts))
    if bad:
        raise typer.Exit(1)


def _show(pipeline: Pipeline, selection: Selection, name: Callable[[str], str]) -> None:
    """Say what a run would do."""
    from blosam.pacs.watch import count

    studies = selection.find(pipeline.archive)
    waiting = 0
    for study in studies:
        _, report = pipeline.look(study)
        new = report.images - report.known
        waiting += new
        typer.echo(f"study {name(study.uid)}: {count(new, 'image')} to segment, {report.known} done before")
    typer.echo(f"{count(len(studies), 'study')}, {count(waiting, 'image')} to segment; nothing was retrieved or stored")


def _watch(
    pipeline: Pipeline,
    selection: Selection,
    interval: float,
    stable_polls: int,
    attempts: int,
    name: Callable[[str], str],
) -> None:
    from blosam.pacs.watch import Watch

    typer.echo(f"watching {pipeline.archive.access.host} every {interval:g} s; Ctrl-C or SIGTERM ends it", err=True)
    Watch(pipeline, selection, interval, stable_polls, attempts, name).run()


def _parse_kinds(text: str) -> list[str]:
    from blosam.pacs.pipeline import KINDS

    kinds = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'empty'}. Choose among {', '.join(KINDS)}.", param_hint="--store"
        )
    return kinds


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence libraries whose warnings repeat values of DICOM headers."""
    names = ("pydicom", "highdicom", "py.warnings", "monai")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _stopped_by_signals(watching: bool) -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: temporary files go, the journal stays. For a watch that is success."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with suppress(ValueError):  # outside the main thread there are no handlers to set
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(0 if watching else 130) from None
    finally:
        with suppress(ValueError, UnboundLocalError):
            signal.signal(signal.SIGTERM, before)
