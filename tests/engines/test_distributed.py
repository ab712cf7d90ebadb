"""Two and three processes do what one does: real processes, joined by Gloo, on a network of a few hundred weights."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from blosam import processes
from blosam.engines import ShardSampler
from blosam.engines.distributed import SharedFailure, local_device
from blosam.errors import BlosamError

WORKER = Path(__file__).with_name("worker.py")
SCENARIOS = ["loss", "differ", "resume", "evaluate 5", "evaluate 2"]
TOLERANCE = 1e-5  # of weights around 0.1 and losses around 0.4, in float32, after all steps


def _worker():
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = _worker()


@pytest.fixture(scope="module")
def teams(tmp_path_factory) -> dict[str, Path]:
    """Folders in which teams of processes have left their results, outputs and exit codes."""
    jobs = [(f"team of {count}", count, 120, [*worker.TRAININGS, *SCENARIOS]) for count in (2, 3)]
    jobs += [(how, 2, 5 if how == "second hangs" else 120, [how]) for how in worker.FAILURES]
    plans, folders, stores = [], {}, []
    for name, count, timeout, scenarios in jobs:
        # The teams meet at a store in this process, as torchrun's agent keeps one: it outlives each of them.
        stores.append(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        folders[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
        plans.append({"folder": str(folders[name]), "count": count, "port": stores[-1].port, "timeout": timeout,
                      "scenarios": scenarios})  # fmt: skip
    subprocess.run([sys.executable, str(WORKER), json.dumps(plans)], check=True, timeout=500)
    return folders


def outcome(folder: Path) -> list[tuple[int, str]]:
    """Exit code and output of every process of a team."""
    codes = json.loads((folder / "codes.json").read_text())
    return [(code, (folder / f"output{number}.txt").read_text()) for number, code in enumerate(codes)]


@pytest.fixture(scope="module")
def together(teams) -> dict[int, list[dict]]:
    """What every process of a team of two and of three found."""
    results = {}
    for count in (2, 3):
        folder = teams[f"team of {count}"]
        for code, text in outcome(folder):
            assert code == 0, text[-3000:]
        results[count] = [torch.load(folder / f"rank{k}.pt", weights_only=False) for k in range(count)]
    return results


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    return {name: worker.train(**options) for name, options in worker.TRAININGS.items() if name != "auto views"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", [name for name in worker.TRAININGS if name != "auto views"])
def test_the_result_does_not_depend_on_the_number_of_processes(together, alone, name, count):
    ranks, one = [result[name] for result in together[count]], alone[name]
    for other in ranks[1:]:  # after every step, bit for bit
        assert other["losses"] == ranks[0]["losses"]
        assert all(torch.equal(a, b) for a, b in zip(other["weights"], ranks[0]["weights"], strict=True))
    assert len(ranks[0]["weights"]) == len(one["weights"]) > 2
    assert ranks[0]["losses"][0] == pytest.approx(one["losses"][0], abs=1e-6)
    tolerance = {"finite difference": 1e-4, "float16": 1e-3}.get(name, TOLERANCE)
    assert np.allclose(ranks[0]["losses"], one["losses"], atol=tolerance)
    assert torch.allclose(ranks[0]["weights"][-1], one["weights"][-1], atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_every_process_holds_the_bank_that_one_would_make(together, alone, count):
    for result in together[count]:
        for key in ("features", "labels"):
            assert torch.equal(result["uneven batches"][key], alone["uneven batches"][key])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_the_main_process_decides_how_many_views(together, count):
    views = {result["auto views"]["num_views"] for result in together[count]}
    assert len(views) == 1 and views <= {32, 16, 8, 4, 1}


def numpy_loss(weight: np.ndarray, logits: np.ndarray, target: np.ndarray) -> float:
    """0.2 cross-entropy + 0.8 batch-wise Dice with squares, written down once more."""
    z = np.tanh(logits * weight[:, None, None])
    shifted = np.exp(z - z.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    entropy = -(target * np.log(p)).sum(1).mean()
    axes = (0, 2, 3)
    # With soft labels MONAI takes the overlap from the squared difference, which is the same as the product.
    dice = (2 * (p * target).sum(axes) + 1e-5) / ((p**2).sum(axes) + (target**2).sum(axes) + 1e-5)
    return 0.2 * entropy + 0.8 * (1 - dice).mean()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_loss_and_its_derivatives_are_those_of_the_whole_batch_by_brute_force(together, count):
    direction, step = np.array([1.0, 2.0]), 1e-4
    for result in together[count]:
        found = result["loss"]
        logits, target, weight = (found[key].numpy() for key in ("logits", "target", "weight"))

        def slope(at, by, logits=logits, target=target):
            return (numpy_loss(at + step * by, logits, target) - numpy_loss(at - step * by, logits, target)) / (
                2 * step
            )

        assert float(found["loss"]) == pytest.approx(numpy_loss(weight, logits, target), abs=1e-9)
        gradient = [slope(weight, unit) for unit in np.eye(2)]
        assert found["gradient"].numpy() == pytest.approx(gradient, abs=1e-7)
        second = [
            (slope(weight + step * unit, direction) - slope(weight - step * unit, direction)) / (2 * step)
            for unit in np.eye(2)
        ]
        assert found["second"].numpy() == pytest.approx(second, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(together, count):
    for result in together[count]:
        pairs = zip(result["resume"]["undisturbed"], result["resume"]["resumed"], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("images", [5, 2])
def test_every_image_is_measured_once_even_where_a_process_has_none(together, tmp_path, count, images):
    one = worker.evaluate(tmp_path, images)
    assert 0.5 < one["dice"] < 1
    for result in together[count]:
        found = result[f"evaluate {images}"]
        assert found["dice"] == pytest.approx(one["dice"], abs=1e-7) and found["best"] == found["dice"]
        assert torch.equal(found["details"], one["details"])
        assert found["rows"] == one["rows"]


@pytest.mark.slow
def test_the_main_process_alone_writes(together, teams):
    folder = teams["team of 3"]
    names = sorted(path.name for path in folder.rglob("*.*"))
    assert [names.count(name) for name in ("metrics.csv", "last.pt", "model.pt", "history.csv")] == [2, 2, 2, 2]
    assert not [name for name in names if ".tmp" in name or "probe" in name]
    overlays = sorted(path.name[:3] for path in (folder / "table5" / "overlays").iterdir())
    assert overlays == ["001", "002", "003", "004", "005"]
    for history in folder.rglob("history.csv"):
        iterations = [row.split(",")[0] for row in history.read_text().splitlines()[1:]]
        assert iterations == [str(number + 1) for number in range(len(iterations))]
    (first, *others) = [(folder / f"output{number}.txt").read_text() for number in range(3)]
    assert "Encoded 7 images" in first and "Resumed from" in first
    assert all("INFO" not in other for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_other_images_in_one_process_are_refused_everywhere(together, count):
    errors = {result["differ"].get("error") for result in together[count]}
    assert len(errors) == 1 and "process 1" in errors.pop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("first raises", "process 0 of 2 failed: scan7.png: the disk is full"),
        ("second raises", "process 1 of 2 failed: scan7.png: the disk is full"),
        ("second killed", "process 0 of 2 has lost another one"),
        ("second hangs", "process 0 of 2 has lost another one"),
    ],
)
def test_when_one_process_fails_all_end_and_say_why(teams, how, message):
    outcomes = outcome(teams[how])
    assert all(code != 0 for code, _ in outcomes)
    assert message in outcomes[1 if how == "first raises" else 0][1]
    if how == "second raises":  # the main process has kept the last complete epoch, although it writes every fifth
        assert torch.load(teams[how] / "last.pt", weights_only=True)["engine"]["epoch"] == 1


def test_one_process_is_no_team(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (0, 1, True)
    assert processes.gathered(3) == [3] and processes.from_main(lambda: 4) == 4
    gradients = (torch.ones(2), None)
    assert processes.averaged(gradients) is gradients
    assert list(ShardSampler(range(3))) == [0, 1, 2] and not ShardSampler(range(3)).padding
    with pytest.raises(KeyError), SharedFailure():
        raise KeyError("own errors stay as they are")


@pytest.mark.parametrize("total", [0, 1, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_cover_everything_once(monkeypatch, total, count):
    monkeypatch.setattr(processes, "world_size", lambda: count)
    parts = [processes.share(total, number) for number in range(count)]
    assert [k for part in parts for k in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    shards = [list(range(total))[number::count] for number in range(count)]
    assert processes.interleaved(shards) == list(range(total))


def test_more_processes_than_gpus_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BlosamError, match="nproc_per_node=2"):
        local_device()
