"""The published methods inside a comparison: each trains, on the small encoder, and is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from blosam.compare.options import Job, Options
from blosam.compare.runner import run_job
from blosam.data.phantoms.write import write_dataset
from blosam.methods import PUBLISHED


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset("chest", folder, 3, seed=0, size=64)
    return folder


@pytest.mark.parametrize("name", [method.name for method in PUBLISHED])
def test_every_published_method_trains_and_is_measured(name, data, tmp_path):
    options = Options(data, tmp_path, (name,), (2,), 1, views=2, image_size=64, max_steps=3, budget=60)
    record = run_job(options, Job(name, 2, 0))
    assert record["steps"] == 3 and record["own"]["recipe"] == name
    assert len([row for row in record["rows"] if row["split"] == "test"]) == 1
    assert 0 < record["parameters"]["trained"] <= record["parameters"]["total"]
