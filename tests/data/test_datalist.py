"""Lists of images: pairing, groups that never straddle the split, and clear errors (B4)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from monai.data import Dataset

from blosam.data import SelectionDataset, d1_d2_split, load_split
from blosam.data.datalist import file_stem
from blosam.data.fewshot import list_images
from blosam.errors import BlosamError


def stems(pairs) -> list[str]:
    """Names of the images of a list."""
    return [file_stem(pair["image"]) for pair in pairs]


def test_all_images_train_by_default_in_sorted_order(make_folder):
    folder = make_folder(["b", "a", "c10", "c9"])
    split = load_split(folder)
    assert stems(split["training"]) == ["a", "b", "c10", "c9"]
    assert split["validation"] == split["test"] == []
    for pair in split["training"]:
        assert Path(pair["image"]).is_absolute() and file_stem(pair["label"]) == file_stem(pair["image"])


def test_few_shots_are_drawn_by_seed_not_by_folder_order(make_folder):
    folder = make_folder([f"{n:02d}" for n in range(12)])
    drawn = {seed: tuple(stems(load_split(folder, 4, seed)["training"])) for seed in range(10)}
    assert len(set(drawn.values())) == 10
    assert drawn[3] == tuple(stems(load_split(str(folder), 4, 3)["training"]))
    split = load_split(folder, 4, 3)
    assert sorted(stems(split["training"] + split["test"])) == [f"{n:02d}" for n in range(12)]


@pytest.mark.parametrize("seed", range(8))
def test_a_patient_is_never_on_both_sides(make_folder, seed):
    names = [f"{n:02d}" for n in range(12)]
    patients = ["p1"] * 5 + ["p2"] * 3 + ["p3", "p4", "p5", "p5"]
    folder = make_folder(names, patients)
    of = dict(zip(names, patients, strict=True))
    split = load_split(folder, 4, seed)
    training = {of[name] for name in stems(split["training"])}
    test = {of[name] for name in stems(split["test"])}
    assert len(split["training"]) == 4 and not training & test
    assert training | test == set(patients)
    assert sorted(stems(split["test"])) == sorted(name for name in names if of[name] in test)  # all of theirs


def test_compressed_nifti_and_files_of_other_kinds(make_folder):
    folder = make_folder(["a", "b"])
    (folder / "masks" / "a.png").rename(folder / "masks" / "a.nii.gz")
    (folder / "images" / "notes.txt").write_text("x")
    (folder / "images" / ".DS_Store").write_text("x")
    (folder / "masks" / "unused.png").write_bytes((folder / "masks" / "b.png").read_bytes())
    assert stems(load_split(folder)["training"]) == ["a", "b"]
    assert file_stem("x/c.v2.nii.gz") == "c.v2" and file_stem("IM0001") == "IM0001"


def test_the_split_is_saved(make_folder, tmp_path):
    folder = make_folder(["a", "b", "c"])
    split = load_split(folder, 2, 5, save_to=tmp_path / "results")
    saved = json.loads((tmp_path / "results" / "split.json").read_text())
    assert saved == {"dataset_dir": str(folder), "num_shots": 2, "split_seed": 5, **split}


def test_folder_errors(make_folder, tmp_path):
    folder = make_folder(["a", "b", "c", "d", "e"])
    with pytest.raises(BlosamError, match="nowhere: there is no such folder"):
        load_split(tmp_path / "nowhere")
    with pytest.raises(BlosamError, match="num_shots is 6, but there are 5 .* 1 to 5"):
        load_split(folder, 6)
    with pytest.raises(BlosamError, match="num_shots is -1"):
        load_split(folder, -1)
    (folder / "images" / "a.jpg").write_bytes(b"")
    with pytest.raises(BlosamError, match="a.png: a.jpg has the same name"):
        load_split(folder)
    (folder / "images" / "a.jpg").unlink()
    for name in "abcd":
        (folder / "masks" / f"{name}.png").unlink()
    with pytest.raises(BlosamError, match=r"4 of 5 images have no mask of the same name \(a, b, c, \.\.\.\)"):
        load_split(folder)
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(BlosamError, match="images: there are no images"):
        load_split(folder)
    (folder / "images").rmdir()
    with pytest.raises(BlosamError, match="there is no folder images/"):
        load_split(folder)


def test_index_errors_and_forms(make_folder):
    folder = make_folder(["a", "b"], ["p", "q"])
    index = folder / "index.csv"
    index.write_text("\ufeffname,group\na.png,1\nb.png,2\n", encoding="utf-8")  # a mark and extensions are fine
    assert len(load_split(folder, 1)["test"]) == 1
    index.write_text("name,patient\na,1\n")
    with pytest.raises(BlosamError, match=r"index.csv: 1 images have no patient \(b\)"):
        load_split(folder, 1)
    index.write_text("name,patient\na,1\na,2\nb,1\n")
    with pytest.raises(BlosamError, match="a is in the groups 1 and 2"):
        load_split(folder, 1)
    index.write_text("file,patient\na,1\nb,1\n")
    with pytest.raises(BlosamError, match="no column name"):
        load_split(folder, 1)
    index.write_bytes(b"name,patient\n\xff\xfe\n")
    with pytest.raises(BlosamError, match="cannot be read"):
        load_split(folder, 1)
    index.write_text("name,width\na,20\n")  # no groups in it
    assert len(load_split(folder, 1)["test"]) == 1


def write_list(folder: Path, **parts) -> None:
    """A dataset.json of pairs given by stems."""

    def pair(name):
        return {"image": f"./images/{name}.png", "label": f"./masks/{name}.png"}

    content = {part: [pair(n) if len(n) == 1 else n for n in names] for part, names in parts.items()}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_dataset_json(make_folder):
    folder = make_folder(list("abcdef"))
    write_list(folder, training=list("abcd"), validation=["e"], test=["f", "./images/unlabelled.png"])
    split = load_split(folder)
    assert [stems(split[part]) for part in ("training", "validation", "test")] == [list("abcd"), ["e"], ["f"]]
    few = load_split(folder, 2, 1)
    assert len(few["training"]) == 2 and stems(few["test"]) == ["f"] and stems(few["validation"]) == ["e"]
    write_list(folder, training=list("abcdef"))
    rest = load_split(folder, 2, 1)
    assert sorted(stems(rest["training"] + rest["test"])) == list("abcdef")


@pytest.mark.parametrize(
    "content, match",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no list 'training'"),
        ('{"training": [{"image": "images/a.png"}]}', "has no 'label'"),
        (
            '{"training": [{"image": "images/z.png", "label": "masks/a.png"}]}',
            "image images/z.png of 'training'",
        ),
        ('{"training": ["images/a.png"]}', "not an object"),
    ],
)
def test_dataset_json_errors(make_folder, content, match):
    folder = make_folder(["a"])
    (folder / "dataset.json").write_text(content)
    with pytest.raises(BlosamError, match=match):
        load_split(folder)


def test_selection_uses_validation_images_or_d2(make_dataset, caplog):
    training = make_dataset(5)
    with caplog.at_level(logging.INFO):
        chosen = SelectionDataset([], None, training, seed=4)
    expected = [training.data[i] for i in d1_d2_split(training.data, 4)[1]]
    assert all(a is b for a, b in zip(chosen.data, expected, strict=True)) and chosen.uses_d2
    assert "best checkpoint is chosen on the 2 image(s) of D2" in caplog.text
    own = SelectionDataset([training.data[0]], lambda item: {"changed": item}, training, seed=4)
    assert len(own) == 1 and "changed" in own[0] and not own.uses_d2
    assert len(SelectionDataset([], None, None)) == 0
    assert isinstance(own, Dataset)


def test_real_folders(real_data):
    for name, column in (("lung", "patient"), ("polyp", "group")):
        index = (real_data / name / "index.csv").read_text().splitlines()
        position = index[0].split(",").index(column)
        of = {row.split(",")[0]: row.split(",")[position] for row in index[1:]}
        for seed in range(3):
            split = load_split(real_data / name, 4, seed)
            sides = [{of[stem] for stem in stems(split[part])} for part in ("training", "test")]
            assert len(split["training"]) == 4 and not sides[0] & sides[1] and sides[1]


def test_dicom_files_named_by_uid_are_found(tmp_path):
    """Scanners name files 1.2.840.1234: what follows the last dot is no extension."""
    for folder, names in (("images", ("1.2.840.1234", "1.2.840.1235")), ("masks", ("1.2.840.1234", "1.2.840.1235"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    split = load_split(tmp_path)
    assert [Path(pair["image"]).name for pair in split["training"]] == ["1.2.840.1234", "1.2.840.1235"]
    assert [path.name for path in list_images(tmp_path)] == ["1.2.840.1234", "1.2.840.1235"]


def test_negative_seed_is_named(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"")
    with pytest.raises(BlosamError, match="split_seed is -1"):
        load_split(tmp_path, 1, -1)
