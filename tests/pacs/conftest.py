"""A small DICOMweb server that can be told to misbehave, drawn images for it, and a stand-in for a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from blosam.bundle import Bundle
from blosam.data.phantoms import draw
from blosam.data.phantoms.dicom_files import save_dicom
from blosam.pacs.access import Access
from blosam.pacs.client import Archive
from blosam.pacs.journal import Journal, private_folder
from blosam.pacs.pipeline import Pipeline, Segmented
from blosam.weightsio import save_state_dict


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` requests whose method and path fit.

    Args:
        method: e.g. GET.
        part: of the path and query.
        status: answered instead of the real answer; 0 keeps it.
        headers: of that answer.
        cut: leave out the last so many bytes, without saying so in Content-Length.
        close: close the connection without an answer.
        drip: seconds between the bytes of the answer.
        answer: body sent with ``status``.
        after: do what was asked first, as a server does that dies before it can answer.
    """

    method: str
    part: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    close: bool = False
    drip: float = 0.0
    answer: bytes = b""
    after: bool = False
    times: int = 1


class SmallArchive:
    """QIDO-RS, WADO-RS and STOW-RS over a dictionary, with faults on order."""

    def __init__(self) -> None:
        self.files: dict[str, pydicom.Dataset] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.clients: set[tuple[str, int]] = set()
        self.page = 1000
        self.heeds_offset = True
        self.fails_to_store: dict[str, int] = {}
        self.empty_store_answer = False
        self.lists_counts = True
        archive = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else every answer waits 40 ms

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                archive.handle(self, "GET")

            def do_POST(self) -> None:
                archive.handle(self, "POST")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def add(self, *paths: Path) -> None:
        for path in paths:
            dataset = pydicom.dcmread(path)
            self.files[dataset.SOPInstanceUID] = dataset

    def kinds(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for dataset in self.files.values():
            counts[dataset.Modality] = counts.get(dataset.Modality, 0) + 1
        return counts

    def asked(self, method: str, part: str = "") -> int:
        return sum(1 for m, path in self.requests if m == method and part in path)

    def handle(self, request: BaseHTTPRequestHandler, method: str) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((method, request.path))
        self.headers.append(dict(request.headers))
        self.clients.add(request.client_address)
        fault = next((f for f in self.faults if f.method == method and f.part in request.path and f.times > 0), None)
        if fault is not None:
            fault.times -= 1
        if fault is None or not (fault.status or fault.close) or fault.after:
            status, kind, answer = self.answer(request, method, body)
        if fault is None:
            fault = Fault(method)
        if fault.close:
            request.close_connection = True
            return
        if fault.status:
            status, kind, answer = fault.status, "application/json", fault.answer
        answer = answer[: len(answer) - fault.cut]
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(answer)), **fault.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        try:
            if fault.drip:
                for position in range(len(answer)):
                    request.wfile.write(answer[position : position + 1])
                    request.wfile.flush()
                    time.sleep(fault.drip)
            else:
                request.wfile.write(answer)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def answer(self, request: BaseHTTPRequestHandler, method: str, body: bytes) -> tuple[int, str, bytes]:
        parts = urlsplit(request.path)
        names = parts.path.removeprefix("/dicom-web/").split("/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if method == "POST":
            return self.store(request.headers["Content-Type"], body)
        if len(names) == 6:
            return self.send(names[5])
        return 200, "application/dicom+json", json.dumps(self.search(names, query)).encode()

    def search(self, names: list[str], query: dict[str, str]) -> list[dict]:
        level = {1: "study", 2: "study", 3: names[-1], 5: "instances"}[len(names)]
        found: dict[str, dict] = {}
        for uid, dataset in sorted(self.files.items()):
            if len(names) >= 3 and dataset.StudyInstanceUID != names[1]:
                continue
            if len(names) == 5 and dataset.SeriesInstanceUID != names[3]:
                continue
            if any(str(dataset.get(key)) != value for key, value in query.items() if key.endswith("InstanceUID")):
                continue
            if "ModalitiesInStudy" in query and dataset.Modality != query["ModalitiesInStudy"]:
                continue
            item = {
                "0020000D": {"vr": "UI", "Value": [dataset.StudyInstanceUID]},
                "0020000E": {"vr": "UI", "Value": [dataset.SeriesInstanceUID]},
                "00080060": {"vr": "CS", "Value": [dataset.Modality]},
                "00080018": {"vr": "UI", "Value": [uid]},
            }
            if level == "study" and self.lists_counts:
                number = sum(1 for f in self.files.values() if f.StudyInstanceUID == dataset.StudyInstanceUID)
                item["00201208"] = {"vr": "IS", "Value": [number]}
            key = {"study": "0020000D", "series": "0020000E", "instances": "00080018"}[level]
            found.setdefault(item[key]["Value"][0], item)
        offset = int(query.get("offset", 0)) if self.heeds_offset else 0
        return list(found.values())[offset : offset + min(self.page, int(query.get("limit", self.page)))]

    def send(self, uid: str) -> tuple[int, str, bytes]:
        if uid not in self.files:
            return 404, "text/plain", b""
        with io.BytesIO() as file:
            pydicom.dcmwrite(file, self.files[uid], enforce_file_format=True)
            data = file.getvalue()
        body = b"--limit\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--limit--\r\n"
        return 200, 'multipart/related; type="application/dicom"; boundary=limit', body

    def store(self, kind: str, body: bytes) -> tuple[int, str, bytes]:
        boundary = kind.rpartition("boundary=")[2].strip('"').encode()
        stored, failed = [], []
        for part in body.split(b"--" + boundary)[1:-1]:
            dataset = pydicom.dcmread(io.BytesIO(part.partition(b"\r\n\r\n")[2]))
            item = {
                "00081150": {"vr": "UI", "Value": [dataset.SOPClassUID]},
                "00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]},
            }
            if dataset.Modality in self.fails_to_store:
                failed.append({**item, "00081197": {"vr": "US", "Value": [self.fails_to_store[dataset.Modality]]}})
            else:
                self.files.setdefault(dataset.SOPInstanceUID, dataset)
                stored.append(item)
        if self.empty_store_answer:
            return 200, "application/dicom+json", b""
        answer = {"00081199": {"vr": "SQ", "Value": stored}, "00081198": {"vr": "SQ", "Value": failed}}
        # 202: some were stored. The charset is there because dicomweb-client stumbles over it.
        return (202 if failed else 200), "application/dicom+json; charset=utf-8", json.dumps(answer).encode()


@cache
def drawn(seed: int, size: int) -> np.ndarray:
    """Pixels of a chest phantom; many tests use the same few."""
    return draw("chest", seed, size, 0.88, 0.5).image


def draw_radiograph(path: Path, seed: int, study: str | None = None, size: int = 96) -> Path:
    """A drawn chest radiograph as DICOM, in a study of its own or in the one given."""
    save_dicom(path, "chest", seed, drawn(seed, size), 430.0 / size)
    if study is not None:
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = study
        dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def small_archive() -> Iterator[SmallArchive]:
    archive = SmallArchive()
    yield archive
    archive.close()


@pytest.fixture
def fault() -> type[Fault]:
    return Fault


@pytest.fixture
def radiographs(tmp_path):
    """``radiographs(3)`` draws three studies of one image, ``radiographs(3, one_study=True)`` one of three."""
    numbers = iter(range(1000))

    def make(count: int, one_study: bool = False, size: int = 96) -> list[Path]:
        folder = tmp_path / "radiographs"
        folder.mkdir(exist_ok=True)
        study = generate_uid(entropy_srcs=[str(next(numbers))]) if one_study else None
        return [draw_radiograph(folder / f"{(n := next(numbers)):03d}.dcm", n, study, size) for _ in range(count)]

    return make


class Segmenter:
    """Stands in for a bundle: per image one SEG of a kind, per batch one SR that refers to images and SEGs.

    ``trouble`` maps an image's UID to ``refused`` or ``failed``, or to an exception to raise.
    """

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.trouble: dict[str, object] = {}

    def __call__(self, files: list[Path], out: Path) -> Segmented:
        outcome, segs, images = Segmented(), [], [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
        self.batches.append([image.SOPInstanceUID for image in images])
        for path, image in zip(files, images, strict=True):
            trouble = self.trouble.get(image.SOPInstanceUID)
            if isinstance(trouble, BaseException):
                raise trouble
            if trouble is not None:
                getattr(outcome, trouble)[path] = f"image {files.index(path) + 1} of the batch is {trouble}"
                continue
            segs.append(self.result(image, "SEG", [image]))
        if segs:
            report = self.result(images[0], "SR", [*[i for i in images if i.SOPInstanceUID not in self.trouble], *segs])
            for number, result in enumerate([*segs, report]):
                outcome.files.append(out / f"result-{number}.dcm")
                result.save_as(outcome.files[-1], enforce_file_format=True)
        return outcome

    def result(self, image: pydicom.Dataset, modality: str, referenced: list[pydicom.Dataset]) -> pydicom.Dataset:
        result = pydicom.Dataset()
        result.SOPClassUID = {"SEG": SegmentationStorage, "SR": Comprehensive3DSRStorage}[modality]
        result.SOPInstanceUID, result.SeriesInstanceUID = generate_uid(), generate_uid()
        result.StudyInstanceUID, result.PatientID, result.Modality = image.StudyInstanceUID, image.PatientID, modality
        result.ReferencedInstanceSequence = []
        for other in referenced:
            item = pydicom.Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
            result.ReferencedInstanceSequence.append(item)
        result.file_meta = pydicom.dataset.FileMetaDataset()
        result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
        result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
        return result


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter()


@pytest.fixture
def pipeline(tmp_path, small_archive, segmenter):
    """Makes pipelines from the small archive, each as a new process would; the journal is shared by default."""
    opened: list[Journal] = []

    def make(state: str = "state", bundle: str = "b" * 64, **options) -> Pipeline:
        while opened:
            opened.pop().close()
        access = Access(small_archive.url, retries=options.pop("retries", 0), read_timeout=5)
        folder = tmp_path / state
        opened.append(Journal(folder, access.url, bundle, lambda text: hashlib.sha256(text.encode()).hexdigest()))
        work = private_folder(folder / "work")
        return Pipeline(Archive(access), opened[-1], segmenter, bundle, ["DX"], work, **options)

    yield make
    while opened:
        opened.pop().close()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """A lung bundle for images of 64 pixels, with random weights whose masks are neither empty nor full."""
    target = tmp_path_factory.mktemp("bundle") / "blosam_lung"
    ignore = shutil.ignore_patterns("models", "results", "predictions")
    shutil.copytree(Path(__file__).resolve().parents[2] / "bundles" / "blosam_lung", target, ignore=ignore)
    config = target / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": 64}))
    torch.manual_seed(5)
    network = Bundle(target).parser().get_parsed_content("network_def")
    with torch.no_grad():  # the mask tokens alone leave the logits nearly equal
        network.mask_decoder.mask_tokens.weight.add_(torch.randn(2, 256))
    save_state_dict(network.state_dict(), target / "models" / "model.pt")
    return target
