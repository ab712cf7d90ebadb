"""The loop: reproducible, resumable bit for bit, and its files hold what they should."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors import safe_open

from blosam.errors import BlosamError
from blosam.pretraining.held_out import held_out_batch, held_out_dice
from blosam.pretraining.loop import COOL_DOWN, WARM_UP, Pretraining, Settings, load_weights, rate_factor
from blosam.pretraining.model import PromptableTiny


def settings(steps: int, **changes) -> Settings:
    return Settings(**{"steps": steps, "size": 32, "batch_size": 2, "kinds": ("shapes",), "held_out": 0, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six steps in one go."""
    run = Pretraining(tmp_path_factory.mktemp("whole"), settings(6, held_out=2, score_every=6), workers=0)
    run.run()
    return run


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_equals_a_whole_one(whole, tmp_path):
    Pretraining(tmp_path, settings(6, stop_at=3), workers=0).run()
    resumed = Pretraining(tmp_path, settings(6), workers=1, resume=True)
    assert resumed.step == 3
    resumed.run()
    for name in ("network", "average"):
        ours, theirs = getattr(resumed, name).state_dict(), getattr(whole, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    ours, averaged = whole.network.state_dict(), whole.average.state_dict()
    assert any(not torch.equal(ours[key], averaged[key]) for key in ours)


def test_construction_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Pretraining(tmp_path, settings(1), workers=0)
    assert torch.equal(torch.rand(3), expected)


def test_logs(whole):
    losses = list(csv.DictReader((whole.out / "losses.csv").open()))
    assert [int(row["step"]) for row in losses] == [1, 2, 3, 4, 5, 6]
    for row in losses:
        parts = float(row["unasked"]) + float(row["asked"]) + float(row["dense"])
        assert float(row["loss"]) == pytest.approx(parts, abs=2e-3)
    scores = list(csv.DictReader((whole.out / "held_out.csv").open()))
    assert [(row["step"], row["kind"]) for row in scores] == [("6", "shapes")]
    assert all(0 <= float(scores[0][name]) <= 1 for name in ("unasked", "box", "point"))


def test_the_exported_file_is_half_precision_sam_keyed_and_loads(whole):
    with safe_open(whole.out / "tiny.safetensors", "pt") as file:
        keys = list(file.keys())
        assert {file.get_tensor(key).dtype for key in keys} == {torch.float16}
    assert {key.split(".")[0] for key in keys} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    loaded = load_weights(whole.out / "tiny.safetensors", 32).state_dict()
    for key in keys:
        torch.testing.assert_close(loaded[key], whole.average.state_dict()[key], rtol=1e-3, atol=1e-6)


def test_a_resume_drops_rows_written_after_the_checkpoint(tmp_path):
    run = Pretraining(tmp_path, settings(2), workers=0)
    run.run()
    with (tmp_path / "losses.csv").open("a") as file:
        file.write("3,9,9,9,9,9,9\n")
    Pretraining(tmp_path, settings(4), workers=0, resume=True)
    assert [row.split(",")[0] for row in (tmp_path / "losses.csv").read_text().split()] == ["step", "1", "2"]


def test_a_finished_folder_is_not_overwritten(whole):
    with pytest.raises(BlosamError, match="--resume"):
        Pretraining(whole.out, settings(6), workers=0)


def test_a_run_of_another_seed_is_not_continued(whole):
    with pytest.raises(BlosamError, match="seed"):
        Pretraining(whole.out, settings(6, seed=1), workers=0, resume=True)


@pytest.mark.parametrize(
    "changes",
    [{"minutes": 1.0}, {"steps": None}, {"size": 40}, {"batch_size": 3}, {"kinds": ("brain",)}, {"kinds": ()}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(BlosamError, match="Use"):
        settings(**{"steps": 6, **changes})


def test_a_foreign_file_is_not_loaded(tmp_path):
    from safetensors.torch import save_file

    save_file({"image_encoder.unknown": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BlosamError, match="does not hold the embedded model"):
        load_weights(tmp_path / "other.safetensors", 32)


def test_learning_rate_by_hand():
    assert rate_factor(0, 0.0) == pytest.approx(1 / WARM_UP)
    assert rate_factor(WARM_UP, 0.5) == 1
    assert rate_factor(WARM_UP, 1 - COOL_DOWN / 2) == pytest.approx(0.5)
    assert rate_factor(WARM_UP, 1.0) == rate_factor(WARM_UP, 1.2) == 0


def test_a_run_by_the_clock_ends(tmp_path):
    run = Pretraining(tmp_path, settings(None, minutes=1e-6), workers=0)
    run.run()
    assert run.step == 1


@torch.no_grad()
def test_held_out_dice_compares_with_what_was_asked():
    batch = held_out_batch("chest", 2, 32)

    class Oracle(PromptableTiny):
        """Answers with the salient mask, whatever is asked."""

        def decode(self, embedding, sparse=None):
            return (batch["salient"] - 0.5).expand(-1, 4, -1, -1), None

    scores = held_out_dice(Oracle(32), batch)
    found, wanted = batch["salient"] > 0.5, batch["target"] > 0.5
    dice = 2 * (found & wanted).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + wanted.sum((1, 2, 3)))
    assert scores["unasked"] == pytest.approx(1.0)
    assert scores["box"] == scores["point"] == pytest.approx(float(dice.mean()))
