"""``blosam weights list | fetch | verify`` from the command line."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blosam import weights
from blosam.commands.weights import app
from blosam.errors import BlosamError

CONTENT = b"weights" * 1000
runner = CliRunner()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror on 127.0.0.1 with a small file in place of vit_b; returns the mirror's folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "small.pth").write_bytes(CONTENT)
    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    digest = hashlib.sha256(CONTENT).hexdigest()
    entry = weights.Weights("vit_b", "vit_b", "small.pth", "http://weights.example/", len(CONTENT), digest)
    monkeypatch.setitem(weights.REGISTRY, "vit_b", entry)
    monkeypatch.setenv("BLOSAM_WEIGHTS_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BLOSAM_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def row(name: str) -> str:
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0
    return next(line for line in result.output.splitlines() if line.startswith(name))


def test_list_names_size_licence_state_path_and_url(mirror: Path, tmp_path: Path) -> None:
    header = runner.invoke(app, ["list"]).output.splitlines()[0]
    assert header.split() == ["NAME", "SIZE", "LICENCE", "STATE", "PATH", "URL"]
    assert row("vit_h").split()[:5] == ["vit_h", "2,564.6", "MB", "Apache-2.0", "not"]
    assert "not fetched" in row("vit_h") and weights.get("vit_h").url in row("vit_h")
    assert str(tmp_path / "cache" / "sam_vit_h_4b8939.pth") in row("vit_h")
    assert "packaged" in row("tiny")


def test_states_of_a_file(mirror: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "small.pth.part").write_bytes(CONTENT[:3500])
    assert "50% fetched" in row("vit_b")
    (cache / "small.pth").write_bytes(CONTENT)
    assert "present, not verified" in row("vit_b")
    assert runner.invoke(app, ["verify", "vit_b"]).exit_code == 0
    assert " verified " in row("vit_b") and "not verified" not in row("vit_b")
    (cache / "small.pth").write_bytes(CONTENT[:-1])
    assert "wrong size" in row("vit_b")


def test_absent_packaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    assert "not in this installation" in row("tiny")
    result = runner.invoke(app, ["verify", "tiny"])
    assert result.exit_code == 1 and "Install blosam again" in result.output
    (tmp_path / "tiny.safetensors").write_bytes(b"x" * 2_000_000)
    assert "2.0 MB" in row("tiny") and "present" in row("tiny")


def test_fetch_then_verify(mirror: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "small.pth"
    result = runner.invoke(app, ["verify", "vit_b"])
    assert result.exit_code == 1 and "missing. Run `blosam weights fetch vit_b`" in result.output
    result = runner.invoke(app, ["fetch", "vit_b"])
    assert result.exit_code == 0 and f"vit_b: ok  {target}" in result.output
    assert target.read_bytes() == CONTENT
    result = runner.invoke(app, ["fetch", "vit_b"])
    assert result.exit_code == 0 and result.output == f"vit_b: ok  {target}\n"
    target.write_bytes(CONTENT[:-1] + b"!")
    os.utime(target, ns=(1, 1))
    result = runner.invoke(app, ["verify", "vit_b"])
    assert result.exit_code == 1 and "wrong sha256. Delete it and run" in result.output


def test_fetch_from_a_named_address(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = os.environ["BLOSAM_WEIGHTS_URL"] + "/small.pth"
    monkeypatch.setenv("BLOSAM_WEIGHTS_URL", "http://nowhere.example")
    assert runner.invoke(app, ["fetch", "vit_b", "--url", url]).exit_code == 0


def test_refusal_is_one_line_for_the_user(mirror: Path) -> None:
    (mirror / "small.pth").unlink()
    result = runner.invoke(app, ["fetch", "vit_b"])
    assert result.exit_code == 1
    assert isinstance(result.exception, BlosamError) and "404" in str(result.exception)


@pytest.mark.parametrize("arguments", [["fetch", "vit_x"], ["verify", "vit_x"], ["fetch"], ["verify"], ["get"]])
def test_usage_errors(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    if "vit_x" in arguments:
        assert "vit_b" in result.output


def test_real_command_prints_one_error_line(tmp_path: Path) -> None:
    """Through the installed entry point, without a connection: closed port 9 on this computer."""
    source = Path(weights.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "BLOSAM_WEIGHTS_DIR": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
    }
    command = [
        sys.executable,
        "-m",
        "blosam.cli",
        "weights",
        "fetch",
        "vit_b",
        "--url",
        "ftp://127.0.0.1/x.pth",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: ftp://127.0.0.1/x.pth: not a web address. Give one that starts with https:// or http://.\n"
    )


def test_listing_does_not_import_pytorch(tmp_path: Path) -> None:
    """It answers at once."""
    script = "import sys; from blosam import weights; weights.find('vit_b'); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(weights.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=120).returncode == 0
