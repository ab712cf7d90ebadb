"""The whole way on drawn chest radiographs: data, training, evaluation, export, one DICOM file, a report.

Everything runs through the bundle's own workflows, exactly as a user's images would.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blosam.atomicio import atomic_write
from blosam.baselines import UNet, train_plain
from blosam.bundle import Bundle
from blosam.compare.budget import Budget
from blosam.data import FeatureBank
from blosam.data.fewshot import evaluation_list
from blosam.data.phantoms.write import write_dataset
from blosam.demo_quality import phantom_calibration
from blosam.engines.progress import read_history
from blosam.errors import BlosamError
from blosam.evaluation.report import write_report
from blosam.evaluation.report_data import (
    CAVEATS,
    PHANTOM_CAVEAT,
    Case,
    Curves,
    ReportData,
    TrainingImage,
    duration,
    metric_headlines,
)
from blosam.evaluation.table import versions
from blosam.predictor import Prediction, Predictor
from blosam.writers import make_folder

IMAGE_SIDE = 512  # pixels of a drawn radiograph
_MARK = ".blosam-demo"  # a folder without this file is somebody's own and is left alone


@dataclass
class DemoResult:
    """What the demo found.

    Args:
        dice: mean held-out Dice of the bundle.
        unet_dice: the U-Net's, trained for the same time.
        report: path of the page.
        summary: ten lines for the terminal.
    """

    dice: float
    unet_dice: float
    report: Path
    summary: list[str]


@dataclass
class _Run:
    """Folders, times and results that the steps hand on."""

    out: Path
    bundle: Bundle
    seed: int
    shots: int
    held_out: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def results(self) -> Path:
        return self.out / "results"

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def run_demo(bundle: Path, out: Path, seed: int = 0, shots: int = 4, held_out: int = 20) -> DemoResult:
    """Draw, train, measure, export, segment a DICOM file, report.

    Args:
        bundle: the lung bundle; it is copied, so weights in it are not touched.
        out: folder of everything that is written; an earlier demo there is replaced.
        seed: draws phantoms, split and views.
        shots: training images.
        held_out: images to measure on.

    Raises:
        BlosamError: when ``out`` holds something other than a demo, or a step fails.
    """
    out = out.resolve()
    _clear(out)
    copy = out / "bundle"
    shutil.copytree(Bundle(bundle).root, copy, ignore=shutil.ignore_patterns("models", "results", "predictions"))
    run = _Run(out, Bundle(copy), seed, shots, held_out)
    with run.timed("draw the phantoms"):
        write_dataset("chest", run.data, shots + held_out, seed=seed, size=IMAGE_SIDE, image_format="png")
        dicom = write_dataset("chest", out / "dicom", 1, seed=seed + 10_000, size=IMAGE_SIDE, image_format="dicom")
    settings = {"dataset_dir": str(run.data), "num_shots": shots, "split_seed": seed}
    with run.timed("train"):
        training = run.bundle.run("training", output_dir=str(run.results), **settings).parser
    with run.timed("evaluate"):
        table = _evaluate(run, settings, run.results)
    with run.timed("train and evaluate the U-Net"):
        unet_table = _unet(run, training, settings)
    from blosam.commands.export import export

    with run.timed("export TorchScript"):
        export(bundle=run.bundle.root, format="torchscript", out=None)
    with run.timed("segment a DICOM file"):
        segmented = _segment_dicom(run, Path(dicom[0]["image"]))
    with run.timed("compare confidence with Dice"):
        calibration = phantom_calibration(run.bundle.root, evaluation_list(run.data, shots, seed), out / "shifted")
    report = out / "report.html"
    content = _report(run, training, table, unet_table, segmented, Path(dicom[0]["label"]))
    content.calibration = calibration
    write_report(report, content)
    return DemoResult(_dice(table), _dice(unet_table), report, _summary(run, training, table, unet_table, report))


def _clear(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    make_folder(out)
    if any(out.iterdir()) and not (out / _MARK).is_file():
        raise BlosamError(f"{out}: holds files of yours. Name an empty folder with --out.")
    with atomic_write(out / _MARK, "w") as mark:
        mark.write("Written by `blosam demo`, which replaces this folder's content when it runs again.\n")
    for name in ("bundle", "data", "dicom", "results", "shifted", "unet"):
        shutil.rmtree(out / name, ignore_errors=True)


def _evaluate(run: _Run, settings: dict[str, Any], folder: Path, **overrides: Any) -> dict[str, Any]:
    """The table (rows and summary) of the bundle's evaluation workflow."""
    flow = run.bundle.run("evaluating", output_dir=str(folder), **settings, **overrides)
    return flow.parser.get_parsed_content("validate#evaluator").state.table


def _unet(run: _Run, training: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """A U-Net on the same images and views, for the time the bundle's training took, measured the same way."""
    bank = training.get_parsed_content("train#bank")
    network = UNet(bank.network.image_size, bank.network.out_channels, run.seed).to(bank.device)
    images = FeatureBank(bank.dataset, network, bank.views, bank.num_views, run.seed, bank.device)
    images.fill()
    # A large step count: the time decides, and the schedule ends with it.
    train_plain(network, images, Budget(run.seconds["train"], steps=2000), seed=run.seed)
    handlers = [
        {
            "_target_": "blosam.evaluation.PerImageTable",
            "output_dir": str(run.out / "unet"),
            "classes": run.bundle.labels,
        }
    ]
    return _evaluate(run, settings, run.out / "unet", network=network, **{"validate#handlers": handlers})


def _segment_dicom(run: _Run, path: Path) -> Prediction:
    """Through the exported TorchScript file, as a deployment would."""
    return Predictor(run.bundle.root / "models" / "model.ts").predict(path)


def _dice(table: dict[str, Any]) -> float:
    return float(table["summary"]["all"]["dice"]["mean"])


def _std(table: dict[str, Any]) -> float:
    return float(table["summary"]["all"]["dice"]["std"])


def _mask(path: Path | str) -> np.ndarray:
    """Rows x Columns class indices of a phantom's mask (0 and 255 on disk)."""
    return (np.asarray(Image.open(path).convert("L")) > 127).astype(np.uint8)


def _picture(path: Path | str) -> np.ndarray:
    """Rows x Columns uint8 of a phantom's image."""
    return np.asarray(Image.open(path).convert("L"))


def _training_images(training: Any) -> list[TrainingImage]:
    bank = training.get_parsed_content("train#bank")
    joint = training.get_parsed_content("preset").joint
    roles = {index: "D1" for index in bank.d1} | {index: "D2" for index in bank.d2}
    return [
        TrainingImage(
            Path(pair["image"]).stem, _picture(pair["image"]), _mask(pair["label"]), "" if joint else roles[i]
        )
        for i, pair in enumerate(bank.dataset.data)
    ]


def _curves(run: _Run, swapped: bool) -> Curves:
    history = read_history(run.results / "history.csv")
    with np.load(run.results / "prompt.npz") as stored:
        prompt, at = stored["prompt"], stored["iterations"].tolist()
    validation = [
        (int(i), value) for i, value in zip(history["iteration"], history["metric"], strict=True) if np.isfinite(value)
    ]
    d2 = history["d2_loss"]
    return Curves(
        iterations=[int(i) for i in history["iteration"]],
        d1_loss=history["loss"],
        d2_loss=d2 if np.isfinite(d2).any() else (),
        learning_rate=history["lr"],
        roles_swapped=swapped,
        prompt=prompt,
        prompt_iterations=at,
        validation=validation,
    )


def _cases(run: _Run) -> list[Case]:
    """Every held-out image with its true and predicted mask."""
    predictor = Predictor(run.bundle.root)
    found = []
    for pair in evaluation_list(run.data, run.shots, run.seed):
        prediction = predictor.predict(pair["image"])
        found.append(Case(Path(pair["image"]).stem, _picture(pair["image"]), _mask(pair["label"]), prediction.mask))
    return found


def _report(
    run: _Run, training: Any, table: dict, unet_table: dict, segmented: Prediction, dicom_label: Path
) -> ReportData:
    method = training.get_parsed_content("preset")
    bank = training.get_parsed_content("train#bank")
    area = (
        f"{int((segmented.mask == 1).sum()) * np.prod(segmented.spacing) / 100:.0f} cm2"
        if segmented.spacing
        else "unknown"
    )
    return ReportData(
        title="Lungs from four labelled radiographs",
        lead=f"A model trained on {run.shots} drawn chest X-rays, measured on {run.held_out} others it never saw.",
        headlines=metric_headlines(
            table["summary"], run.seconds["train"], ("U-Net", _dice(unet_table), _std(unet_table))
        ),
        steps=[
            f"Draw {run.shots + run.held_out} chest radiographs ({IMAGE_SIDE} pixels) with exact lung masks.",
            f"Train on {run.shots} of them, {bank.num_views} augmented views each: {method.summary}.",
            f"Measure on the other {run.held_out} at their own resolution; likewise a U-Net trained for the same time.",
            "Export TorchScript and segment a DICOM file with it.",
        ],
        training=_training_images(training),
        curves=_curves(run, method.swap_roles),
        rows=table["rows"],
        cases=_cases(run),
        class_names={value: name for name, value in run.bundle.labels.items()},
        dicom=Case("DICOM radiograph", segmented.image, _mask(dicom_label), segmented.mask),
        dicom_facts={
            "Rows x columns": f"{segmented.mask.shape[0]} x {segmented.mask.shape[1]}",
            "Pixel spacing": f"{segmented.spacing[0]:.3f} mm" if segmented.spacing else "not stated",
            "Lung area": area,
            "Seconds": f"{segmented.seconds:.2f}",
        },
        facts={
            "Settings": {
                "Encoder": bank.network.encoder_name,
                "Method": method.name,
                "Image size": f"{bank.network.image_size} px",
                "Views": str(bank.num_views),
                "Seed": str(run.seed),
            },
            "Timings": {step: duration(seconds) for step, seconds in run.seconds.items()},
            "Versions": versions(),
        },
        command=f"blosam demo --seed {run.seed} --shots {run.shots} --held-out {run.held_out}",
        caveats=(PHANTOM_CAVEAT, *CAVEATS),
    )


def _summary(run: _Run, training: Any, table: dict, unet_table: dict, report: Path) -> list[str]:
    method = training.get_parsed_content("preset")
    total = sum(run.seconds.values())
    weights = run.bundle.weights.stat().st_size / 1e6
    return [
        f"data        {run.shots} labelled phantoms to train on, {run.held_out} held out, {IMAGE_SIDE} px",
        f"method      {method.name}: {method.summary}",
        f"training    {duration(run.seconds['train'])}",
        f"Dice        {_dice(table):.3f} +- {_std(table):.3f} on the held-out images",
        f"U-Net Dice  {_dice(unet_table):.3f} +- {_std(unet_table):.3f} (same images and views, same time)",
        f"weights     bundle/models/model.pt ({weights:.0f} MB), adapter.safetensors",
        "export      bundle/models/model.ts (TorchScript, metadata inside)",
        "DICOM       1 radiograph segmented with model.ts",
        f"time        {duration(total)} in all",
        f"report      {report}",
    ]
