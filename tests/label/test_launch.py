"""What `blosam label` refuses before it starts a server."""

from __future__ import annotations

import socket

import pytest

from blosam.commands.label import _studies
from blosam.errors import BlosamError
from blosam.label.environment import VARIABLE, label_python
from blosam.label.launch import check_port


def test_names_the_command_that_installs_monai_label(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(BlosamError, match="make label"):
        label_python()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    with pytest.raises(BlosamError, match="make label"):  # an installation that was interrupted
        label_python()
    (tmp_path / "installed").touch()
    assert label_python() == tmp_path / "bin" / "python"


def test_a_taken_port_is_refused_and_a_free_one_is_not():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BlosamError, match=f"--port {port}: cannot listen there"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(BlosamError, match="cannot listen there"):
        check_port("203.0.113.7", port)


def test_studies_are_a_folder_or_an_address(tmp_path):
    assert _studies(str(tmp_path)) == str(tmp_path.resolve())
    assert _studies("https://archive.example/dicom-web") == "https://archive.example/dicom-web"
    with pytest.raises(BlosamError, match="no such folder"):
        _studies(str(tmp_path / "nowhere"))
