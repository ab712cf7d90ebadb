from __future__ import annotations

import pydicom
import pytest

from blosam.pacs import client
from blosam.pacs.access import Access
from blosam.pacs.client import Archive, Study
from blosam.pacs.errors import AccessRefused, ArchiveError, StoreRefused, Unreachable


@pytest.fixture
def archive(small_archive):
    return Archive(Access(small_archive.url, retries=0, read_timeout=5))


def uid_of(path):
    return str(pydicom.dcmread(path).SOPInstanceUID)


def result_for(path, segmenter):
    image = pydicom.dcmread(path)
    return segmenter.result(image, "SEG", [image])


@pytest.mark.parametrize("heeds_offset", [True, False])
def test_all_pages_are_read_and_the_search_ends(small_archive, archive, radiographs, heeds_offset):
    small_archive.add(*radiographs(7))
    small_archive.page, small_archive.heeds_offset = (3 if heeds_offset else 1000), heeds_offset
    assert len(archive.studies({}, ["DX"])) == 7
    assert len(small_archive.requests) == (4 if heeds_offset else 2)


def test_pages_of_the_size_we_ask_for(small_archive, archive, radiographs, monkeypatch):
    monkeypatch.setattr(client, "PAGE", 2)
    small_archive.add(*radiographs(5))
    assert len(archive.studies({})) == 5
    assert all("limit=2" in path for _, path in small_archive.requests)


def test_a_study_found_under_two_modalities_comes_once(small_archive, archive, radiographs, segmenter):
    paths = radiographs(2)
    small_archive.add(*paths)
    seg = result_for(paths[0], segmenter)
    small_archive.files[seg.SOPInstanceUID] = seg
    studies = archive.studies({}, ["DX", "SEG"])
    assert sorted(study.instances for study in studies) == [1, 2]


def test_images_of_other_modalities_and_results_are_left_out(small_archive, archive, radiographs, segmenter):
    paths = radiographs(3, one_study=True)
    small_archive.add(*paths)
    other = small_archive.files[uid_of(paths[0])]
    other.Modality = "CT"
    seg = result_for(paths[1], segmenter)
    small_archive.files[seg.SOPInstanceUID] = seg
    study = other.StudyInstanceUID
    assert {image.uid for image in archive.images(study, ["DX"])} == {uid_of(path) for path in paths[1:]}
    assert {image.uid for image in archive.images(study, ["DX", "SEG"])} == {uid_of(path) for path in paths[1:]}
    assert {image.uid for image in archive.images(study)} == {uid_of(path) for path in paths}


def test_instances_are_counted_where_the_archive_does_not_say(small_archive, archive, radiographs):
    small_archive.add(*radiographs(3, one_study=True))
    small_archive.lists_counts = False
    (study,) = archive.studies({})
    assert study.instances is None
    assert archive.count(study) == 3
    assert archive.count(Study(study.uid, 12)) == 12


def test_retrieved_file_is_the_stored_image(small_archive, archive, radiographs, tmp_path):
    (path,) = radiographs(1)
    small_archive.add(path)
    (image,) = archive.images(pydicom.dcmread(path).StudyInstanceUID)
    archive.retrieve(image, tmp_path / "image.dcm")
    copy, original = pydicom.dcmread(tmp_path / "image.dcm"), pydicom.dcmread(path)
    assert copy == original
    assert copy.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID


def test_another_image_than_asked_for_is_refused(small_archive, archive, radiographs, tmp_path):
    small_archive.add(*radiographs(2))
    first, second = small_archive.files.values()
    (image,) = archive.images(first.StudyInstanceUID)
    small_archive.files[first.SOPInstanceUID] = second
    with pytest.raises(ArchiveError, match="another identifier") as caught:
        archive.retrieve(image, tmp_path / "image.dcm")
    assert first.SOPInstanceUID not in str(caught.value)
    assert not (tmp_path / "image.dcm").exists()


@pytest.mark.parametrize(
    "answer", [b"<html>", b'{"a": 1}', b"[1]", b'[{"0020000D": {"Value": ["../../etc"]}}]', b"[{}]"]
)
def test_answers_of_another_form(small_archive, archive, fault, answer):
    small_archive.faults = [fault("GET", status=200, answer=answer)]
    with pytest.raises(ArchiveError):
        archive.studies({})


def test_not_found_asks_for_the_root(small_archive, archive, fault):
    small_archive.faults = [fault("GET", status=404, times=9)]
    with pytest.raises(ArchiveError, match="404. Is --url the DICOMweb root"):
        archive.studies({})


def test_store_and_find_again(small_archive, archive, radiographs, segmenter):
    (path,) = radiographs(1)
    seg = result_for(path, segmenter)
    assert not archive.holds(seg.SOPInstanceUID, seg.StudyInstanceUID)
    archive.store(seg)
    archive.store(seg)
    assert archive.holds(seg.SOPInstanceUID, seg.StudyInstanceUID)
    assert small_archive.kinds() == {"SEG": 1}


@pytest.mark.parametrize(("reason", "words"), [(0x0122, "0122: it does not take this kind"), (0xC000, "C000")])
def test_partial_failure_of_a_store_is_noticed(small_archive, archive, radiographs, segmenter, reason, words):
    (path,) = radiographs(1)
    small_archive.fails_to_store = {"SEG": reason}
    seg = result_for(path, segmenter)
    with pytest.raises(StoreRefused, match=f"did not store the SEG.*{words}") as caught:
        archive.store(seg)
    assert seg.SOPInstanceUID not in str(caught.value)


def test_failed_as_duplicate_counts_as_stored_only_when_it_is_there(small_archive, archive, radiographs, segmenter):
    (path,) = radiographs(1)
    seg = result_for(path, segmenter)
    small_archive.fails_to_store = {"SEG": 0x0111}
    with pytest.raises(StoreRefused):
        archive.store(seg)
    small_archive.files[seg.SOPInstanceUID] = seg
    archive.store(seg)


def test_empty_answer_to_a_store_is_verified(small_archive, archive, radiographs, segmenter, fault):
    (path,) = radiographs(1)
    seg = result_for(path, segmenter)
    small_archive.faults = [fault("POST", status=200)]
    with pytest.raises(StoreRefused, match="does not hold it"):
        archive.store(seg)
    small_archive.empty_store_answer = True
    archive.store(seg)
    assert small_archive.kinds() == {"SEG": 1}


def test_refused_store_request(small_archive, archive, radiographs, segmenter, fault):
    (path,) = radiographs(1)
    seg = result_for(path, segmenter)
    body = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [290]}}]}}'
    small_archive.faults = [fault("POST", status=409, answer=body), fault("POST", status=400, answer=b"<html>")]
    with pytest.raises(StoreRefused, match="0122"):
        archive.store(seg)
    with pytest.raises(StoreRefused, match="HTTP 400"):
        archive.store(seg)
    # Stored all the same: the archive says so, and nothing is lost.
    small_archive.files[seg.SOPInstanceUID] = seg
    small_archive.faults = [fault("POST", status=409)]
    archive.store(seg)


def test_access_and_connection_troubles_keep_their_kind(small_archive, archive, fault):
    small_archive.faults = [fault("GET", status=401)]
    with pytest.raises(AccessRefused):
        archive.studies({})
    small_archive.faults = [fault("GET", status=503)]
    with pytest.raises(Unreachable):
        archive.ask()
