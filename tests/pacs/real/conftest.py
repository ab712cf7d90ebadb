"""A real Orthanc for one test, and a proxy that slows it down or interrupts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "reader", "drawn-not-real"


def free_port() -> int:
    """A port nobody listens on, at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Orthanc:
    """Start, stop and kill the server; its storage stays between starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.rest = f"http://127.0.0.1:{self.port}"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = (USER, PASSWORD)
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "HttpsVerifyPeers": True,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        self.configuration = folder / "orthanc.json"
        self.configuration.write_text(json.dumps(configuration))
        self.token_file = folder / "token"
        self.token_file.write_text(f"Basic {USER}:{PASSWORD}\n")
        self.token_file.chmod(0o600)

    def start(self) -> Orthanc:
        """Start the server and wait until it answers."""
        with open(self.folder / "orthanc.log", "ab") as log:
            self.process = subprocess.Popen(["Orthanc", str(self.configuration)], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.session.get(self.rest + "/system", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError("Orthanc does not answer")

    def stop(self) -> None:
        """End the server in an orderly way; nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
        self.process = None

    def add(self, *paths: Path) -> None:
        """Store files through STOW-RS, in one request."""
        boundary = "x-drawn-x"
        body = b"".join(
            b"\r\n--%b\r\nContent-Type: application/dicom\r\n\r\n%b" % (boundary.encode(), path.read_bytes())
            for path in paths
        )
        body += f"\r\n--{boundary}--".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        answer = self.session.post(self.url + "/studies", data=body, headers={"Content-Type": kind}, timeout=60)
        answer.raise_for_status()

    def tags(self) -> list[dict]:
        """The main tags of every stored instance."""
        found = self.session.post(
            self.rest + "/tools/find", json={"Level": "Instance", "Query": {}, "Expand": False}, timeout=60
        ).json()
        return [self.session.get(f"{self.rest}/instances/{key}/simplified-tags", timeout=60).json() for key in found]

    def kinds(self) -> dict[str, int]:
        """How many instances of each modality are stored."""
        counts: dict[str, int] = {}
        for tags in self.tags():
            counts[tags["Modality"]] = counts.get(tags["Modality"], 0) + 1
        return counts

    def download(self, modality: str) -> list[bytes]:
        """The files of one modality, as stored."""
        found = self.session.post(
            self.rest + "/tools/find", json={"Level": "Instance", "Query": {}, "Expand": False}, timeout=60
        ).json()
        files = []
        for key in found:
            tags = self.session.get(f"{self.rest}/instances/{key}/simplified-tags", timeout=60).json()
            if tags["Modality"] == modality:
                files.append(self.session.get(f"{self.rest}/instances/{key}/file", timeout=60).content)
        return files


class Proxy:
    """Forwards bytes between clients and the server, slowly, or until something is to happen.

    Args:
        port: of the server.
        pause: seconds before each piece of an answer.
        piece: bytes of an answer that are forwarded at a time.
        on_post: number of the POST request in the middle of whose body ``event`` is called, from 1; 0 never.
        event: what happens then.
    """

    def __init__(self, port: int, pause: float = 0.0, piece: int = 65536, on_post: int = 0, event=None) -> None:
        self.port, self.pause, self.piece, self.on_post, self.event = port, pause, piece, on_post, event
        self.posts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/dicom-web"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port), 10)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._copy, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, False), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        armed = False
        try:
            while data := source.recv(65536 if asking else self.piece):
                if asking and data.startswith(b"POST "):
                    self.posts += 1
                    armed = self.posts == self.on_post
                    body = data.partition(b"\r\n\r\n")[2]
                elif asking:
                    body = data
                if asking and armed and body:
                    target.sendall(data[: len(data) - len(body) // 2])
                    time.sleep(0.3)
                    armed = False
                    self.event()
                    return
                if not asking and self.pause:
                    time.sleep(self.pause)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


@pytest.fixture
def orthanc(tmp_path) -> Iterator[Orthanc]:
    """A running Orthanc; stopped whatever the test did to it."""
    server = Orthanc(tmp_path / "orthanc")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def proxy(orthanc) -> Iterator[Callable[..., Proxy]]:
    """Makes proxies in front of the server."""
    made: list[Proxy] = []

    def make(**options) -> Proxy:
        made.append(Proxy(orthanc.port, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
