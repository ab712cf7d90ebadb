"""The real command against a real Orthanc on this machine (Debian packages orthanc and orthanc-dicomweb)."""

from __future__ import annotations

import io
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from blosam.cli import main
from blosam.pacs.access import Access, Token
from blosam.pacs.client import Archive
from blosam.pacs.journal import Journal, private_folder
from blosam.pacs.pipeline import Pipeline
from blosam.pacs.segmenter import BundleSegmenter
from blosam.pacs.watch import once
from blosam.predictor import Predictor

pytestmark = pytest.mark.pacs


@pytest.fixture
def command(orthanc, bundle, tmp_path) -> Callable[..., list[str]]:
    """The command line as users type it."""

    def line(*options: str, url: str = "", state: str = "state", token: Path | None = None) -> list[str]:
        start = [sys.executable, "-m", "blosam.cli", "pacs", "--url", url or orthanc.url, "--bundle", str(bundle)]
        start += ["--state", str(tmp_path / state), "--token-file", str(token or orthanc.token_file)]
        return [*start, "--device", "cpu", "--retries", "1", *options]

    return line


def run(line: list[str], code: int = 0, own_process: bool = False) -> str:
    """Run a command; its output, both streams. Without a process of its own it need not load PyTorch again."""
    if own_process:
        result = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
        status, printed = result.returncode, result.stdout + result.stderr
    else:
        stream, arguments = io.StringIO(), sys.argv
        sys.argv = ["blosam", *line[3:]]
        try:
            with redirect_stdout(stream), redirect_stderr(stream):
                main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            sys.argv = arguments
        printed = stream.getvalue()
    assert status == code, printed
    assert "Traceback" not in printed
    return printed


def in_archive(orthanc, modality: str) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(io.BytesIO(content)) for content in orthanc.download(modality)]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def check_results(orthanc, bundle: Path, paths: list[Path]) -> None:
    """Each image has one SEG with the mask that the predictor gives, and is in one report that names that SEG."""
    predictor = Predictor(bundle)
    images = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in paths}
    segs = {}
    for seg in in_archive(orthanc, "SEG"):
        (series,) = seg.ReferencedSeriesSequence
        (reference,) = series.ReferencedInstanceSequence
        source = pydicom.dcmread(images[reference.ReferencedSOPInstanceUID])
        assert (seg.PatientID, seg.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        expected = predictor.predict(images[source.SOPInstanceUID]).mask
        assert 0.02 < expected.mean() < 0.98
        assert np.array_equal(seg.pixel_array.reshape(expected.shape), expected)
        segs[str(source.SOPInstanceUID)] = str(seg.SOPInstanceUID)
    assert segs.keys() == images.keys()
    reported = []
    for report in in_archive(orthanc, "SR"):
        named = set()
        report.walk(lambda _, e, into=named: into.add(str(e.value)) if e.keyword == "ReferencedSOPInstanceUID" else 0)
        reported += [uid for uid in images if uid in named]
        assert {segs[uid] for uid in images if uid in named} <= named
    assert sorted(reported) == sorted(images)


def test_stored_once_with_the_masks_of_predict(orthanc, command, bundle, radiographs, tmp_path):
    paths = [*radiographs(2), *radiographs(2, one_study=True)]
    secret = "Doe^Planted"
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.StudyDate = secret, "planted-4711", "19870605"
        dataset.save_as(path, enforce_file_format=True)
    orthanc.add(*paths)
    printed = run(command("--all", "--dry-run"), own_process=True)
    assert "3 studies, 4 images to segment" in printed
    assert orthanc.kinds() == {"DX": 4}
    printed += run(command("--date", "19870605", "--out", str(tmp_path / "kept")), own_process=True)
    assert "3 studies: 4 new images, 7 results stored" in printed
    assert orthanc.kinds() == {"DX": 4, "SEG": 4, "SR": 3}
    check_results(orthanc, bundle, paths)
    assert len(list((tmp_path / "kept").rglob("*.dcm"))) == 7

    printed += run(command("--all"))
    assert "0 new images, 0 results stored" in printed
    printed += run(command("--all", state="another"))
    assert "0 results stored, 7 there already" in printed
    assert orthanc.kinds() == {"DX": 4, "SEG": 4, "SR": 3}
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    printed += run(command("--study", study, "--again"))
    assert orthanc.kinds() == {"DX": 4, "SEG": 5, "SR": 4}

    kept = b"".join(p.read_bytes() for p in [*tmp_path.glob("state/*"), *tmp_path.glob("another/*")] if p.is_file())
    names = " ".join(str(p) for p in (tmp_path / "kept").rglob("*"))
    for text in ("Planted", "planted-4711", "19870605", "1.2.826", "2.25.", orthanc.token_file.read_text().split()[1]):
        assert text not in printed.replace(study, ""), text
        assert text.encode() not in kept, text
        assert text not in names, text
    assert [path.name for path in (tmp_path / "state").glob("*") if path.is_dir()] == []


def test_wrong_credentials_are_one_line(orthanc, command, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("Basic reader:no-such-password")
    wrong.chmod(0o600)
    printed = run(command("--all", token=wrong), code=1)
    assert printed.count("\n") == 1
    assert "HTTP 401" in printed
    assert "no-such-password" not in printed


def test_server_that_is_down_and_comes_back(orthanc, command, radiographs):
    orthanc.add(*radiographs(1))
    orthanc.stop()
    printed = run(command("--all"), code=1)
    assert "connection refused" in printed
    assert printed.count("\n") == 1
    orthanc.start()
    run(command("--all"))
    assert orthanc.kinds() == {"DX": 1, "SEG": 1, "SR": 1}


@pytest.mark.parametrize("post", [1, 3])
def test_server_killed_while_it_stores(orthanc, proxy, command, bundle, radiographs, post):
    paths = radiographs(2, one_study=True)
    orthanc.add(*paths)
    between = proxy(on_post=post, event=orthanc.kill)
    printed = run(command("--all", url=between.url), code=1)
    assert between.posts >= post
    assert "Stopped after 0 of 1 study" in printed
    orthanc.start()
    assert orthanc.kinds().get("SEG", 0) == post - 1
    run(command("--all", url=between.url))
    assert orthanc.kinds() == {"DX": 2, "SEG": 2, "SR": 1}
    check_results(orthanc, bundle, paths)


def test_slow_answers(orthanc, proxy, command, radiographs):
    orthanc.add(*radiographs(1))
    started = time.monotonic()
    run(command("--all", "--timeout", "2", url=proxy(pause=0.1, piece=2048).url))
    assert time.monotonic() - started > 2  # longer than the timeout, which is about silence
    assert orthanc.kinds() == {"DX": 1, "SEG": 1, "SR": 1}
    printed = run(command("--all", "--timeout", "0.5", "--retries", "0", url=proxy(pause=5).url), code=1)
    assert "no answer in time" in printed


def start_watch(line: list[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen([*line, "--all", "--watch", "2"], stdout=file, stderr=file)


def end(process: subprocess.Popen, log: Path) -> str:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    text = log.read_text()
    assert code == 0, text
    return text


def test_watch_waits_for_a_transfer_to_end_and_survives_a_restart(orthanc, command, bundle, radiographs, tmp_path):
    first, later = radiographs(4, one_study=True), radiographs(1)
    log = tmp_path / "log"
    orthanc.add(first[0])
    watch = start_watch(command("--stable-polls", "5"), log)
    try:
        wait_for(lambda: "watching" in log.read_text())
        for path in first[1:]:
            time.sleep(1)  # less than the 10 s that five polls take, also on a busy machine
            assert "SEG" not in orthanc.kinds(), "taken while it was still growing"
            orthanc.add(path)
        wait_for(lambda: orthanc.kinds().get("SR") == 1)
    finally:
        text = end(watch, log)
    assert "4 of 4 images new, 5 results stored" in text
    assert orthanc.kinds() == {"DX": 4, "SEG": 4, "SR": 1}
    check_results(orthanc, bundle, first)

    orthanc.stop()  # the second watch begins while the server is away
    log.unlink()
    log.touch()
    watch = start_watch(command("--stable-polls", "1"), log)
    try:
        wait_for(lambda: "connection refused" in log.read_text())
        orthanc.start()
        orthanc.add(*later)
        wait_for(lambda: orthanc.kinds().get("SR") == 2)
    finally:
        text = end(watch, log)
    assert text.count("Going on polling") == 1
    assert "answers again" in text
    assert orthanc.kinds() == {"DX": 5, "SEG": 5, "SR": 2}
    assert "1.2.826" not in text
    assert [path for path in (tmp_path / "state").iterdir() if path.is_dir()] == []


def test_200_studies_take_linear_time_and_bounded_memory(orthanc, bundle, radiographs, tmp_path):
    (path,) = radiographs(1, size=64)
    dataset = pydicom.dcmread(path)
    for number in range(200):
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (
            generate_uid(entropy_srcs=["200", level, str(number)]) for level in "abc"
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID = f"drawn-{number}"
        dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        orthanc.add(tmp_path / "one.dcm")
    predictor = Predictor(bundle)
    archive = Archive(Access(orthanc.url, Token(orthanc.token_file), retries=0))
    times, memory = [time.process_time()], []
    with Journal(tmp_path / "state", orthanc.url, predictor.sha256, str) as journal:
        work = private_folder(tmp_path / "state" / "work")
        pipeline = Pipeline(archive, journal, BundleSegmenter(predictor, ""), predictor.sha256, ["DX"], work)
        studies = archive.studies({}, ["DX"])
        assert len(studies) == 200
        for outcome in once(pipeline, studies):
            assert not outcome.failed, outcome.text()
            times.append(time.process_time())
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        started = time.monotonic()
        assert all(outcome.report.known == 1 for outcome in once(pipeline, studies))
        repeated = time.monotonic() - started
    assert orthanc.kinds() == {"DX": 200, "SEG": 200, "SR": 200}
    first, second = times[100] - times[0], times[200] - times[100]
    print(f"first 100: {first:.1f} s of CPU, second: {second:.1f} s; seen again: {repeated:.1f} s; {memory[-1]} KiB")
    assert second < 1.5 * first + 2
    assert memory[-1] - memory[20] < 100 * 1024  # KiB
