"""Which files of folders, media and studies are segmented, and how they are shared among processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from blosam.data.phantoms.write import write_dataset
from blosam.errors import BlosamError
from blosam.inference.inputs import Item, collect, share

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dicom")
    return [Path(i["image"]) for i in write_dataset("chest", folder, 3, seed=3, size=32, image_format="dicom")]


def _png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def _object(path: Path, sop_class: str) -> Path:
    """A DICOM object without an image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_folders_are_searched_and_each_file_comes_once(tmp_path):
    first, second = _png(tmp_path / "a" / "2.png"), _png(tmp_path / "a" / "b" / "1.png")
    _png(tmp_path / "a" / ".hidden" / "3.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "self").symlink_to(tmp_path / "a" / "b" / "self")
    (tmp_path / "a" / "again.png").symlink_to(second)
    items = collect([tmp_path / "a", first])
    assert [(item.position, item.path.resolve().name) for item in items] == [(1, "2.png"), (2, "1.png")]


def test_results_below_the_input_folder_are_not_segmented(tmp_path):
    _png(tmp_path / "1.png")
    _png(tmp_path / "masks" / "1.png")
    assert len(collect([tmp_path], leave_out=[tmp_path / "masks"])) == 1
    assert len(collect([tmp_path])) == 2


def test_a_data_set_gives_its_images_not_its_masks(tmp_path):
    _png(tmp_path / "images" / "1.png")
    _png(tmp_path / "masks" / "1.png")
    (item,) = collect([tmp_path])
    assert item.path.parent.name == "images"


def test_study_folder_with_several_series_and_objects_without_image(tmp_path, radiographs):
    study = generate_uid()
    for number, source in enumerate(radiographs):
        dataset = pydicom.dcmread(source)
        dataset.StudyInstanceUID = study
        (tmp_path / f"series{number}").mkdir()
        dataset.save_as(tmp_path / f"series{number}" / "IM000001")  # no extension, as on many media
    for name, sop_class in (("seg", SEGMENTATION), ("sr", REPORT), ("ps.dcm", PRESENTATION_STATE)):
        _object(tmp_path / name, sop_class)
    items = collect([tmp_path])
    images = [item for item in items if not item.ignored]
    assert len(images) == 3
    assert len({item.series for item in images}) == 3 and {item.study for item in images} == {study}
    assert all(item.kind == "dicom" and item.stem == "" for item in items)
    assert sorted(item.ignored for item in items if item.ignored) == [
        "a DICOM segmentation",
        "a presentation state",
        "a structured report",
    ]


def test_dicomdir(tmp_path, radiographs):
    medium = FileSet()
    for source in radiographs:
        medium.add(source)
    medium.write(tmp_path / "medium")
    listed = collect([tmp_path / "medium" / "DICOMDIR"])
    assert len(listed) == 3 and all(item.kind == "dicom" and not item.ignored for item in listed)
    folder = collect([tmp_path / "medium"])
    assert [item.path for item in folder if not item.ignored] == sorted(item.path for item in listed)
    assert [item.path.name for item in folder if item.ignored] == ["DICOMDIR"]
    for path in (tmp_path / "medium").rglob("IM*"):
        path.rename(path.with_name(path.name.lower()))
    assert not any(item.problem for item in collect([tmp_path / "medium" / "DICOMDIR"]))


def test_dicomdir_cannot_lead_out_of_its_folder(tmp_path, radiographs):
    medium = FileSet()
    medium.add(radiographs[0])
    medium.write(tmp_path / "medium")
    (tmp_path / "secret.dcm").write_bytes(radiographs[1].read_bytes())
    index = pydicom.dcmread(tmp_path / "medium" / "DICOMDIR")
    for record in index.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "secret.dcm"]
    index.save_as(tmp_path / "medium" / "DICOMDIR")
    (item,) = collect([tmp_path / "medium" / "DICOMDIR"])
    assert "not in its folder" in item.problem


def test_what_is_missing_is_an_input_of_its_own_and_nothing_at_all_an_error(tmp_path):
    good = _png(tmp_path / "1.png")
    missing, found = collect([tmp_path / "missing", good])
    assert "no such file" in missing.problem and not found.problem
    (tmp_path / "empty").mkdir()
    with pytest.raises(BlosamError, match="no image found"):
        collect([tmp_path / "empty"])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_hold_everything_once_and_whole_studies(world_size):
    rng = np.random.default_rng(0)
    items = [Item(Path(str(n)), position=n, study=f"1.2.{rng.integers(8)}" if n % 2 else "") for n in range(1, 101)]
    shares = [share(items, rank, world_size) for rank in range(world_size)]
    assert sorted(item.position for part in shares for item in part) == list(range(1, 101))
    for study in {item.study for item in items} - {""}:
        assert sum(any(item.study == study for item in part) for part in shares) == 1
    lengths = [len(part) for part in shares]
    assert max(lengths) - min(lengths) <= 14
    assert shares == [share(items, rank, world_size) for rank in range(world_size)]


def test_unreadable_file_and_folder(tmp_path):
    if os.geteuid() == 0:
        target = tmp_path / "gone.png"
        target.symlink_to(tmp_path / "nowhere")
        (item,) = collect([target])
        assert "no such file" in item.problem
        return
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    (item,) = collect([locked])
    assert "cannot be opened" in item.problem
