"""``blosam predict`` from the outside: every kind of input, restarts, failures, batches and what it never tells."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin

from blosam import cli
from blosam.data.phantoms.write import write_dataset
from blosam.inference.inputs import collect, output_stems
from blosam.inference.record import RunFolder, run_key
from blosam.inference.run import Options
from blosam.inference.session import segment
from blosam.predictor import Predictor, nearly_tied

SECRETS = ("Zebra", "Quentin", "MRN778812", "19530704", "NESTED4411", "PRIV8812", "KILIMANJARO")


@pytest.fixture(scope="module")
def predictor(untrained) -> Predictor:
    return Predictor(untrained)


@pytest.fixture
def blosam(monkeypatch, capfd):
    """Run the command in this process: (exit code, everything it printed)."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["blosam", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


def _images(folder: Path, kind: str, count: int, size: int = 80) -> list[Path]:
    items = write_dataset("chest", folder / "drawn", count, seed=5, size=size, image_format=kind)
    found = []
    for item in items:
        path = Path(item["image"])
        found.append(path.rename(folder / path.name))
    for mask in (folder / "drawn" / "masks").iterdir():
        mask.unlink()
    return found


def _volume(path: Path) -> np.ndarray:
    """11 x 13 x 4 with sizes, orientation and an oblique affine; the first slice is blank."""
    rng = np.random.default_rng(1)
    values = (rng.random((22, 26, 4)) * 900).astype(np.int16)
    values[..., 0] = 0
    affine = np.array([[0, -0.7, 0, 11], [0.9, 0, 0.1, -4], [0, 0.1, 5, 7], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = b"Zebra"
    nibabel.save(image, path)
    return values


def _record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def test_every_kind_of_input_in_one_run(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    png, dicom = _images(tmp_path / "in", "png", 1), _images(tmp_path / "in", "dicom", 1)
    values = _volume(tmp_path / "in" / "volume.nii.gz")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    summary = segment([tmp_path / "in"], predictor, out, Options(formats=("png", "nifti", "overlay"), workers=2))
    states = {Path(item.path).name: r for item, r in zip(collect([tmp_path / "in"]), summary.records, strict=True)}
    assert states["broken.png"]["status"] == "failed" and summary.failed == 1
    volume = states["volume.nii.gz"]
    assert volume["status"] == "done" and volume["geometry"]["slice_axis"] == 2 and volume["geometry"]["frames"] == 4
    written = nibabel.load(out / "volume.nii.gz")
    source = nibabel.load(tmp_path / "in" / "volume.nii.gz")
    assert written.shape == values.shape and np.array_equal(written.affine, source.affine)
    mask = np.asarray(written.dataobj)
    assert not mask[..., 0].any() and volume["areas"]["lung"]["pixels_by_frame"][0] == 0
    assert [int((mask[..., k] == 1).sum()) for k in range(4)] == volume["areas"]["lung"]["pixels_by_frame"]
    for index in (1, 3):
        shown = np.asarray(Image.open(out / f"volume_slice{index + 1:04d}.png"))
        assert np.array_equal(shown == 255, mask[..., index].T == 1)
    assert np.array_equal(
        np.asarray(Image.open(out / f"{png[0].stem}.png")) == 255, predictor.predict(png[0]).mask == 1
    )
    name = states[dicom[0].name]["name"]
    assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")) == 255, predictor.predict(dicom[0]).mask == 1)
    assert states[dicom[0].name]["areas"]["lung"]["mm2"] > 0
    content = _record(out)
    assert content["state"] == "finished" and content["bundle"]["sha256"] == predictor.sha256
    assert content["versions"]["torch"] and content["device"] == "cpu"
    assert content["summary"] == {"inputs": 4, "done": 3, "needs review": 0, "failed": 1, "ignored": 0}
    assert not (out / ".blosam").exists()


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_give_the_masks_of_single_images(predictor, tmp_path, workers):
    (tmp_path / "in").mkdir()
    _images(tmp_path / "in", "png", 7, size=200)
    for batch in (1, 3):
        segment([tmp_path / "in"], predictor, tmp_path / str(batch), Options(batch=batch, workers=workers))
    names = sorted(path.name for path in (tmp_path / "1").glob("*.png"))
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_ties_are_found_with_two_and_more_classes():
    sure = np.full((2, 4, 4), 0.5, np.float32)
    sure[1] += 0.01
    assert not nearly_tied(sure, 1e-4)
    sure[1, 2, 3] = 0.5 + 1e-6
    assert nearly_tied(sure, 1e-4)
    three = np.zeros((3, 2, 2), np.float32)
    three[0], three[1], three[2] = 0.5, 0.3, 0.2
    assert not nearly_tied(three, 1e-4)
    three[:, 0, 0] = 0.4, 0.2, 0.40001
    assert nearly_tied(three, 1e-4)


def test_an_interrupted_run_goes_on_without_repeating(predictor, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    _images(tmp_path / "in", "png", 3), _images(tmp_path / "in", "dicom", 2)
    out, options = tmp_path / "out", Options(formats=("png", "overlay"))
    calls = 0
    original = Predictor.predict_batch

    def counting(self, batch):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Predictor, "predict_batch", counting)
    with pytest.raises(KeyboardInterrupt):
        segment([tmp_path / "in"], predictor, out, options)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(before) == 6
    with (out / ".blosam" / "journal-00000.jsonl").open("a") as journal:
        journal.write('{"key": "torn li')  # what a power cut leaves
    new = tmp_path / "in" / "0_first.png"  # positions of all others change
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(new)
    summary = segment([tmp_path / "in"], predictor, out, options)
    assert summary.repeated == 3 and calls == 4 + 3
    assert all(record["status"] == "done" for record in summary.records) and len(summary.records) == 6
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert segment([tmp_path / "in"], predictor, out, options).repeated == 6 and calls == 7
    segment([tmp_path / "in"], predictor, out, options, restart=True)
    assert calls == 13
    next(out.glob("image_*[0-9a-f].png")).unlink()  # a result that somebody removed is made again
    assert segment([tmp_path / "in"], predictor, out, options).repeated == 5


def test_files_half_written_before_a_crash_are_replaced_and_those_of_others_are_not(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    first, second = _images(tmp_path / "in", "png", 2)
    out, options = tmp_path / "out", Options()
    out.mkdir()
    for image in (first, second):
        (out / f"{image.stem}.png").write_bytes(b"there before")
    folder = RunFolder(out, run_key(predictor.identity, {**options.settings(), "confidence": "none"}))
    folder.start()
    folder.will_write(hashlib.sha256(first.read_bytes()).hexdigest(), ["{stem}.png"])
    folder.close()
    summary = segment([tmp_path / "in"], predictor, out, options)
    assert [record["status"] for record in summary.records] == ["done", "failed"]
    assert (out / f"{second.stem}.png").read_bytes() == b"there before"
    assert "--force" in summary.records[1]["reason"]


def _planted(folder: Path) -> None:
    """Images of every kind with identifiers in tags, texts, names and folders."""
    folder.mkdir(parents=True)
    (source,) = _images(folder, "dicom", 1)
    dataset = pydicom.dcmread(source)
    source.unlink()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Zebra^Quentin", "MRN778812", "19530704"
    nested = pydicom.Dataset()
    nested.PatientID = "NESTED4411"
    dataset.OtherPatientIDsSequence = [nested]
    dataset.private_block(0x0011, "ACME", create=True).add_new(0x01, "LO", "PRIV8812")
    dataset.save_as(folder / "Zebra_Quentin_19530704")
    dataset.SOPInstanceUID += ".2"
    dataset.WindowCenter, dataset.WindowWidth = 1e9, 1  # no contrast: the reader warns
    dataset.save_as(folder / "KILIMANJARO.dcm")
    dataset.SOPInstanceUID += ".3"
    dataset.Modality, dataset.BodyPartExamined = "CT", "Zebra"
    dataset.save_as(folder / "MRN778812.dcm")
    dataset.PixelData = dataset.PixelData[:50]
    dataset.Modality, dataset.BodyPartExamined = "DX", "CHEST"
    dataset.save_as(folder / "broken_Zebra.dcm")
    image = Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64))
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Quentin")
    image.save(folder / "KILIMANJARO.png", pnginfo=text)
    _volume(folder / "KILIMANJARO_v.nii.gz")
    (folder / "broken_KILIMANJARO.nii").write_bytes(b"Zebra" * 100)


@pytest.mark.parametrize("restarted", [False, True])
def test_nothing_told_or_written_names_a_patient(blosam, untrained, tmp_path, restarted):
    _planted(tmp_path / "Zebra" / "in")
    uids = {str(pydicom.dcmread(tmp_path / "Zebra" / "in" / "KILIMANJARO.dcm").StudyInstanceUID)}
    out = tmp_path / "out"
    words = ["--verbose", "predict", tmp_path / "Zebra" / "in", "--bundle", untrained, "--out", out, "--names", "hash"]
    words += ["--format", "png,nifti,overlay", "--report", tmp_path / "report.html", "--device", "cpu"]
    code, printed = blosam(*words)
    if restarted:
        code, again = blosam(*words)
        printed += again
    assert code == 1 and printed.count("error: image_") == 3 * (1 + restarted), printed
    texts = {"printed": printed, "report": (tmp_path / "report.html").read_text()}
    for path in out.rglob("*"):
        texts[f"name of {path.name}"] = path.name
        if path.is_file():
            data = path.read_bytes()
            texts[path.name] = data.decode("latin-1")
            if path.name.endswith(".nii.gz"):
                texts[path.name] = gzip.decompress(data).decode("latin-1")
    assert len([name for name in texts if name.endswith(".nii.gz")]) >= 4
    for where, text in texts.items():
        for secret in (*SECRETS, *uids, str(tmp_path)):
            assert secret not in text, f"{secret} in {where}"
    states = [record["status"] for record in _record(out)["inputs"]]
    assert states.count("failed") == 3 and states.count("done") == 4


def test_names_of_pictures_stay_on_their_files_alone(blosam, untrained, tmp_path):
    _planted(tmp_path / "in")
    out = tmp_path / "out"
    code, printed = blosam("predict", tmp_path / "in", "--bundle", untrained, "--out", out, "--device", "cpu")
    assert code == 1 and (out / "KILIMANJARO.png").is_file()
    assert "KILIMANJARO" not in printed + (out / "run.json").read_text()
    assert sorted(path.name for path in out.iterdir() if "Zebra" in path.name) == []
    code, printed = blosam(
        "predict", tmp_path / "in", "--bundle", untrained, "--out", out, "--device", "cpu", "--show-paths"
    )
    assert "broken_Zebra.dcm" in printed and "broken_Zebra" not in (out / "run.json").read_text()


def test_unsuitable_images_are_refused_unless_forced(predictor, tmp_path):
    (source,) = _images(tmp_path, "dicom", 1)
    dataset = pydicom.dcmread(source)
    dataset.ViewPosition = "LL"
    dataset.save_as(source)
    refused = segment([source], predictor, tmp_path / "a", Options())
    assert (
        refused.failed == 1 and "LATERAL" in refused.records[0]["reason"] and "--force" in refused.records[0]["reason"]
    )
    forced = segment([source], predictor, tmp_path / "b", Options(force=True))
    assert forced.failed == 0 and any("LATERAL" in warning for warning in forced.records[0]["warnings"])


def test_deidentified_and_dicom_formats_refuse_single_inputs(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    _images(tmp_path / "in", "png", 1), _images(tmp_path / "in", "dicom", 1)
    strict = segment([tmp_path / "in"], predictor, tmp_path / "a", Options(deidentified=True))
    assert sorted(record["status"] for record in strict.records) == ["done", "failed"]
    reason = next(record["reason"] for record in strict.records if record["status"] == "failed")
    assert "PatientName" in reason and "Phantom" not in reason
    seg = segment([tmp_path / "in"], predictor, tmp_path / "b", Options(formats=("dicom-seg",)))
    reason = next(record["reason"] for record in seg.records if record["status"] == "failed")
    assert "dicom-seg can only be written for DICOM" in reason


def test_segmentations_and_one_report_for_each_study(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    sources = _images(tmp_path / "in", "dicom", 3)
    study = pydicom.dcmread(sources[0]).StudyInstanceUID
    second = pydicom.dcmread(sources[1])
    second.StudyInstanceUID = study
    second.PatientID = pydicom.dcmread(sources[0]).PatientID
    second.save_as(sources[1])
    out = tmp_path / "out"
    options = Options(formats=("dicom-seg", "dicom-seg-fractional", "dicom-sr"), workers=1)
    summary = segment([tmp_path / "in"], predictor, out, options)
    assert summary.failed == 0 and [study["images"] for study in summary.studies] == [[1, 2], [3]]
    for source, record in zip(sources, summary.records, strict=True):
        segmentation = pydicom.dcmread(out / record["outputs"]["dicom-seg"][0])
        expected = predictor.predict(source)
        assert np.array_equal(segmentation.pixel_array.squeeze(), expected.mask)
        shares = pydicom.dcmread(out / record["outputs"]["dicom-seg-fractional"][0]).pixel_array.squeeze()
        assert np.abs(shares / 255.0 - expected.probability[1]).max() < 0.51 / 255 + 1e-6
    report = pydicom.dcmread(out / summary.studies[0]["outputs"]["dicom-sr"][0])
    assert report.StudyInstanceUID == study and study not in (out / "run.json").read_text()
    again = segment([tmp_path / "in"], predictor, out, options)
    assert again.repeated == 3 and again.failed == 0 and len(again.studies) == 2


def test_unsure_results_are_marked(blosam, untrained, tmp_path):
    (tmp_path / "in").mkdir()
    (source,) = _images(tmp_path / "in", "dicom", 1)
    words = ["predict", source, "--bundle", untrained, "--device", "cpu", "--format", "png,dicom-seg"]
    code, printed = blosam(*words, "--out", tmp_path / "a", "--min-confidence", "1")
    (record,) = _record(tmp_path / "a")["inputs"]
    assert code == 0 and "1 needs review" in printed, printed
    assert record["status"] == "needs review" and 0 <= record["confidence"] < 1
    written = pydicom.dcmread(tmp_path / "a" / record["outputs"]["dicom-seg"][0])
    assert "needs review" in written.SeriesDescription
    code, printed = blosam(*words, "--out", tmp_path / "b", "--min-confidence", "0")
    (sure,) = _record(tmp_path / "b")["inputs"]
    assert sure["status"] == "done" and sure["confidence"] == record["confidence"]


def test_duplicates_and_damaged_records(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    (image,) = _images(tmp_path / "in", "png", 1)
    (tmp_path / "in" / "copy.png").write_bytes(image.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{broken")
    assert segment([tmp_path / "in"], predictor, out, Options()).repeated == 0
    assert segment([tmp_path / "in"], predictor, out, Options()).repeated == 2
    assert set(output_stems(collect([tmp_path / "in"])).values()) == {"copy", image.stem}


def test_two_processes_share_the_inputs_and_write_one_record(untrained, tmp_path):
    """One of the processes also meets a broken file, which must not keep the other waiting."""
    (tmp_path / "in").mkdir()
    _images(tmp_path / "in", "png", 5)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "blosam.cli"]
    command += ["predict", str(tmp_path / "in"), "--bundle", str(untrained), "--out", str(tmp_path / "out")]
    command += ["--device", "cpu", "--workers", "0"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "common"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    content = _record(tmp_path / "out")
    assert content["processes"] == 2 and [r["position"] for r in content["inputs"]] == [1, 2, 3, 4, 5, 6]
    assert content["summary"]["done"] == 5 and content["summary"]["failed"] == 1
    assert done.returncode == 1 and done.stdout.count("5 of 6 inputs segmented") == 1, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 5
    single = segment([tmp_path / "in"], Predictor(untrained), tmp_path / "out", Options())
    assert single.repeated == 5 and single.failed == 1
