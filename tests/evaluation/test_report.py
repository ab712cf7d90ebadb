"""The report: valid HTML that holds its numbers, fetches nothing, and is safe with hostile names."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blosam.errors import BlosamError
from blosam.evaluation import sections
from blosam.evaluation.metrics import image_metrics
from blosam.evaluation.report import render_report, write_report
from blosam.evaluation.report_data import (
    Case,
    Curves,
    Headline,
    ReportData,
    Table,
    TrainingImage,
    duration,
    metric_headlines,
)
from blosam.evaluation.table import summarise

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """Reads a page strictly: every element that is opened is closed, in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def visible(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def usual_tags(complete_report: ReportData) -> set[str]:
    return set(Page(render_report(complete_report)).tags)


@pytest.fixture(scope="module")
def page(complete_report: ReportData) -> Page:
    return Page(render_report(complete_report))


def test_numbers_of_the_report_are_on_the_page(page: Page, complete_report: ReportData) -> None:
    total = summarise(complete_report.rows)["all"]
    for number in (f"{total['dice']['mean']:.3f}", f"{total['hd95']['mm']['mean']:.1f}", "0.897", "41 s"):
        assert number in page.visible
    for row in complete_report.rows:
        assert row["image"] in page.visible and f"{row['dice']:.3f}" in page.visible
    for word in ("D1", "D2", "blosam demo --seed 0", "2.13.0", "Phantoms are synthetic", "Not for clinical use", "DX"):
        assert word in page.visible
    for title in ("What was done", "Training data: 4 labelled images", "Beside a U-Net", "Best", "Median", "Worst"):
        assert title in page.visible
    assert page.tags.count("svg") == 5


def test_nothing_is_fetched_and_nothing_is_run(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "a", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"{tag} {name}"
        if name in ("src", "href", "srcset", "data", "poster", "xlink:href"):
            assert value.startswith(("data:image/", "#")), value[:60]
        assert "http" not in value.lower() or name == "http-equiv", (tag, name, value[:60])


def test_style_fetches_nothing(complete_report: ReportData) -> None:
    style = re.search(r"<style>(.*?)</style>", render_report(complete_report), re.DOTALL)
    assert style is not None
    assert "http" not in style[1] and "@import" not in style[1] and "url(" not in style[1]
    assert "prefers-color-scheme: dark" in style[1] and "@media print" in style[1] and "max-width" in style[1]


def test_pictures_are_whole_and_described(page: Page) -> None:
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(sources) == 4 * 2 + 3 + 6 + 2
    for source in sources:
        kind, _, content = source.partition(";base64,")
        assert kind == "data:image/jpeg"
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
            assert min(picture.size) >= 64
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))


HOSTILE = [
    '<script>alert("x")</script>.png',
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "a' onmouseover='alert(1)",
    "</style></svg><svg onload=alert(1)>",
    "&lt;b&gt; ${x} {{y}} %s \\1 $z^{2}$",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text(complete_report: ReportData, usual_tags: set[str], name: str) -> None:
    image, mask = np.zeros((64, 64)), np.ones((64, 64), int)
    rows = [{"image": name, **row, "class": name} for row in image_metrics(mask, mask, [1])]
    report = dataclasses.replace(
        complete_report,
        title=name,
        curves=None,
        lead=name,
        headlines=[Headline(name, name, name)],
        steps=[name],
        training=[TrainingImage(name, image, mask, name)],
        rows=[*rows, *complete_report.rows],
        cases=[Case(name, image, mask, mask)],
        class_names={1: name, 2: name},
        tables=[Table(name, [name], [[name]], name)],
        dicom=Case(name, image, None, mask),
        dicom_facts={name: name},
        facts={name: {name: name}},
        command=name,
        caveats=[name],
    )
    read = Page(render_report(report))
    assert set(read.tags) <= usual_tags
    assert "script" not in read.tags and not any(attr.startswith("on") for _, attr, _ in read.attributes)
    assert sum(1 for tag, attr, value in read.attributes if attr in ("src", "href") and "evil" in value) == 0
    assert read.visible.count(re.sub(r"\s+", " ", name)) >= 15


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("blosam train /home/me/My/data --seed 1", "blosam train …/data --seed 1"),
        ("--out=/srv/x/y/", "--out=…/"),
        ("~/secret/file.dcm", "…/file.dcm"),
        (r"C:\Users\Jo\scan.dcm", "…/scan.dcm"),
        ("bundles/blosam_lung and/or 1/2", "bundles/blosam_lung and/or 1/2"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("'/data/in/a.png'", "&#x27;…/a.png&#x27;"),
    ],
)
def test_folders_of_the_machine_are_left_out(given: str, shown: str) -> None:
    assert sections.text(given) == shown


def test_missing_parts_leave_their_sections_out() -> None:
    read = Page(render_report(ReportData(title="Only a title", caveats=())))
    assert "section" not in read.tags and "Only a title" in read.visible
    image, mask = np.zeros((8, 8)), np.zeros((8, 8), int)
    parts = [
        ({"steps": ["one"]}, "What was done"),
        ({"training": [TrainingImage("a", image, mask)]}, "Training data: 1 labelled image "),
        ({"curves": Curves([0], [0.5])}, "Training"),
        ({"rows": [{"image": "a", **image_metrics(mask, mask, [1])[0], "class": "x"}]}, "Every image"),
        ({"cases": [Case("a", image, None, mask)]}, "Predictions"),
        ({"command": "blosam evaluate"}, "How to get the same numbers"),
        ({"dicom": Case("a", image, None, mask)}, "A DICOM image, segmented"),
        ({"facts": {"Versions": {"a": "1"}}}, "How to get the same numbers"),
        ({"tables": [Table("T1", ["a"], [])]}, "T1"),
    ]
    for options, title in parts:
        read = Page(render_report(ReportData(title="t", caveats=(), **options)))
        assert read.tags.count("section") == 1 and title in read.visible + " "


def test_best_median_and_worst_are_chosen_by_dice(complete_report: ReportData) -> None:
    image = np.zeros((16, 16))
    dice = {"e": 0.5, "a": 0.9, "c": 0.7, "b": 0.8, "d": 0.6}
    rows = [
        {"image": name, "class": "x", "dice": value, "hd95": 1.0, "surface_dice": 1.0, "unit": "pixels"}
        for name, value in dice.items()
    ]
    cases = [Case(name, image, image.astype(int), image.astype(int)) for name in (*dice, "unmeasured")]
    visible = Page(render_report(ReportData("t", rows=rows, cases=cases, caveats=()))).visible
    assert re.search(r"Best a Dice 0\.900 HD95 1\.0 px Median c Dice 0\.700 .* Worst e Dice 0\.500", visible)
    limited = Page(render_report(ReportData("t", rows=rows, cases=cases, caveats=(), grid_limit=2))).visible
    assert "The first 2 of 6 images" in limited


def test_mixed_units_are_never_averaged() -> None:
    rows = [
        {"image": "a", "class": "x", "dice": 0.5, "hd95": 4.0, "surface_dice": 1.0, "unit": "mm"},
        {"image": "b", "class": "x", "dice": 0.7, "hd95": 10.0, "surface_dice": 0.5, "unit": "pixels"},
    ]
    visible = Page(render_report(ReportData("t", rows=rows, caveats=()))).visible
    assert "4.0 mm" in visible and "10.0 pixels" in visible and "0.600 ± 0.141" in visible and "7.0" not in visible
    values = [h.value for h in metric_headlines(summarise(rows))]
    assert values[1:] == ["4.0 ± 0.0 mm", "1.00 ± 0.00", "10.0 ± 0.0 px", "0.50 ± 0.00"]


def test_headlines() -> None:
    rows = [{"image": "a", "class": "x", "dice": 0.9, "hd95": 3.0, "surface_dice": 0.5, "unit": "pixels"}]
    found = {h.label: h for h in metric_headlines(summarise(rows), 61.2, ("U-Net", 0.95, 0.01))}
    assert found["Held-out Dice"].value == "0.900 ± 0.000" and found["Held-out Dice"].main
    assert found["U-Net Dice"].note.endswith("−0.050") and found["Training time"].value == "1 min 1 s"
    assert found["HD95"].value.endswith("px")
    assert metric_headlines(summarise([])) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_writing_is_complete_or_not_at_all(tmp_path: Path, complete_report: ReportData) -> None:
    report = dataclasses.replace(complete_report, curves=None)
    path = write_report(tmp_path / "new" / "report.html", report)
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!DOCTYPE html>") and before.endswith("</html>\n")
    assert str(tmp_path) not in before and len(before) < 3_000_000
    wrong = Case("a", np.zeros((4, 4)), None, np.zeros((5, 4), int))
    with pytest.raises(BlosamError, match="does not fit"):
        write_report(path, dataclasses.replace(report, cases=[wrong]))
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_same_report_gives_the_same_file(complete_report: ReportData) -> None:
    report = dataclasses.replace(complete_report, cases=(), training=())
    assert render_report(report) == render_report(report)
