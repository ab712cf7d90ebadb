"""Resuming, refusing, selecting and writing: what a run leaves on disk and takes up again."""

from __future__ import annotations

import errno
import logging
import os

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import EarlyStopHandler, ValidationHandler
from monai.handlers import MeanDice as MeanDiceHandler
from monai.handlers.utils import from_engine
from monai.transforms import AsDiscreted

from blosam import weightsio
from blosam.engines import (
    BilevelEvents,
    CheckpointLoader,
    EarlyStop,
    FrozenFeatureInferer,
    History,
    KeyMetric,
    LastCheckpoint,
    ModelSaver,
    PolySchedule,
)
from blosam.errors import BlosamError


class Stop(Exception):
    """Stands in for kill -9: the process is simply gone."""


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stop_at(trainer, iteration, exception=Stop):
    def raise_it(engine):
        raise exception

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), raise_it)
    return trainer


def run_and_stop(trainer, iteration, exception=Stop):
    with pytest.raises(exception):
        stop_at(trainer, iteration, exception).run()


MODES = {
    "first order": {},
    "second order with dropout": {"order": 2, "dropout": 0.3},
    "joint": {"joint": True},
    "bfloat16": {"amp": True, "amp_dtype": "bfloat16"},
    "views": {"num_views": 4},
    "fused optimizer, second order": {"fused": True, "order": 2},
}


def test_resuming_with_another_method_is_refused_by_name(make_trainer, tmp_path):
    path = tmp_path / "last.pt"
    make_trainer([LastCheckpoint(path, method="late-lora")], epochs=1).run()
    with pytest.raises(BlosamError, match="its method is late-lora, now it is blo-sam. Give --method late-lora, or"):
        make_trainer([LastCheckpoint(path, resume=True, method="blo-sam")]).run()
    make_trainer([LastCheckpoint(path, resume=True, method="late-lora")], epochs=2).run()
    make_trainer([LastCheckpoint(path, resume=True)], epochs=3).run()  # who does not say it is not asked


@pytest.mark.parametrize(("many", "written"), [(10**6, [1, 2, 3]), (1, [1, 3])])
def test_large_states_are_written_first_and_every_tenth_epoch(make_trainer, tmp_path, monkeypatch, many, written):
    monkeypatch.setattr("blosam.engines.checkpoint._MANY", many)
    last, epochs = LastCheckpoint(tmp_path / "last.pt"), []
    write = last._write
    monkeypatch.setattr(last, "_write", lambda: (write(), epochs.append(last._kept_epoch)))
    make_trainer([last], epochs=3).run()
    assert epochs == written


@pytest.mark.parametrize("mode", list(MODES))
def test_b15_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    mode, make_trainer, validator, brightness_view, trained_state, tmp_path
):
    def build(folder, resume):
        torch.manual_seed(7)  # what set_determinism does at the start of each process
        scores = validator([0.2, 0.5, 0.4, 0.1, 0.3], interval=1)
        handlers = [
            LastCheckpoint(folder / "last.pt", resume=resume),
            scores,
            ModelSaver(folder / "model.pt", validator=scores),
            History(folder / "history.csv", validator=scores),
        ]
        return make_trainer(handlers, epochs=5, views=brightness_view, **MODES[mode])

    whole = build(tmp_path / "whole", False)
    last = {}
    whole.add_event_handler(BilevelEvents.EPOCH_CLOSED, lambda e: last.update(state=trained_state(e.network)))
    whole.run()

    length = whole.state.epoch_length
    run_and_stop(build(tmp_path / "parts", False), 2 * length + 1)  # in the third epoch
    run_and_stop(build(tmp_path / "parts", True), 4 * length)  # and once more, before the fourth is saved
    resumed = build(tmp_path / "parts", True)
    ours = {}
    resumed.add_event_handler(BilevelEvents.EPOCH_CLOSED, lambda e: ours.update(state=trained_state(e.network)))
    resumed.run()

    assert resumed.state.iteration == whole.state.iteration == 5 * length
    assert equal(ours["state"], last["state"])
    assert equal(trained_state(resumed.network), trained_state(whole.network))  # epoch 2, the best one
    one, two = (weightsio.read_state(tmp_path / part / "model.pt") for part in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert equal(one.values(), two.values())
    assert (tmp_path / "whole/history.csv").read_text() == (tmp_path / "parts/history.csv").read_text()
    for a, b in zip(whole.optimizers, resumed.optimizers, strict=True):
        for x, y in zip(a.state_dict()["state"].values(), b.state_dict()["state"].values(), strict=True):
            assert equal(x.values(), y.values())


def test_automatic_number_of_views_is_kept_on_resume(make_trainer, brightness_view, tmp_path):
    path = tmp_path / "last.pt"
    first = make_trainer([LastCheckpoint(path)], views=brightness_view, num_views="auto")
    first.data_loader.bank.seconds = 1e-9  # nothing fits: one view
    run_and_stop(first, 3)
    second = make_trainer([LastCheckpoint(path, resume=True)], views=brightness_view, num_views="auto")
    second.run()
    assert second.data_loader.bank.num_views == 1


def test_ctrl_c_says_how_to_go_on_and_is_raised_again(make_trainer, trained_state, tmp_path, caplog):
    path = tmp_path / "last.pt"
    with caplog.at_level(logging.WARNING, logger="blosam"):
        run_and_stop(make_trainer([LastCheckpoint(path)]), 4, KeyboardInterrupt)
    assert f"Interrupted in epoch 2 of 3. {path} keeps the state after epoch 1" in caplog.text
    assert "resume=true" in caplog.text
    resumed, whole = make_trainer([LastCheckpoint(path, resume=True)]), make_trainer()
    resumed.run()
    whole.run()
    assert equal(trained_state(resumed.network), trained_state(whole.network))


def test_ctrl_c_in_the_first_epoch_says_that_nothing_is_kept(make_trainer, tmp_path, caplog):
    make_trainer([LastCheckpoint(tmp_path / "last.pt")], epochs=1).run()  # the state of an older run is not this one's
    with caplog.at_level(logging.WARNING, logger="blosam"):
        run_and_stop(make_trainer([LastCheckpoint(tmp_path / "last.pt")]), 1, KeyboardInterrupt)
    assert "nothing is kept" in caplog.text


def test_resume_without_a_file_starts_afresh_and_says_so(make_trainer, trained_state, tmp_path, caplog):
    trainer, plain = make_trainer([LastCheckpoint(tmp_path / "last.pt", resume=True)]), make_trainer()
    with caplog.at_level(logging.INFO, logger="blosam"):
        trainer.run()
    plain.run()
    assert "does not exist: training starts from the beginning" in caplog.text
    assert equal(trained_state(trainer.network), trained_state(plain.network))


def test_finished_run_is_left_as_it_is_and_more_epochs_go_on(make_trainer, trained_state, tmp_path, caplog):
    path = tmp_path / "last.pt"
    first = make_trainer([LastCheckpoint(path)], epochs=2)
    first.run()
    content = path.read_bytes()
    second = make_trainer([LastCheckpoint(path, resume=True)], epochs=2)
    with caplog.at_level(logging.INFO, logger="blosam"):
        second.run()
    assert "had already ended after epoch 2" in caplog.text
    assert path.read_bytes() == content
    assert equal(trained_state(second.network), trained_state(first.network))
    assert not second.data_loader.bank.filled
    third = make_trainer([LastCheckpoint(path, resume=True)], epochs=4)
    third.run()
    assert (third.state.epoch, third.state.iteration) == (4, 8)


def test_another_base_is_refused(make_trainer, toy_net, tmp_path):
    path = tmp_path / "last.pt"
    make_trainer([LastCheckpoint(path)]).run()
    content = path.read_bytes()
    other = make_trainer([LastCheckpoint(path, resume=True)], net=toy_net(seed=5))
    with pytest.raises(BlosamError, match="its base_sha256 is .* resume false"):
        other.run()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "3 epochs behind it, max_epochs is 2"),
        ({"batch_size": 2}, "an epoch had 2 iterations, now it has 1"),
        ({"net_channels": 3}, "its out_channels is 2, the network's is 3"),
        ({"iou": 1.0}, "optimizers do not fit this method"),
    ],
)
def test_a_state_of_another_run_is_refused(change, message, make_trainer, toy_net, tmp_path):
    path = tmp_path / "last.pt"
    make_trainer([LastCheckpoint(path)]).run()
    channels = change.pop("net_channels", 2)
    with pytest.raises(BlosamError, match=message):
        make_trainer([LastCheckpoint(path, resume=True)], net=toy_net(out_channels=channels), **change).run()


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_state_is_refused(keep, make_trainer, tmp_path):
    path = tmp_path / "last.pt"
    make_trainer([LastCheckpoint(path)], epochs=1).run()
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with pytest.raises(BlosamError, match="truncated or no training state"):
        make_trainer([LastCheckpoint(path, resume=True)]).run()
    torch.save({"network": torch.zeros(1)}, path)
    with pytest.raises(BlosamError, match="is no training state"):
        make_trainer([LastCheckpoint(path, resume=True)]).run()


def test_disk_full_keeps_the_old_state(make_trainer, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    make_trainer([LastCheckpoint(path)], epochs=1).run()
    content = path.read_bytes()

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = make_trainer([LastCheckpoint(path)], epochs=2)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: monkeypatch.setattr(os, "fsync", no_space))
    with pytest.raises(BlosamError, match="disk is full"):
        trainer.run()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("make_handler", [LastCheckpoint, ModelSaver])
def test_a_folder_that_cannot_be_written_is_an_error_before_training(make_handler, make_trainer, tmp_path):
    (tmp_path / "models").write_text("a file where the folder should be")
    trainer = make_trainer([make_handler(tmp_path / "models" / "file.pt")])
    with pytest.raises(BlosamError, match="cannot write"):
        trainer.run()
    assert trainer.state.iteration == 0


def test_state_holds_no_frozen_weights(make_trainer, tmp_path):
    trainer = make_trainer([LastCheckpoint(tmp_path / "last.pt")])
    trainer.run()
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["trained"]
    wanted = {n for n, p in trainer.network.named_parameters() if p.requires_grad}
    assert set(saved) == wanted


# --- selection ----------------------------------------------------------------------------------------------


def run_with_snapshots(trainer, trained_state):
    """Weights after each epoch."""
    kept = {}
    trainer.add_event_handler(
        BilevelEvents.EPOCH_CLOSED, lambda e: kept.update({e.state.epoch: trained_state(e.network)})
    )
    trainer.run()
    return kept


@pytest.mark.parametrize(
    ("scores", "best"), [([0.1, 0.7, 0.3], 2), ([float("nan"), 0.0, float("nan")], 2), ([0.2, 0.1, 0.9], 3)]
)
def test_b14_the_best_epoch_is_in_the_network_and_in_the_file(
    scores, best, make_trainer, validator, toy_net, trained_state, tmp_path
):
    scripted = validator(scores)
    saver = ModelSaver(tmp_path / "model.pt", tmp_path / "adapter.safetensors", scripted, {"method": "test"})
    # Before the validator in the list: the place must not matter.
    trainer = make_trainer([saver, scripted])
    kept = run_with_snapshots(trainer, trained_state)
    assert equal(trained_state(trainer.network), kept[best])
    loaded, adapted = toy_net(seed=3), toy_net()
    weightsio.load_strict(loaded, tmp_path / "model.pt")
    metadata = weightsio.load_adapter(adapted, tmp_path / "adapter.safetensors")
    image = torch.rand(2, 3, 16, 16)
    trainer.network.eval()
    assert torch.equal(loaded.eval()(image), trainer.network(image))
    assert torch.equal(adapted.eval()(image), trainer.network(image))
    assert metadata["method"] == "test"


@pytest.mark.parametrize("score", [0.0, float("nan")])
def test_b14_ties_go_to_the_lower_d2_loss_and_a_file_is_always_written(
    score, make_trainer, validator, trained_state, tmp_path
):
    scripted, losses = validator([score] * 4), {}
    saver = ModelSaver(tmp_path / "model.pt", validator=scripted)
    trainer = make_trainer([scripted, saver], epochs=4, lr=0.1, prompt_lr=0.1)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: losses.setdefault(e.state.epoch, []).append(e.state.output["d2_loss"]),
    )
    kept = run_with_snapshots(trainer, trained_state)
    best = min(losses, key=lambda epoch: sum(losses[epoch]) / len(losses[epoch]))
    assert saver.best_epoch == best
    assert equal(trained_state(trainer.network), kept[best])
    assert (tmp_path / "model.pt").is_file()


def test_only_validated_epochs_compete(make_trainer, validator, tmp_path):
    scripted = validator([0.3, 0.2], interval=2)
    saver = ModelSaver(tmp_path / "model.pt", validator=scripted)
    make_trainer([scripted, saver], epochs=5).run()
    assert saver.best_epoch == 2


def test_never_validated_writes_the_last_weights(make_trainer, validator, trained_state, tmp_path):
    saver = ModelSaver(tmp_path / "model.pt", validator=validator([], interval=100))
    trainer = make_trainer([saver])
    kept = run_with_snapshots(trainer, trained_state)
    assert equal(trained_state(trainer.network), kept[3])
    assert (tmp_path / "model.pt").is_file()


def test_without_a_validator_the_d2_loss_decides_and_the_log_says_so(make_trainer, tmp_path, caplog):
    saver = ModelSaver(tmp_path / "model.pt")
    with caplog.at_level(logging.INFO, logger="blosam"):
        make_trainer([saver]).run()
    assert "lowest mean D2 loss" in caplog.text
    assert saver.best_metric == -saver.best_d2_loss


# --- early stopping -----------------------------------------------------------------------------------------


def stopping_handlers(kind, scores, path, resume):
    if kind == "monai":
        stop = EarlyStopHandler(patience=2, score_function=KeyMetric(scores))  # no trainer: as in a config
        return [LastCheckpoint(path, resume=resume), scores, stop]
    return [EarlyStop(2, scores), LastCheckpoint(path, resume=resume), scores]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["monai", "ours"])
def test_early_stopping_survives_a_resume(kind, make_trainer, validator, tmp_path, caplog):
    path, values = tmp_path / "last.pt", [0.5, 0.6, 0.4, 0.3, 0.9, 0.9]
    run_and_stop(make_trainer(stopping_handlers(kind, validator(values), path, False), epochs=6), 7)
    # Three epochs are done and one bad validation is counted: the next one stops the run.
    second = make_trainer(stopping_handlers(kind, validator(values), path, True), epochs=6)
    second.run()
    assert second.state.epoch == 4
    third = make_trainer(stopping_handlers(kind, validator(values), path, True), epochs=6)
    with caplog.at_level(logging.INFO, logger="blosam"):
        third.run()
    assert third.state.epoch == 4
    assert "early stopping" in caplog.text


def test_patience_counts_validations_not_epochs(make_trainer, validator):
    scores = validator([0.5, 0.4, 0.3, 0.2], interval=3)
    trainer = make_trainer([EarlyStop(2, scores), scores], epochs=12)
    trainer.run()
    assert trainer.state.epoch == 9


def test_patience_zero_never_stops(make_trainer, validator):
    scores = validator([0.5, 0.4, 0.3, 0.2, 0.1])
    trainer = make_trainer([EarlyStop(0, scores), scores], epochs=5)
    trainer.run()
    assert trainer.state.epoch == 5


def test_stopped_run_still_writes_the_best_model(make_trainer, validator, trained_state, tmp_path):
    scores = validator([0.5, 0.1, 0.1, 0.1])
    saver = ModelSaver(tmp_path / "model.pt", validator=scores)
    trainer = make_trainer([EarlyStop(1, scores), scores, saver], epochs=4)
    kept = run_with_snapshots(trainer, trained_state)
    assert set(kept) == {1, 2}
    assert equal(trained_state(trainer.network), kept[1])


# --- the handlers together, with a real evaluator -----------------------------------------------------------


def test_real_evaluator_with_frozen_features(make_trainer, toy_net, items, tmp_path):
    held_out = [
        {"image": MetaTensor(i["image"], meta={"filename_or_obj": f"{k}.png"}), "label": i["label"].float()}
        for k, i in enumerate(items(3, seed=5))
    ]
    net = toy_net()
    dice = MeanDiceHandler(include_background=False, output_transform=from_engine(["pred", "label"]))
    evaluator = SupervisedEvaluator(
        "cpu", DataLoader(Dataset(held_out), batch_size=1), net, inferer=FrozenFeatureInferer(),
        postprocessing=AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=2),
        key_val_metric={"dice": dice},
    )  # fmt: skip
    saver = ModelSaver(tmp_path / "model.pt", validator=evaluator)
    handlers = [saver, LastCheckpoint(tmp_path / "last.pt"), ValidationHandler(1, evaluator)]
    trainer = make_trainer(handlers, net=net, epochs=12, lr=0.3, prompt_lr=0.05)
    trainer.run()
    assert saver.best_metric > 0.8
    assert saver.best_metric == pytest.approx(evaluator.state.best_metric)


# --- CheckpointLoader ---------------------------------------------------------------------------------------


def test_loader_keeps_monais_name_and_loads_strictly(toy_net, tmp_path):
    path, net = tmp_path / "model.pt", toy_net()
    weightsio.save_state_dict(toy_net(seed=4).state_dict(), path)
    assert CheckpointLoader.__name__ == "CheckpointLoader"
    CheckpointLoader(str(path), {"model": net}).load()
    assert equal(net.state_dict().values(), toy_net(seed=4).state_dict().values())
    other = toy_net(out_channels=4)
    before = [t.clone() for t in other.state_dict().values()]
    with pytest.raises(BlosamError, match="misshaped"):
        CheckpointLoader(str(path), {"model": other})(None)
    assert equal(other.state_dict().values(), before)


def test_loader_without_a_file_says_so(toy_net, tmp_path):
    net = toy_net()
    optimizer = torch.optim.AdamW(net.parameters())
    for objects in ({"model": net}, {"model": net, "optimizer": optimizer}):
        with pytest.raises(BlosamError, match="no such"):
            CheckpointLoader(str(tmp_path / "absent.pt"), objects)(None)


def test_schedule_continues_after_a_resume(make_trainer, tmp_path):
    path, rates = tmp_path / "last.pt", []
    run_and_stop(make_trainer([LastCheckpoint(path)], epochs=4), 5)
    resumed = make_trainer([LastCheckpoint(path, resume=True)], epochs=4)
    assert any(isinstance(handler, PolySchedule) for handler in resumed.train_handlers)
    resumed.add_event_handler(Events.ITERATION_COMPLETED, lambda e: rates.append(e.state.output["lr"]))
    resumed.run()
    assert rates == pytest.approx([5e-3 * (1 - t / 8) ** 0.9 for t in range(4, 8)])
