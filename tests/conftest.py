"""Settings every test shares: one thread (several spin on a busy machine), and real images only where they exist."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# The salt of hashed UIDs is private to an installation; tests neither use nor make that of the user.
_CONFIG = tempfile.TemporaryDirectory(prefix="blosam-tests-")
os.environ["BLOSAM_CONFIG_DIR"] = _CONFIG.name

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real images (``lung/``, ``polyp/``, ``incisors/``); the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BLOSAM_REAL_DATA", default))
    if not (folder / "lung" / "images").is_dir():
        pytest.skip(f"real images not found in {folder}; set BLOSAM_REAL_DATA to their folder")
    return folder
