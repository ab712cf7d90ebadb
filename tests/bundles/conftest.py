"""The three bundles trained for a moment at 64 pixels, and MONAI's own command in this process."""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blosam.commands.switch import switch
from blosam.data.phantoms.write import write_dataset

ROOT = Path(__file__).resolve().parents[2]
PHANTOMS = {"blosam_lung": "chest", "blosam_polyp": "colonoscopy", "blosam_teeth": "dental"}
IMAGE_SIZE = 64
QUICK = {
    "num_views": 2,
    "train#trainer#max_epochs": 2,
    "val_interval": 1,
    "base_weights": "random",
    "device": "$torch.device('cpu')",
}


@dataclass(frozen=True)
class Trained:
    """A bundle's folder, with weights, and the folder of six phantoms it was trained on (four of them)."""

    name: str
    root: Path
    data: Path

    @property
    def images(self) -> list[Path]:
        """The images of the data set, sorted."""
        return sorted((self.data / "images").iterdir())

    @property
    def kind(self) -> str:
        """Which phantoms it is for."""
        return PHANTOMS[self.name]

    def monai(self, command: str, config: str, **overrides: object) -> None:
        """``python -m monai.bundle COMMAND --config_file CONFIG --bundle_root BUNDLE ...`` from a foreign folder."""
        run_monai(*command.split(), "--config_file", config, "--bundle_root", self.root, **overrides)

    def config(self, name: str) -> str:
        """Path of one config."""
        return str(self.root / "configs" / f"{name}.json")

    def read(self, name: str) -> dict:
        """Content of one config."""
        return json.loads(Path(self.config(name)).read_text())


def run_monai(*words: object, cwd: str = "/", **overrides: object) -> None:
    """``python -m monai.bundle WORDS --KEY VALUE`` as users type it, from a foreign folder.

    It runs in this process, because starting Python takes longer than what is tested; see test_commands.py for real
    processes.

    Args:
        words: the command and its options.
        cwd: the foreign folder.
        overrides: written as ``--KEY VALUE``.
    """
    arguments = [str(word) for word in words]
    for key, value in overrides.items():
        arguments += [f"--{key}", str(value)]
    before = (sys.argv, os.getcwd(), list(sys.path), logging.getLogger().handlers[:], logging.getLogger().level)
    sys.argv = ["monai.bundle", *arguments]
    os.chdir(cwd)
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    finally:
        sys.argv, sys.path[:] = before[0], before[2]
        os.chdir(before[1])
        logging.getLogger().handlers[:], logging.getLogger().level = before[3], before[4]


@pytest.fixture(scope="session")
def train_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains a bundle by name through MONAI's command, once a session."""
    done: dict[str, Trained] = {}

    def train(name: str) -> Trained:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            bundle = Trained(name, folder / name, folder / "data")
            switch(ROOT / "bundles" / name, to=bundle.root, method="joint", encoder="", image_size=IMAGE_SIZE)
            write_dataset(bundle.kind, bundle.data, 6, seed=3, size=96, image_format="png")
            bundle.monai("run training", bundle.config("train"), dataset_dir=bundle.data, num_shots=4, **QUICK)
            done[name] = bundle
        return done[name]

    return train


@pytest.fixture(scope="session", params=sorted(PHANTOMS))
def trained(request: pytest.FixtureRequest, train_bundle: Callable[[str], Trained]) -> Iterator[Trained]:
    """Each of the three bundles in turn."""
    return train_bundle(request.param)


@pytest.fixture(scope="session")
def lung(train_bundle: Callable[[str], Trained]) -> Trained:
    """The lung bundle, where one is enough."""
    return train_bundle("blosam_lung")
