"""``blosam prepare`` as a user types it, on every kind of label, compared with masks made independently."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from PIL import Image, ImageDraw

from blosam import cli
from blosam.data import load_split
from blosam.data.phantoms.write import write_dataset


@pytest.fixture
def prepare(monkeypatch, capfd):
    """Run ``blosam prepare``: (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["blosam", "prepare", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def grey(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def corner_mask(shape: tuple[int, int], number: int) -> np.ndarray:
    """An asymmetric mask: a flip, a shift or a transposition would show."""
    mask = np.zeros(shape, np.uint8)
    mask[2 : 9 + number, 3 : shape[1] // 2] = 1
    return mask


def pairs(folder: Path, count: int = 4, shape: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """``images/`` and ``masks/`` of PNG files; returns the masks."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    masks = []
    for number in range(count):
        mask = corner_mask(shape, number)
        Image.fromarray(grey(shape, number)).save(folder / "images" / f"case{number}_a.png")
        Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"case{number}_a.png")
        masks.append(mask)
    return masks


def written(out: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The list, and image name -> mask."""
    content = json.loads((out / "dataset.json").read_text())
    entries = [entry for part in ("training", "validation", "test") for entry in content[part]]
    return content, {Path(e["image"]).name: np.asarray(Image.open(out / e["label"])) for e in entries}


def test_folders_of_images_and_masks_become_a_data_set_that_trains(prepare, tmp_path):
    masks = pairs(tmp_path / "raw", 10)
    code, out, err = prepare(tmp_path / "raw", "--out", tmp_path / "out", "--classes", "lung")
    assert code == 0, err
    content, found = written(tmp_path / "out")
    assert content["labels"] == {"0": "background", "1": "lung"}
    assert len(content["training"]) == 8 and len(content["test"]) == 2
    for number, mask in enumerate(masks):
        assert np.array_equal(found[f"case{number}_a.png"], mask * 255)
    sheet = Image.open(tmp_path / "out" / "contact_sheet.png")
    assert min(sheet.size) > 200
    split = load_split(tmp_path / "out", 3, 0)
    assert len(split["training"]) == 3 and len(split["test"]) == 2
    assert all(Path(pair["image"]).is_file() for pair in split["training"])
    assert "training 8, validation 0, test 2" in out


def test_a_patient_never_stands_on_both_sides(prepare, tmp_path):
    pairs(tmp_path / "raw", 12)
    with (tmp_path / "raw" / "index.csv").open("w", newline="") as stream:
        rows = [(f"case{n}_a", f"MRN-77{n // 3}") for n in range(12)]
        csv.writer(stream).writerows([("name", "patient"), *rows])
    for seed in range(3):
        out = tmp_path / f"out{seed}"
        code, _, err = prepare(tmp_path / "raw", "--out", out, "--test", 0.25, "--validation", 0.25, "--seed", seed)
        assert code == 0, err
        content, _ = written(out)
        sides = {part: {e["patient"] for e in content[part]} for part in ("training", "validation", "test")}
        assert sides["training"].isdisjoint(sides["test"] | sides["validation"])
        assert sides["test"].isdisjoint(sides["validation"])
        assert [len(content[part]) for part in ("training", "validation", "test")] == [6, 3, 3]
        assert "MRN" not in (out / "dataset.json").read_text()


def test_patients_from_file_names_and_equal_images_stay_together(prepare, tmp_path, caplog):
    pairs(tmp_path / "raw", 6)
    shutil.copy(tmp_path / "raw" / "images" / "case0_a.png", tmp_path / "raw" / "images" / "case5_a.png")
    code, out, err = prepare(tmp_path / "raw", "--out", tmp_path / "out", "--patients", r"^(case\d)_")
    assert code == 0, err
    assert "patients: 5, from the file names" in out and "case0_a and case5_a are the same image" in caplog.text
    content, _ = written(tmp_path / "out")
    patients = {Path(e["image"]).name: e["patient"] for e in content["training"]}
    assert patients["case0_a.png"] == patients["case5_a.png"]
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "out2", "--patients", "^(patient)")
    assert code == 1 and "finds no patient in case0_a.png" in err


def test_mask_values_become_named_classes(prepare, tmp_path):
    pairs(tmp_path / "raw", 3)
    for number in range(3):
        values = np.zeros((40, 60), np.uint8)
        values[5:20, 2:9], values[5:20, 30:50] = 50, 100
        Image.fromarray(values).save(tmp_path / "raw" / "masks" / f"case{number}_a.png")
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "named", "--classes", "left=100,right=50")
    assert code == 0, err
    content, found = written(tmp_path / "named")
    assert content["labels"] == {"0": "background", "1": "left", "2": "right"}
    assert np.array_equal(found["case0_a.png"], np.select([values == 100, values == 50], [1, 2]))
    assert prepare(tmp_path / "raw", "--out", tmp_path / "unnamed")[0] == 0
    content, found = written(tmp_path / "unnamed")
    assert list(content["labels"].values()) == ["background", "class_50", "class_100"]
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "wrong", "--classes", "left=100")
    assert code == 1 and "case0_a.png: the mask has the value(s) 50, expected 0 and 100" in err
    assert not (tmp_path / "wrong" / "dataset.json").exists()


def test_masks_beside_their_images_and_images_without_a_mask(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(3):
        Image.fromarray(grey((40, 60), number)).save(raw / f"x{number}.jpg")
    for number in range(2):
        Image.fromarray(corner_mask((40, 60), number) * np.uint8(255)).save(raw / f"x{number}_mask.png")
    code, out, err = prepare(raw, "--out", tmp_path / "out")
    assert code == 0, err
    content, found = written(tmp_path / "out")
    assert set(found) == {"x0.jpg", "x1.jpg"} and content["unlabelled"] == ["../raw/x2.jpg"]
    assert "1 images without a label" in out
    assert np.array_equal(found["x1.jpg"], corner_mask((40, 60), 1) * 255)


def test_every_wrong_pair_is_named_and_nothing_is_written_unless_they_are_skipped(prepare, tmp_path):
    raw = tmp_path / "raw"
    pairs(raw, 8)
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(raw / "masks" / "case0_a.png")
    (raw / "images" / "case1_a.png").write_bytes(b"\x89PNG broken")
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:10, :, 0] = 255
    Image.fromarray(rgb).save(raw / "masks" / "case2_a.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(raw / "masks" / "lonely.png")
    Image.fromarray(np.full((40, 60), 9, np.uint8)).save(raw / "images" / "case3_a.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(raw / "masks" / "case4_a.png")
    code, _, err = prepare(raw, "--out", tmp_path / "out", "--classes", "lung")
    assert code == 1
    for text in (
        "masks/case0_a.png: the mask is 50 x 40 pixels, but its image is 60 x 40",
        "images/case1_a.png: the image cannot be read",
        "masks/case2_a.png: the mask is in colour",
        "masks/lonely.png: there is no image of this name",
        "images/case3_a.png: every pixel has the value 9",
        "5 problem(s) found, nothing was written",
    ):
        assert text in err, text
    assert list((tmp_path / "out").iterdir()) == []
    code, out, err = prepare(raw, "--out", tmp_path / "out", "--classes", "lung", "--skip-bad")
    assert code == 0 and "left out: 5" in out and "warning: case4_a: the mask is empty" in err
    assert len(written(tmp_path / "out")[1]) == 4
    assert len((tmp_path / "out" / "problems.csv").read_text().splitlines()) == 6
    code, _, err = prepare(raw, "--out", tmp_path / "out", "--skip-bad")
    assert code == 1 and "holds a dataset.json already" in err


def test_nifti_labels_are_checked_for_their_place(prepare, tmp_path):
    raw = tmp_path / "raw"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    affine = np.diag([-0.4, -0.4, 1, 1])
    for number in range(3):
        mask = corner_mask((40, 60), number)
        image = grey((40, 60), number).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image.T[..., None], affine), raw / "imagesTr" / f"c{number}_0000.nii.gz")
        moved = affine if number < 2 else np.diag([0.4, -0.4, 1, 1])
        nibabel.save(nibabel.Nifti1Image(mask.T[..., None], moved), raw / "labelsTr" / f"c{number}.nii.gz")
    code, _, err = prepare(raw, "--out", tmp_path / "out", "--skip-bad")
    assert code == 0 and "c2.nii.gz: the mask lies elsewhere in space" in err
    _, found = written(tmp_path / "out")
    assert np.array_equal(found["c1_0000.nii.gz"], corner_mask((40, 60), 1) * 255)


def test_nifti_masks_of_dicom_images_are_checked_for_their_place(prepare, tmp_path):
    """dcm2niix and others turn rows round; only the affine tells."""
    raw = tmp_path / "raw"
    items = write_dataset("chest", raw, 3, seed=4, size=64, image_format="dicom")
    for number, item in enumerate(items):
        source = pydicom.dcmread(item["image"])
        source.ImageOrientationPatient, source.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [10, 20, 30]
        source.PixelSpacing = [0.5, 0.25]  # between rows, between columns
        source.save_as(item["image"])
        truth = np.asarray(Image.open(item["label"]))
        Path(item["label"]).unlink()
        affine = np.diag([-0.25, -0.5, 3, 1])
        affine[:3, 3] = -10, -20, 30
        if number == 2:
            truth, affine[1, 1], affine[1, 3] = truth[::-1], 0.5, -20 - 0.5 * (len(truth) - 1)
        nibabel.save(nibabel.Nifti1Image(truth.T[..., None], affine), Path(item["label"]).with_suffix(".nii.gz"))
    code, _, err = prepare(raw, "--out", tmp_path / "out", "--skip-bad", "--patients", "(.+)")
    assert code == 0 and err.count("the mask lies elsewhere in space than its image") == 1, err
    assert len(written(tmp_path / "out")[1]) == 2


def test_masks_that_cannot_be_meant_are_refused(prepare, tmp_path):
    pairs(tmp_path / "raw", 5)
    masks = tmp_path / "raw" / "masks"
    undecided = np.zeros((60, 40), np.float32)
    undecided[3, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(undecided, np.eye(4)), masks / "case0_a.nii.gz")
    two = np.zeros((40, 60), np.uint8)
    two[5:20, 5:20], two[22:38, 22:50] = 100, 255
    Image.fromarray(two).save(masks / "case1_a.jpg", quality=90)
    Image.fromarray(two // 100).save(masks / "case2_a.jpg", quality=90)
    fine = np.where(two == 255, 255, 0).astype(np.uint8)
    Image.fromarray(fine).save(masks / "case3_a.jpg", quality=30)
    for number in range(4):
        (masks / f"case{number}_a.png").unlink()
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "out", "--skip-bad", "--classes", "lung")
    assert code == 0 and "Traceback" not in err, err
    assert "case0_a.nii.gz: the mask holds NaN" in err
    for number in (1, 2):
        assert f"case{number}_a.jpg: the mask has grey areas" in err
    _, found = written(tmp_path / "out")
    assert set(found) == {"case3_a.png", "case4_a.png"} and np.array_equal(found["case3_a.png"], fine)


def coco_file(raw: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Polygons and run lengths of two categories on three images, and what they must become."""
    (raw / "images").mkdir(parents=True)
    annotations, masks = [], {}
    for number in range(3):
        Image.fromarray(grey((40, 60), number)).save(raw / "images" / f"i{number}.png")
        expected = np.zeros((40, 60), np.uint8)
        expected[10:20, 4:12] = 1
        expected[15:30, 8:40] = 2
        box = [4, 10, 12, 10, 12, 20, 4, 20]
        annotations.append({"id": 10 * number + 1, "image_id": number, "category_id": 3, "segmentation": [box]})
        other = np.zeros((40, 60), np.uint8)
        other[15:30, 8:40] = 1
        flat = other.T.ravel()  # COCO's run lengths go down the columns
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *changes, flat.size]).tolist()
        run_lengths = {"size": [40, 60], "counts": counts}
        annotations.append({"id": 10 * number + 2, "image_id": number, "category_id": 7, "segmentation": run_lengths})
        masks[f"i{number}.png"] = expected
    content = {
        "images": [{"id": n, "file_name": f"i{n}.png", "height": 40, "width": 60} for n in range(3)],
        "categories": [{"id": 7, "name": "molar"}, {"id": 3, "name": "incisor"}],
        "annotations": annotations,
    }
    path = raw / "annotations" / "instances.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path, masks


def test_coco_polygons_and_run_lengths(prepare, tmp_path):
    path, masks = coco_file(tmp_path / "raw")
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "out")
    assert code == 0, err
    content, found = written(tmp_path / "out")
    assert list(content["labels"].values()) == ["background", "incisor", "molar"]
    for name, mask in masks.items():
        assert np.array_equal(found[name], mask)
    assert prepare(path, "--out", tmp_path / "one", "--classes", "molar")[0] == 0
    _, found = written(tmp_path / "one")
    assert np.array_equal(found["i0.png"] == 255, masks["i0.png"] == 2)
    content = json.loads(path.read_text())
    content["images"][0]["width"] = 61
    content["annotations"][2]["segmentation"] = []
    path.write_text(json.dumps(content))
    code, _, err = prepare(path, "--out", tmp_path / "bad")
    assert code == 1 and "i0.png is 61 x 40 pixels" in err and "an annotation of i1.png is only a box" in err


def test_labelme_shapes_match_an_independent_rasteriser(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    star = [[5, 5], [50, 9], [41, 31], [20, 35], [25, 18]]
    small = np.zeros((6, 9), np.uint8)
    small[1:, 2:] = 255
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "PNG")
    stamp = base64.b64encode(buffer.getvalue()).decode()
    for number in range(2):
        Image.fromarray(grey((40, 60), number)).save(raw / f"i{number}.png")
        shapes = [
            {"label": "polyp", "points": star, "shape_type": "polygon"},
            {"label": "tool", "points": [[44, 2], [58, 12]], "shape_type": "rectangle"},
            {"label": "tool", "points": [[1, 30], [10, 36]], "shape_type": "mask", "mask": stamp},
        ]
        content = {"imagePath": f"i{number}.png", "imageHeight": 40, "imageWidth": 60, "shapes": shapes}
        (raw / f"i{number}.json").write_text(json.dumps(content))
    Image.fromarray(grey((40, 60), 5)).save(raw / "later.png")
    code, out, err = prepare(raw, "--out", tmp_path / "out")
    assert code == 0, err
    content, found = written(tmp_path / "out")
    assert list(content["labels"].values()) == ["background", "polyp", "tool"]
    assert len(content["unlabelled"]) == 1
    mask = found["i0.png"]
    canvas = Image.new("L", (600, 400))
    ImageDraw.Draw(canvas).polygon([(10 * x, 10 * y) for x, y in star], fill=1)
    expected = np.asarray(canvas)[5::10, 5::10]  # the middle of each pixel
    differing = (mask == 1) != (expected == 1) & (mask != 2)
    assert differing.sum() <= 12  # pixels cut by the outline may fall on either side
    assert (mask[2:12, 44:58] == 2).all()
    assert np.array_equal(mask[30:36, 1:10] == 2, small > 0)
    bad = json.loads((raw / "i1.json").read_text())
    bad["shapes"][0]["shape_type"] = "linestrip"
    (raw / "i1.json").write_text(json.dumps(bad))
    code, _, err = prepare(raw, "--out", tmp_path / "bad")
    assert code == 1 and "i1.json: the linestrip 'polyp' with 5 points encloses no area" in err


def test_dicom_images_with_dicom_seg(prepare, tmp_path):
    raw = tmp_path / "raw"
    items = write_dataset("chest", raw, 3, seed=4, size=64, image_format="dicom")
    truths = {}
    for number, item in enumerate(items):
        source = pydicom.dcmread(item["image"])
        source.PatientID = f"SECRET{number}"
        source.save_as(item["image"])
        truth = np.asarray(Image.open(item["label"])) > 0
        truths[Path(item["image"]).name] = truth
        if number < 2:
            (raw / "seg").mkdir(exist_ok=True)
            segmentation(source, truth).save_as(raw / "seg" / f"s{number}.dcm")
    shutil.rmtree(raw / "masks")
    (raw / "index.csv").unlink()
    code, out, err = prepare(raw, "--out", tmp_path / "out", "--copy")
    assert code == 0, err
    content, found = written(tmp_path / "out")
    assert list(content["labels"].values()) == ["background", "lung"] and len(content["unlabelled"]) == 1
    assert len(found) == 2 and all(name.startswith("image_000") for name in found)
    assert sorted(m.sum() // 255 for m in found.values()) == sorted(
        truths[Path(i["image"]).name].sum() for i in items[:2]
    )
    assert np.array_equal(next(iter(found.values())) > 0, truths[Path(items[0]["image"]).name])
    assert "patients: 2, from PatientID" in out
    assert "SECRET" not in out + err + (tmp_path / "out" / "dataset.json").read_text()


def segmentation(source: pydicom.Dataset, mask: np.ndarray) -> highdicom.seg.Segmentation:
    lung = CodedConcept("39607008", "SCT", "Lung")
    organ = CodedConcept("123037004", "SCT", "Anatomical Structure")
    description = highdicom.seg.SegmentDescription(1, "lung", organ, lung, "MANUAL")
    for keyword in ("StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        if keyword not in source:
            setattr(source, keyword, "")
    return highdicom.seg.Segmentation(
        [source], mask[None].astype(np.uint8), "BINARY", [description], highdicom.UID(), 1, highdicom.UID(), 1,
        "maker", "model", "1", "serial",
    )  # fmt: skip


def test_sources_without_labels_say_what_is_expected(prepare, tmp_path):
    (tmp_path / "raw").mkdir()
    Image.fromarray(grey((40, 60), 0)).save(tmp_path / "raw" / "a.png")
    code, _, err = prepare(tmp_path / "raw", "--out", tmp_path / "out")
    assert code == 1 and "no labels found" in err and "NAME_mask" in err
    code, _, err = prepare(tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 1 and "there is no such folder" in err
    pairs(tmp_path / "few", 2)
    code, _, err = prepare(tmp_path / "few", "--out", tmp_path / "out", "--test", 0.5)
    assert code == 1 and "two are needed" in err
    assert not (tmp_path / "out" / "dataset.json").exists()
