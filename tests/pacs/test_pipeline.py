from __future__ import annotations

import pydicom
import pytest

from blosam.errors import BlosamError
from blosam.pacs.client import Study
from blosam.pacs.errors import StoreRefused, Unreachable
from blosam.pacs.watch import attempt


def studies(pipeline):
    return sorted(pipeline.archive.studies({}, ["DX"]), key=lambda study: study.uid)


def only(pipeline) -> Study:
    (study,) = studies(pipeline)
    return study


def test_images_in_results_out(small_archive, pipeline, segmenter, radiographs, tmp_path):
    small_archive.add(*radiographs(2, one_study=True))
    one = pipeline(keep=tmp_path / "kept")
    report = one.process(only(one))
    assert (report.images, report.known, report.stored, report.present) == (2, 0, 3, 0)
    assert small_archive.kinds() == {"DX": 2, "SEG": 2, "SR": 1}
    assert list(one.work.iterdir()) == []
    kept = {path.name: pydicom.dcmread(path) for path in (tmp_path / "kept").rglob("*.dcm")}
    assert {str(d.SOPInstanceUID) for d in kept.values()} <= {*small_archive.files}
    assert len(kept) == 3
    assert not any(str(d.SOPInstanceUID) in name or "." in name.removesuffix(".dcm") for name, d in kept.items())


def test_twice_stores_once_and_retrieves_once(small_archive, pipeline, segmenter, radiographs):
    small_archive.add(*radiographs(2, one_study=True))
    first = pipeline()
    first.process(only(first))
    retrieved = small_archive.asked("GET", "/instances/")
    second = pipeline()
    report = second.process(only(second))
    assert (report.images, report.known, report.stored) == (2, 2, 0)
    assert small_archive.asked("GET", "/instances/") == retrieved
    assert len(segmenter.batches) == 1


def test_lost_journal_does_not_store_again(small_archive, pipeline, radiographs):
    small_archive.add(*radiographs(2, one_study=True))
    first = pipeline()
    first.process(only(first))
    stored = set(small_archive.files)
    other = pipeline(state="another machine")
    report = other.process(only(other))
    assert (report.stored, report.present) == (0, 3)
    assert small_archive.asked("POST") == 3
    assert set(small_archive.files) == stored


def test_other_weights_are_other_results(small_archive, pipeline, radiographs):
    small_archive.add(*radiographs(1))
    for bundle in ("b" * 64, "c" * 64):
        made = pipeline(bundle=bundle)
        made.process(only(made))
    assert small_archive.kinds() == {"DX": 1, "SEG": 2, "SR": 2}


@pytest.mark.parametrize("state", ["state", "another machine"])
def test_again_stores_new_objects_every_time(small_archive, pipeline, radiographs, state):
    small_archive.add(*radiographs(1))
    first = pipeline()
    first.process(only(first))
    for number in (2, 3):
        made = pipeline(state=state, again=True)
        made.process(only(made))
        assert small_archive.kinds() == {"DX": 1, "SEG": number, "SR": number}
    made = pipeline()
    made.process(only(made))
    assert small_archive.kinds() == {"DX": 1, "SEG": 3, "SR": 3}


def test_new_images_of_a_finished_study(small_archive, pipeline, segmenter, radiographs):
    first, second = radiographs(2, one_study=True)
    small_archive.add(first)
    made = pipeline()
    made.process(only(made))
    small_archive.add(second)
    report = made.process(only(made))
    assert (report.images, report.known, report.stored) == (2, 1, 2)
    assert segmenter.batches[1] == [str(pydicom.dcmread(second).SOPInstanceUID)]
    assert small_archive.kinds() == {"DX": 2, "SEG": 2, "SR": 2}


@pytest.mark.parametrize("lands", [False, True], ids=["the last POST is lost", "only its answer is lost"])
@pytest.mark.parametrize("stored_before", [0, 1, 2])
def test_half_stored_study_is_completed(small_archive, pipeline, segmenter, radiographs, fault, lands, stored_before):
    first, second, late = radiographs(3, one_study=True)
    small_archive.add(first, second)
    made = pipeline()
    passing = fault("POST", after=True, times=stored_before)
    small_archive.faults = [passing, fault("POST", close=True, after=lands, times=99)]
    with pytest.raises(Unreachable):
        made.process(only(made))
    assert sum(small_archive.kinds().values()) == 2 + stored_before + lands
    small_archive.faults = []
    small_archive.add(late)  # must not end up in the report that was begun
    made = pipeline()
    report = made.process(only(made))
    assert report.present == stored_before + lands
    assert small_archive.kinds() == {"DX": 3, "SEG": 3, "SR": 2}
    assert sorted(len(batch) for batch in segmenter.batches) == [1, 2, 2]


@pytest.mark.parametrize("step", ["retrieve", "segment", "store", "finish"])
def test_killed_anywhere_and_run_again(small_archive, pipeline, segmenter, radiographs, monkeypatch, step):
    """KeyboardInterrupt stands for the end of the process: only what the journal and the archive hold survives."""
    small_archive.add(*radiographs(2, one_study=True))
    made = pipeline()
    owner = {"retrieve": made.archive, "segment": made, "store": made.archive, "finish": made.journal}[step]
    original, calls = getattr(owner, step), []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == (2 if step in ("retrieve", "store") else 1):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(owner, step, dies)
    with pytest.raises(KeyboardInterrupt):
        made.process(only(made))
    assert list(made.work.iterdir()) == []
    made = pipeline()
    made.process(only(made))
    assert small_archive.kinds() == {"DX": 2, "SEG": 2, "SR": 1}
    assert made.process(only(made)).known == 2


def test_refused_images_are_not_retrieved_again_but_failed_ones_are(small_archive, pipeline, segmenter, radiographs):
    paths = radiographs(3, one_study=True)
    names = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    small_archive.add(*paths)
    segmenter.trouble = {names[0]: "refused", names[1]: "failed"}
    made = pipeline()
    report = made.process(only(made))
    assert (report.refused, report.failed, report.stored) == (1, 1, 2)
    assert len(report.reasons) == 2
    segmenter.trouble = {}
    report = made.process(only(made))
    assert (report.known, report.stored) == (2, 2)
    assert segmenter.batches[1] == [names[1]]


def test_study_with_nothing_suitable_stores_nothing(small_archive, pipeline, segmenter, radiographs):
    (path,) = radiographs(1)
    small_archive.add(path)
    segmenter.trouble = {str(pydicom.dcmread(path).SOPInstanceUID): "refused"}
    made = pipeline()
    assert made.process(only(made)).refused == 1
    assert small_archive.asked("POST") == 0
    assert made.process(only(made)).known == 1


def test_refused_report_leaves_the_study_unfinished(small_archive, pipeline, radiographs):
    small_archive.add(*radiographs(1))
    small_archive.fails_to_store = {"SR": 0x0122}
    made = pipeline()
    with pytest.raises(StoreRefused, match="SR"):
        made.process(only(made))
    assert small_archive.kinds() == {"DX": 1, "SEG": 1}
    small_archive.fails_to_store = {}
    assert made.process(only(made)).present == 1
    assert small_archive.kinds() == {"DX": 1, "SEG": 1, "SR": 1}


def test_results_of_another_study_are_not_stored(small_archive, pipeline, radiographs, monkeypatch):
    small_archive.add(*radiographs(1))
    made = pipeline()
    segment = made.segment

    def foreign(files, out):
        outcome = segment(files, out)
        for path in outcome.files:
            dataset = pydicom.dcmread(path)
            dataset.StudyInstanceUID = "1.2.3"
            dataset.save_as(path, enforce_file_format=True)
        return outcome

    made.segment = foreign
    with pytest.raises(BlosamError, match="another study"):
        made.process(only(made))
    assert small_archive.asked("POST") == 0


def test_trouble_of_one_study_and_trouble_of_the_server(small_archive, pipeline, segmenter, radiographs, fault):
    small_archive.add(*radiographs(1))
    made = pipeline()
    study = only(made)
    small_archive.faults = [fault("GET", part="series/", close=True)]
    outcome = attempt(made, study)
    assert outcome.failed
    assert study.uid not in outcome.text()
    small_archive.faults = [fault("GET", close=True, times=9)]
    with pytest.raises(Unreachable):
        attempt(made, study)
    small_archive.faults = []
    assert not attempt(made, study).failed


def test_looking_changes_nothing(small_archive, pipeline, radiographs):
    small_archive.add(*radiographs(2, one_study=True))
    made = pipeline()
    batches, report = made.look(only(made))
    assert (len(batches), report.images, report.known) == (1, 2, 0)
    assert not any("/instances/" in path for _, path in small_archive.requests)
    assert made.journal.sources([image.uid for image in batches[0].images]) == {}
