"""``report.html`` of a comparison: ranking, intervals and tests, curves, costs, pictures, and the paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blosam import ablations
from blosam.compare import ablation_page, approaches, charts, paper, parts
from blosam.compare.observed import costs, curves, write_observed
from blosam.compare.parts import Rows
from blosam.compare.results import Record, protocol
from blosam.compare.statistics import (
    EXPLANATION,
    REFERENCES,
    by_method,
    missing_seeds,
    ranking,
    statistics,
    tests,
    write_statistics,
)
from blosam.evaluation.report import write_report
from blosam.evaluation.report_data import (
    CAVEATS,
    PHANTOM_CAVEAT,
    Gallery,
    Headline,
    Plots,
    ReportData,
    Table,
)
from blosam.evaluation.table import write_rows

_AHEAD_CAVEAT = (
    "The embedded model (encoder tiny) was pretrained on other drawings of the same program; networks that start at "
    "random were not. On phantoms it therefore starts ahead of them."
)
_PREFERRED_SHOTS = 4  # the paper's, where charts and pictures of one number of shots are shown


def write_page(path: Path, runs: Sequence[Record], paper_choice: str = "auto") -> Path:
    """Write the report of some finished runs, with the pictures and the failures that lie in its folder.

    Every number it shows is also in ``tables/`` beside it: ``statistics.csv``, ``tests.csv``, ``curves.csv``,
    ``costs.csv``, and ``paper.csv`` when the data set is one of the paper's.

    Args:
        path: of the report.
        runs: at least one.
        paper_choice: which of the paper's tables to show, one of :data:`blosam.compare.paper.CHOICES`.

    Raises:
        BlosamError: when something cannot be written.
    """
    shared = runs[0]["shared"]
    numbers = Numbers.of(runs, paper.data_set(paper_choice, shared["data"]))
    numbers.write(path.parent / "tables")
    return write_report(
        path,
        ReportData(
            title=f"Methods compared on {shared['data']}",
            lead="The same few labelled images, the same views and the same time for every method.",
            headlines=_headlines(numbers),
            steps=protocol(runs),
            tables=_parts(path.parent, runs, numbers),
            facts={
                "Settings": {key: str(value) for key, value in shared.items()},
                "Versions": runs[0].get("versions", {}),
            },
            command=_command(runs),
            caveats=(*_phantom_caveats(runs), *CAVEATS),
        ),
    )


def _phantom_caveats(runs: Sequence[Record]) -> list[str]:
    """What to know of results on drawn images; nothing for other data."""
    if "phantom" not in runs[0]["shared"]["data"]:
        return []
    own = [run["own"] for run in runs]
    ahead = any(each.get("encoder") == "tiny" and each.get("base_weights") != "random" for each in own)
    return [PHANTOM_CAVEAT, *([_AHEAD_CAVEAT] if ahead else [])]


@dataclass(frozen=True)
class Numbers:
    """The rows of all tables, computed once.

    Args:
        statistics: means, intervals and p values.
        tests: differences between methods.
        curves: points of the trainings.
        costs: parameters, memory and time.
        paper: the paper's numbers beside ours; empty for another data set.
        ranking: for each number of shots the methods that can be ranked, best first.
        main: the number of training images of which charts and pictures are shown.
    """

    statistics: Rows
    tests: Rows
    curves: Rows
    costs: Rows
    paper: Rows
    ranking: Mapping[int, Sequence[str]]
    main: int

    @classmethod
    def of(cls, runs: Sequence[Record], data_set: str) -> Numbers:
        """Compute them from runs."""
        tested = tests(runs)
        numbers = statistics(runs, tested)
        theirs = paper.beside(data_set, numbers, runs) if data_set else []
        return cls(numbers, tested, curves(runs), costs(runs), theirs, ranking(runs), main_shots(runs))

    def write(self, folder: Path) -> None:
        """Write them as CSV files."""
        write_statistics(folder, self.statistics, self.tests)
        write_observed(folder, self.curves, self.costs)
        if self.paper:
            write_rows(folder / "paper.csv", self.paper, paper.COLUMNS)


def main_shots(runs: Sequence[Record]) -> int:
    """The number of training images of which charts and pictures are shown: 4, or else the middle one."""
    shots = sorted({run["shots"] for run in runs})
    return _PREFERRED_SHOTS if _PREFERRED_SHOTS in shots else shots[(len(shots) - 1) // 2]


def method_order(runs: Sequence[Record], best: Sequence[str]) -> list[str]:
    """All methods: the ranked ones by rank, then the others."""
    return [*best, *(m for m in dict.fromkeys(run["method"] for run in runs) if m not in best)]


def _parts(folder: Path, runs: Sequence[Record], numbers: Numbers) -> list[Table | Plots | Gallery]:
    """The sections in their order."""
    main, shots = numbers.main, sorted(numbers.ranking)
    best = numbers.ranking[main]
    order = method_order(runs, best)
    forest = charts.forest_plot(numbers.statistics, order, shots)
    found: list[Table | Plots | Gallery | None] = [
        *(parts.ranking_table(k, numbers.statistics, numbers.tests, runs) for k in shots),
        Plots("Test Dice with 95 % intervals", [(forest, _forest_caption(main))], size="large"),
    ]
    if len(shots) > 1 and best:
        svg = charts.shots_plot(numbers.statistics, best)
        found.append(Plots("Dice against the number of training images", [(svg, _shots_caption(main))], size="large"))
    found += [
        *ablation_page.sections(runs),
        parts.curves_part(numbers.curves, order, main),
        parts.cost_table(numbers.costs, order, main),
        parts.gallery(folder, runs, order, main),
        parts.paper_table(numbers.paper),
        Table("How sure these numbers are", ["", "In words"], [[str(i + 1), s] for i, s in enumerate(EXPLANATION)]),
        _absent(folder, runs),
        _about_table(runs),
    ]
    return [part for part in found if part is not None]


def _forest_caption(main: int) -> str:
    return (
        f"Point: mean; line: 95 % interval over test images. Methods in the order of {main} training images; hollow "
        "and grey: cannot be ranked, the table says why."
    )


def _shots_caption(main: int) -> str:
    return (
        f"The best methods with {main} training images and the references {' and '.join(REFERENCES)} are named, the "
        "other ranked ones are grey; every value is in tables/statistics.csv."
    )


def _headlines(numbers: Numbers) -> list[Headline]:
    """The best method for every number of shots, beside the references."""
    dice = {(row["shots"], row["method"]): row["mean"] for row in numbers.statistics if row["metric"] == "dice"}
    found = []
    for shots, methods in numbers.ranking.items():
        if methods:
            others = [f"{m} {dice[shots, m]:.3f}" for m in REFERENCES if m in methods and m != methods[0]]
            note = f"{methods[0]}{' (' + ', '.join(others) + ')' if others else ''}"
            label = f"Best Dice, {shots} training images"
            found.append(Headline(label, f"{dice[shots, methods[0]]:.3f}", note, main=shots == numbers.main))
    return found


def _absent(folder: Path, runs: Sequence[Record]) -> Table | None:
    """Runs that failed, with their reason, and seeds that a method lacks."""
    failed = {p.name.removesuffix(".failed.txt"): p.read_text() for p in (folder / "runs").glob("*.failed.txt")}
    rows = [[name, " ".join(reason.split())] for name, reason in sorted(failed.items())]
    for (shots, method), seeds in missing_seeds(runs).items():
        names = [f"{method}_k{shots}_s{seed}" for seed in seeds]
        rows += [[name, "not carried out yet"] for name in names if name not in failed]
    if not rows:
        return None
    note = "Means of these methods are over the other seeds; tests use the seeds both methods have."
    return Table("Runs that are missing", ["Run", "Why"], rows, note)


def _about_table(runs: Sequence[Record]) -> Table:
    known = {run["method"]: run["own"].get("recipe", run["method"]) for run in runs}
    rows = [[method, recipe if recipe != method else "", _about(method)] for method, recipe in known.items()]
    return Table("Methods", ["Method", "Recipe", "What it does"], rows)


def _about(method: str) -> str:
    return approaches.get(method).summary if method in approaches.names() else ablations.describe(method)


def _command(runs: Sequence[Record]) -> str:
    shared: Mapping[str, Any] = runs[0]["shared"]
    encoders = [run["own"]["encoder"] for run in runs if "encoder" in run["own"]]
    bases = [run["own"].get("base_weights", "") for run in runs]
    needed = {  # which files they were we cannot say
        "backbone_sha256": "--backbone-weights",
        "medsam_sha256": "--medsam-weights",
        "text_embeddings": "--text-embeddings",
    }
    words = {
        "--data": "DIR",
        "--methods": ",".join(dict.fromkeys(run["method"] for run in runs)),
        "--shots": ",".join(map(str, sorted({shots for shots, _ in by_method(runs)}))),
        "--seeds": str(max(run["seed"] for run in runs) + 1),
        "--out": "OUT",
        **({"--encoder": encoders[0]} if encoders else {}),
        **({"--base-weights": "random"} if "random" in bases else {}),
        **{option: "FILE" for key, option in needed.items() if any(run["own"].get(key) for run in runs)},
        "--budget": f"{shared['budget']:g}",
        "--max-steps": str(shared["max_steps"]),
        **({"--threads": str(shared["threads"])} if shared.get("threads", 1) != 1 else {}),
        "--views": str(shared["views"]),
        "--views-kind": shared["views_kind"],
        "--image-size": str(shared["image_size"]),
        "--labels": ",".join(f"{name}={value}" for name, value in shared["labels"].items()),
    }
    return "blosam compare " + " ".join(f"{key} {value}" for key, value in words.items())
