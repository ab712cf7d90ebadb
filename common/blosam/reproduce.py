"""The medical table of the BLO-SAM paper on the public data sets, which everybody has to fetch from their owners.

Folders are checked before anything is computed; what is missing or different is said with where it belongs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blosam import weights
from blosam.atomicio import atomic_write
from blosam.compare.options import Options
from blosam.compare.paper import TABLE
from blosam.compare.results import read_runs, summary
from blosam.compare.runner import compare
from blosam.data.datalist import load_split
from blosam.errors import BlosamError

METHODS = (
    "blo-sam", "samed", "med-sa", "deeplabv3", "swin-unetr", "hsnet", "ssp", "sam-oracle-point", "sam-oracle-box",
)  # fmt: skip
SAMPLINGS = 3


@dataclass(frozen=True)
class PublicSet:
    """One data set of the table.

    Args:
        name: of its folder and option.
        page: where it comes from.
        licence: what to know before using it.
        folders: each with images/ and masks/; with two, the second is the test.
        counts: images in each of the folders; None = not checked, because its owner has changed it.
        test: images of the test; with one folder the last ones by name.
        shots: numbers of training images in the paper.
        label: the class.
        views: kind of the augmented views.
        note: how the files have to look.
    """

    name: str
    page: str
    licence: str
    folders: tuple[str, ...]
    counts: tuple[int | None, ...]
    test: int
    shots: tuple[int, ...]
    label: str
    views: str
    note: str


SETS = (
    PublicSet(
        "teeth",
        "Children's Dental Panoramic Radiographs Dataset (Zhang et al., Scientific Data 2023; figshare)",
        "as stated on its figshare page",
        ("train", "test"),
        (None, 70),
        70,
        (4, 8),
        "teeth",
        "panoramic",
        "the official division into training and test; a mask has the name of its image, teeth are not 0",
    ),
    PublicSet(
        "kvasir",
        "Kvasir-SEG (Jha et al. 2020; Simula, datasets.simula.no/kvasir-seg)",
        "research and education; other uses need the owners' consent",
        ("",),
        (1000,),
        500,
        (4, 8),
        "polyp",
        "rgb",
        "the folders of Kvasir-SEG as they are: JPEG images and JPEG masks of the same names",
    ),
    PublicSet(
        "lung",
        "JSRT (Shiraishi et al. 2000; db.jsrt.or.jp) with the masks of SCR (van Ginneken et al. 2006)",
        "registration with the owners; SCR for research",
        ("",),
        (247,),
        147,
        (2, 4),
        "lung",
        "greyscale",
        "JPCLN001 to 154 and JPCNN001 to 093 as PNG; one mask an image, PNG or GIF, left and right lung together",
    ),
)
_PAPER_NAMES = {"teeth": "dental", "kvasir": "kvasir", "lung": "jsrt"}  # for the report of each comparison


def instructions(public: PublicSet, folder: Path) -> str:
    """What belongs where, for one data set."""
    lines = [f"{public.name}: {public.page}", f"  licence: {public.licence}", f"  files: {public.note}"]
    for part, count in zip(public.folders, public.counts, strict=True):
        for kind in ("images", "masks"):
            lines.append(f"  {folder / part / kind}/: {'all' if count is None else count} {kind}")
    return "\n".join(lines)


def weights_instructions(encoder: str) -> str:
    """The same for SAM's weights."""
    entry = weights.get(encoder)
    return (
        f"weights: {entry.file_name} ({entry.bytes:,} bytes, {entry.licence}), by `blosam weights fetch {encoder}`, or "
        f"from {entry.url}\n  to {entry.path}\n  sha256 {entry.sha256}"
    )


def missing(folders: Mapping[str, Path], encoder: str, base_weights: str, checked: bool = True) -> list[str]:
    """One text for each data set or weights that are not usable; empty when all is in place.

    Args:
        folders: of each set by its name.
        encoder: of the methods that build on SAM.
        base_weights: ``auto`` or a path.
        checked: whether the published numbers of images are demanded.
    """
    problems = []
    for public in SETS:
        try:
            _parts(public, folders[public.name], checked)
        except BlosamError as error:
            problems.append(f"{instructions(public, folders[public.name])}\n  now: {error}")
    try:
        weights.resolve_base(encoder, base_weights)
    except BlosamError:
        problems.append(weights_instructions(encoder))
    return problems


def _parts(public: PublicSet, folder: Path, checked: bool) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Training pool and test images.

    Raises:
        BlosamError: when folders or files are missing, or there are others than published.
    """
    parts = []
    for part, count in zip(public.folders, public.counts, strict=True):
        if not (folder / part).is_dir():
            raise BlosamError(
                f"{folder / part}: there is no such folder. Make it, or name another with --{public.name}."
            )
        pairs = load_split(folder / part)["training"]
        if checked and count is not None and len(pairs) != count:
            raise BlosamError(f"{folder / part}: {len(pairs)} images instead of {count}. Add or remove files.")
        parts.append(pairs)
    if len(parts) == 2:
        return parts[0], parts[1]
    test = public.test if checked else max(1, len(parts[0]) // 2)
    return parts[0][:-test], parts[0][-test:]


def run(folders: Mapping[str, Path], out: Path, options: Mapping[str, object], checked: bool = True) -> list[str]:
    """Compare the methods on all sets; writes ``OUT/NAME/`` for each and ``OUT/table.md``.

    Args:
        folders: of each set by its name; checked by :func:`missing`.
        out: where results go.
        options: of :class:`blosam.compare.options.Options`, the same for all sets; ``methods`` and ``seeds`` too.
        checked: as for :func:`missing`.

    Returns:
        One line per failed run.
    """
    failures = []
    for public in SETS:
        pool, test = _parts(public, folders[public.name], checked)
        listed = out / "data" / public.name / "dataset.json"
        with atomic_write(listed, "w") as file:
            file.write(json.dumps({"name": public.name, "training": pool, "validation": [], "test": test}, indent=1))
        own = {"shots": public.shots, "labels": {public.label: 1}, "views_kind": public.views}
        own["paper"] = _PAPER_NAMES[public.name]
        failures += compare(Options(data=listed.parent, out=out / public.name, **own, **options))
        with atomic_write(out / "table.md", "w") as file:
            file.write(table(out))
    return failures


def table(out: Path) -> str:
    """The paper's table with ours beside it, in Markdown; sets without results are left empty."""
    columns = [(public.name, k) for public in SETS for k in public.shots]
    ours = {
        (row["method"], public.name, row["shots"]): _per_cent(row)
        for public in SETS
        for row in (summary(read_runs(out / public.name)) if (out / public.name / "runs").is_dir() else [])
    }
    paper = _paper()
    lines = [
        "Dice in per cent: the paper | ours, mean ± standard deviation over samplings (two means: the paper's tables",
        "disagree). The paper measures at 64 x 64 pixels, we at the resolution of the images, so small differences",
        "mean nothing. `swin-unetr` stands for SwinUnet; the paper has one row for all prompts of SAM, and Med-SA",
        "with clicks from the true mask.",
        "",
        "| Method | " + " | ".join(f"{name} {k}" for name, k in columns) + " |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    for method in dict.fromkeys([*(key[0] for key in paper), *(key[0] for key in ours)]):
        cells = [f"{paper.get((method, *c), '')} \\| {ours.get((method, *c), '')}" for c in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _paper() -> dict[tuple[str, str, int], str]:
    """The paper's cell for each of our methods that stands for one of its rows, set and number of images."""
    return {
        (method, public.name, shots): cell
        for row in TABLE
        for method in row.presets
        if method in METHODS
        for public in SETS
        for shots, cell in zip(public.shots, row.dice[_PAPER_NAMES[public.name]], strict=False)
    }


def _per_cent(row: Mapping[str, float]) -> str:
    return f"{100 * row['dice']:.1f} ± {100 * row['dice_std']:.1f}"


def default_folders(root: Path, given: Sequence[Path | None]) -> dict[str, Path]:
    """The folder of each set: the one given, else a folder of its name under ``root``."""
    return {public.name: path or root / public.name for public, path in zip(SETS, given, strict=True)}
