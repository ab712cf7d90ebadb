from __future__ import annotations

import copy

import pydicom
import pytest
from pydicom.uid import UID

from blosam.pacs.errors import ArchiveError
from blosam.pacs.identity import derived_uid, read_results, stamp


@pytest.fixture
def results(radiographs, segmenter, tmp_path):
    """SEG, SEG and SR for two images of one study: call it for new objects with new random UIDs."""
    images = radiographs(2, one_study=True)

    def make():
        return read_results(segmenter(images, tmp_path).files)

    make.images = [str(pydicom.dcmread(path).SOPInstanceUID) for path in images]
    return make


def uids(datasets):
    return [str(d.SOPInstanceUID) for d in datasets]


def test_uid_is_valid_and_depends_on_everything_but_the_order():
    uid = derived_uid("SEG", "b", ["1.2", "1.3"])
    assert UID(uid).is_valid
    assert len(uid) <= 64
    assert uid.startswith("2.25.")
    assert derived_uid("SEG", "b", ["1.3", "1.2", "1.2"]) == uid
    others = [("SR", "b", ["1.2", "1.3"], 0), ("SEG", "c", ["1.2", "1.3"], 0), ("SEG", "b", ["1.2"], 0)]
    others += [("SEG", "b", ["1.2", "1.3"], 1)]
    assert len({uid, *[derived_uid(*other) for other in others]}) == 5


def test_uid_is_the_same_in_every_version():
    """Results in archives were named by this: a change would store all of them again."""
    assert derived_uid("SEG instance", "0" * 64, ["1.2.3"]) == "2.25.3935144734880564744706518269730031534"


def test_stamped_twice_gives_the_same_uids(results):
    first, second = stamp(results(), results.images, "b", 0), stamp(results(), results.images, "b", 0)
    assert uids(first) == uids(second)
    assert [d.SeriesInstanceUID for d in first] == [d.SeriesInstanceUID for d in second]
    assert len({*uids(first)}) == 3
    assert len({d.SeriesInstanceUID for d in first}) == 3
    assert {*uids(stamp(results(), results.images, "b", 1))}.isdisjoint(uids(first))
    assert {*uids(stamp(results(), results.images, "c", 0))}.isdisjoint(uids(first))


def test_references_follow_and_sources_stay(results):
    one, two, report = stamp(results(), results.images, "b", 0)
    assert [d.Modality for d in (one, two, report)] == ["SEG", "SEG", "SR"]
    assert {i.ReferencedSOPInstanceUID for i in report.ReferencedInstanceSequence} == {
        *results.images,
        one.SOPInstanceUID,
        two.SOPInstanceUID,
    }
    for d in (one, two, report):
        assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
    assert {s.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID for s in (one, two)} == {*results.images}


def test_report_of_fewer_images_is_another_report(results):
    whole = stamp(results(), results.images, "b", 0)[-1]
    part = stamp(results(), results.images[:1], "b", 0)[-1]
    assert whole.SOPInstanceUID != part.SOPInstanceUID


def test_types_and_frames_are_told_apart(results):
    seg = results()[0]
    copies = [copy.deepcopy(seg) for _ in range(4)]
    for number, (result, kind) in enumerate(zip(copies, ("BINARY", "FRACTIONAL", "BINARY", "BINARY"), strict=True)):
        result.SOPInstanceUID, result.SegmentationType = f"1.2.{number}", kind
    copies[3].ReferencedInstanceSequence[0].ReferencedFrameNumber = 2
    names = uids(stamp(copies, results.images, "b", 0))
    assert len(set(names)) == 4


def test_result_that_is_no_dicom(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=r"x\.dcm is no DICOM"):
        read_results([tmp_path / "x.dcm"])
