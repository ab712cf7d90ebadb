from __future__ import annotations

import numpy as np
import pydicom
import pytest

from blosam.pacs.segmenter import BundleSegmenter
from blosam.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle)


def test_one_seg_per_image_and_one_report(predictor, radiographs, tmp_path):
    paths = radiographs(2, one_study=True)
    outcome = BundleSegmenter(predictor, "lung", ("seg", "seg-fractional", "sr"))(paths, tmp_path)
    assert (outcome.refused, outcome.failed) == ({}, {})
    results = [pydicom.dcmread(path) for path in outcome.files]
    assert [d.get("SegmentationType", d.Modality) for d in results] == ["BINARY", "FRACTIONAL"] * 2 + ["SR"]
    for path, seg in zip(paths, results[::2], strict=False):
        expected = predictor.predict(path).mask
        assert np.array_equal(seg.pixel_array.reshape(expected.shape), expected)


@pytest.mark.parametrize(("least", "marked"), [(None, False), (0.0, False), (1.0, True)])
def test_results_below_the_least_confidence_are_marked(bundle, radiographs, tmp_path, least, marked):
    judging = Predictor(bundle, confidence="none" if least is None else "views")
    outcome = BundleSegmenter(judging, "lung", min_confidence=least)(radiographs(1), tmp_path)
    for path in outcome.files:
        assert ("needs review" in pydicom.dcmread(path).SeriesDescription) is marked


def test_unsuitable_broken_and_multi_frame_images(predictor, radiographs, tmp_path):
    good, lateral, broken, film = radiographs(4, one_study=True)
    for path, key, value in ((lateral, "ViewPosition", "LL"), (film, "NumberOfFrames", 3)):
        dataset = pydicom.dcmread(path)
        setattr(dataset, key, value)
        dataset.save_as(path, enforce_file_format=True)
    dataset = pydicom.dcmread(broken)
    dataset.PixelData = dataset.PixelData[:1000]
    dataset.save_as(broken, enforce_file_format=True)
    outcome = BundleSegmenter(predictor, "lung")([good, lateral, broken, film], tmp_path)
    assert set(outcome.refused) == {lateral, film}
    assert set(outcome.failed) == {broken}
    assert len(outcome.files) == 2
    for reason in (*outcome.refused.values(), *outcome.failed.values()):
        assert reason.startswith("image ")
        assert str(tmp_path) not in reason
        assert "1.2.826" not in reason
    assert set(BundleSegmenter(predictor, "lung", force=True)([lateral], tmp_path).failed) == set()
