"""Starting, watching and stopping MONAI Label's server from our own environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from blosam.errors import BlosamError

_EXTENSIONS = [
    f"*{suffix}"
    for lower in (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".dicom", ".nrrd")
    for suffix in dict.fromkeys((lower, lower.upper()))
]
_START_SECONDS = 180  # PyTorch and MONAI on a slow disk
_STOP_SECONDS = 10
_LAST_LINES = 5


def check_port(host: str, port: int) -> None:
    """Raise unless a server can listen there.

    Raises:
        BlosamError: when the port is taken or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does: a port that only waits out its last connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise BlosamError(
                f"--host {host} --port {port}: cannot listen there ({error}). Another server may be running; "
                f"choose another port, e.g. --port {port + 1 if port < 65535 else 8000}."
            ) from error


class Server:
    """One running MONAI Label server.

    Args:
        python: of MONAI Label's environment.
        app: folder made by ``prepare_app``.
        models: names of the bundles in it.
        studies: a folder of images, or the address of a DICOMweb server.
        host: address to listen on.
        port: port to listen on.
        modalities: DICOM modalities to list from a DICOMweb server.
    """

    def __init__(
        self,
        python: Path,
        app: Path,
        models: Sequence[str],
        studies: str,
        host: str,
        port: int,
        modalities: Sequence[str] = (),
    ) -> None:
        address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"http://{address}:{port}"
        self.log = app / "logs" / "server.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), "-m", "monailabel.main", "start_server"]
        command += ["--app", str(app), "--studies", studies, "--host", host, "--port", str(port)]
        command += ["--uvicorn_app", "blosam.label.server:app", "--verbose", "WARNING", "--log_level", "warning"]
        # zoo_source: the default asks a server on the internet at the start. sam2: would fetch its weights.
        command += ["--conf", "models", ",".join(models), "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
        with self.log.open("wb") as log:
            # A session of its own, so that Ctrl-C reaches it only through stop(), and stop() reaches its trainings.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=_environment(app, modalities), cwd=app, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            BlosamError: when it ends or does not answer in time; with the last lines of its log.
        """
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise BlosamError(f"MONAI Label's server ended: {self._last_lines()} The whole log is {self.log}.")
            if self._answers():
                return
            time.sleep(0.5)
        raise BlosamError(f"MONAI Label's server did not answer in {_START_SECONDS} s. Its log is {self.log}.")

    def wait(self) -> None:
        """Wait until the server ends by itself.

        Raises:
            BlosamError: when it does, because it should not.
        """
        self.process.wait()
        raise BlosamError(f"MONAI Label's server ended: {self._last_lines()} The whole log is {self.log}.")

    def stop(self) -> None:
        """End the server and its trainings: politely, then by force."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            if not _group_alive(self.process.pid):
                break
        self.process.wait()

    def _answers(self) -> bool:
        try:
            # Without the proxies of the environment: the server is on this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.url}/info/", timeout=5) as response:
                return "models" in json.load(response)
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def _last_lines(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:]) or "it printed nothing."


def _environment(app: Path, modalities: Sequence[str]) -> dict[str, str]:
    """The environment variables of the server: ours without our Python, and MONAI Label's settings."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONHOME")}
    return kept | {
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(_EXTENSIONS),
        "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": "false",  # would lose what DICOM says about grey values
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "\\".join(modalities)} if modalities else {}),
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(app / "cache"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(app / "cache"),
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),  # uploaded images stay in the app folder
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
