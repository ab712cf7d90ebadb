from __future__ import annotations

import datetime
import logging

import pydicom
import pytest

from blosam.errors import BlosamError
from blosam.pacs.errors import AccessRefused
from blosam.pacs.selection import Selection
from blosam.pacs.watch import Outcome, Watch


@pytest.fixture
def watch(pipeline):
    """Watches of the small archive that do not wait between polls."""

    def make(state: str = "state", **options) -> Watch:
        selection = Selection(modalities=("DX",), everything=True)
        return Watch(pipeline(state=state), selection, 0.0, name=lambda uid: "S", sleep=lambda _: None, **options)

    return make


def test_waits_until_a_study_is_stable(small_archive, watch, radiographs):
    first, second = radiographs(2, one_study=True)
    small_archive.add(first)
    made = watch(stable_polls=2)
    made.run(2)
    small_archive.add(second)
    made.run(2)
    assert small_archive.kinds() == {"DX": 2}
    made.run(1)
    assert small_archive.kinds() == {"DX": 2, "SEG": 2, "SR": 1}


def test_finished_studies_cost_nothing_more(small_archive, watch, radiographs):
    small_archive.add(*radiographs(5))
    made = watch(stable_polls=0)
    made.run(1)
    assert small_archive.kinds() == {"DX": 5, "SEG": 5, "SR": 5}
    small_archive.requests.clear()
    made.run(4)
    assert {path.partition("?")[0] for _, path in small_archive.requests} == {"/dicom-web/studies"}
    assert small_archive.kinds() == {"DX": 5, "SEG": 5, "SR": 5}


def test_new_image_wakes_a_finished_study(small_archive, watch, segmenter, radiographs):
    first, second = radiographs(2, one_study=True)
    small_archive.add(first)
    made = watch(stable_polls=0)
    made.run(2)
    small_archive.add(second)
    made.run(2)
    assert [len(batch) for batch in segmenter.batches] == [1, 1]


def test_restart_goes_on_where_it_stopped(small_archive, watch, segmenter, radiographs):
    small_archive.add(*radiographs(3))
    watch(stable_polls=2).run(2)
    watch(stable_polls=2).run(1)
    assert small_archive.kinds() == {"DX": 3, "SEG": 3, "SR": 3}
    watch(stable_polls=2).run(4)
    assert len(segmenter.batches) == 3


def test_failing_study_is_tried_a_few_times_and_blocks_nobody(small_archive, watch, segmenter, radiographs, caplog):
    paths = radiographs(3)
    small_archive.add(*paths)
    bad = str(pydicom.dcmread(paths[1]).SOPInstanceUID)
    segmenter.trouble = {bad: BlosamError("image 1: truncated")}
    made = watch(stable_polls=0, attempts=3)
    with caplog.at_level(logging.INFO, "blosam"):
        made.run(8)
    assert segmenter.batches.count([bad]) == 3
    assert small_archive.kinds() == {"DX": 3, "SEG": 2, "SR": 2}
    assert sum("attempt" in record.getMessage() for record in caplog.records) == 3
    assert "study S: image 1: truncated; given up after 3 attempts" in caplog.text
    watch(stable_polls=0, attempts=3).run(2)
    assert segmenter.batches.count([bad]) == 3


def test_image_that_fails_is_tried_again_without_its_neighbours(small_archive, watch, segmenter, radiographs):
    paths = radiographs(2, one_study=True)
    small_archive.add(*paths)
    bad = str(pydicom.dcmread(paths[1]).SOPInstanceUID)
    segmenter.trouble = {bad: "failed"}
    made = watch(stable_polls=0, attempts=2)
    made.run(5)
    assert [len(batch) for batch in segmenter.batches] == [2, 1]


def test_study_that_brings_the_process_down_is_left_alone_after_some_restarts(
    small_archive, watch, segmenter, radiographs
):
    class OutOfMemory(MemoryError):
        pass

    paths = radiographs(2)
    small_archive.add(*paths)
    bad = min(str(pydicom.dcmread(path).SOPInstanceUID) for path in paths)
    segmenter.trouble = {bad: OutOfMemory()}
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            watch(stable_polls=0, attempts=2).run(1)
    watch(stable_polls=0, attempts=2).run(1)
    assert small_archive.kinds() == {"DX": 2, "SEG": 1, "SR": 1}


def test_interrupting_does_not_count_as_an_attempt(small_archive, watch, segmenter, radiographs):
    (path,) = radiographs(1)
    small_archive.add(path)
    name = str(pydicom.dcmread(path).SOPInstanceUID)
    segmenter.trouble = {name: KeyboardInterrupt()}
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            watch(stable_polls=0, attempts=2).run(1)
    segmenter.trouble = {}
    watch(stable_polls=0, attempts=2).run(1)
    assert small_archive.kinds() == {"DX": 1, "SEG": 1, "SR": 1}


def test_server_that_goes_and_comes_back(small_archive, watch, segmenter, radiographs, fault, caplog):
    small_archive.add(*radiographs(2))
    made = watch(stable_polls=0)
    small_archive.faults = [fault("GET", close=True, times=3)]
    with caplog.at_level(logging.INFO, "blosam"):
        made.run(5)
    assert small_archive.kinds() == {"DX": 2, "SEG": 2, "SR": 2}
    assert sum("Going on polling" in record.getMessage() for record in caplog.records) == 1
    assert "answers again" in caplog.text


def test_server_going_down_within_a_poll_is_not_the_studies_fault(small_archive, watch, radiographs, fault):
    small_archive.add(*radiographs(3))
    made = watch(stable_polls=0, attempts=1)
    small_archive.faults = [
        fault("GET", part="/studies/", close=True, times=1),
        fault("GET", part="limit=1&", close=True),
    ]
    small_archive.faults[1].part = "limit=1"
    made.run(3)
    assert small_archive.kinds() == {"DX": 3, "SEG": 3, "SR": 3}


def test_refused_access_ends_the_first_poll_but_not_later_ones(small_archive, watch, radiographs, fault, caplog):
    small_archive.faults = [fault("GET", status=401)]
    with pytest.raises(AccessRefused):
        watch().run(1)
    small_archive.add(*radiographs(1))
    made = watch(stable_polls=2)
    small_archive.faults = [fault("GET", part="limit=200&offset=7", status=401)]
    polls = iter(range(9))

    def expire(_):
        if next(polls) == 0:
            small_archive.faults = [fault("GET", status=401)]

    made.sleep = expire
    made.run(5)
    assert "HTTP 401" in caplog.text
    assert small_archive.kinds() == {"DX": 1, "SEG": 1, "SR": 1}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "which studies"),
        ({"studies": ("1.2.x",)}, "--study"),
        ({"studies": ("1" * 65,)}, "--study"),
        ({"date": "2026"}, "--date"),
        ({"since": "yesterday"}, "--since"),
        ({"date": "20260101", "since": "7d"}, "one of them"),
        ({"accession": "A*"}, "--accession"),
    ],
)
def test_selections_that_cannot_be(options, word):
    with pytest.raises(BlosamError, match=word):
        Selection(**options).check()


def test_filters():
    today = datetime.date(2026, 3, 2)
    assert Selection(everything=True).filters() == [{}]
    assert Selection(since="2d").filters(today) == [{"StudyDate": "20260228-"}]
    assert Selection(since="20260101").filters(today) == [{"StudyDate": "20260101-"}]
    assert Selection(date="-20260101", accession="A 1").filters() == [
        {"StudyDate": "-20260101", "AccessionNumber": "A 1"}
    ]
    assert Selection(studies=("1.2", "1.3")).filters() == [{"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "1.3"}]
    for options in ({"date": "20260101-20260131"}, {"since": "7d"}, {"studies": ("1.2",)}, {"everything": True}):
        Selection(**options).check()


def test_named_studies_and_limit(small_archive, pipeline, radiographs):
    paths = radiographs(4)
    small_archive.add(*paths)
    archive = pipeline().archive
    wanted = tuple(str(pydicom.dcmread(path).StudyInstanceUID) for path in paths[1:3])
    assert {study.uid for study in Selection(studies=wanted).find(archive)} == {*wanted}
    assert len(Selection(everything=True, limit=3).find(archive)) == 3
    assert len(Selection(everything=True, modalities=("CR", "DX")).find(archive)) == 4


def test_outcome_without_images_is_no_failure(small_archive, pipeline, radiographs):
    small_archive.add(*radiographs(1))
    made = pipeline()
    (study,) = made.archive.studies({})
    made.modalities = ("CR",)
    outcome = Outcome(study, made.process(study))
    assert not outcome.failed
    assert outcome.text() == "no image of this kind"
