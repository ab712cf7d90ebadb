"""Curves, bars and logs of a run."""

from __future__ import annotations

import csv
import io
import logging
from types import SimpleNamespace

import pytest
from ignite.engine import Engine, Events
from monai.handlers import StatsHandler, TensorBoardStatsHandler

from blosam.engines import History, LastCheckpoint, ProgressBar, ValidationLog
from blosam.engines.progress import HISTORY_COLUMNS, read_history
from blosam.errors import BlosamError


class Stop(Exception):
    """Stands in for kill -9."""


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_history_has_one_row_per_iteration_with_the_values_of_the_run(make_trainer, validator, tmp_path):
    scores, outputs = validator([0.25, 0.75], interval=2), []
    trainer = make_trainer([History(tmp_path / "history.csv", scores), scores], epochs=4)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(dict(e.state.output)))
    trainer.run()
    rows = rows_of(tmp_path / "history.csv")
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [int(r["iteration"]) for r in rows] == list(range(1, 9))
    assert [int(r["epoch"]) for r in rows] == [1, 1, 2, 2, 3, 3, 4, 4]
    for key in ("loss", "d2_loss", "lr", "prompt_norm"):
        assert [float(r[key]) for r in rows] == [o[key] for o in outputs]
    assert [r["metric"] for r in rows] == ["", "", "", "0.25", "", "", "", "0.75"]


def test_history_is_resumed_without_duplicates_or_gaps(make_trainer, tmp_path):
    def build(folder, resume):
        handlers = [History(folder / "history.csv"), LastCheckpoint(folder / "last.pt", resume=resume)]
        return make_trainer(handlers, epochs=4)

    def stop(engine):
        raise Stop

    build(tmp_path / "whole", False).run()
    broken = build(tmp_path / "parts", False)
    broken.add_event_handler(Events.ITERATION_COMPLETED(once=6), stop)
    with pytest.raises(Stop):
        broken.run()
    table = tmp_path / "parts" / "history.csv"
    last = table.read_text().splitlines()[-1]
    with open(table, "a") as file:  # killed between the table and the state of an epoch
        file.write(last.replace("4,", "5,", 1) + "\n")
    build(tmp_path / "parts", True).run()
    assert table.read_text() == (tmp_path / "whole" / "history.csv").read_text()


def test_a_new_run_replaces_the_table_and_a_lost_one_is_no_obstacle(make_trainer, tmp_path, caplog):
    path, state = tmp_path / "history.csv", tmp_path / "last.pt"
    make_trainer([History(path)], epochs=3).run()
    make_trainer([History(path), LastCheckpoint(state)], epochs=2).run()
    assert len(rows_of(path)) == 4
    path.write_text("nonsense")
    with caplog.at_level(logging.WARNING, logger="blosam"):
        make_trainer([History(path), LastCheckpoint(state, resume=True)], epochs=3).run()
    assert [r["iteration"] for r in rows_of(path)] == ["5", "6"]
    assert "curves start at iteration 5" in caplog.text


def test_read_history_refuses_another_file(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    for name in ("x.csv", "absent.csv"):
        with pytest.raises(BlosamError, match=f"{name}: no training history"):
            read_history(tmp_path / name)


def test_tensorboard_gets_every_scalar_of_the_output(make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    handler = TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=lambda output: output[0])
    make_trainer([handler]).run()
    handler.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "d2_loss", "lr", "prompt_lr", "prompt_norm"}
    assert [e.step for e in events.Scalars("d2_loss")] == list(range(1, 7))


def test_monais_stats_handler_prints_the_output(make_trainer, capsys):
    make_trainer([StatsHandler(name="blosam.stats", output_transform=lambda output: output[0])], epochs=1).run()
    printed = capsys.readouterr()
    assert "d2_loss: 0." in printed.out + printed.err


def test_bar_shows_epochs_and_losses_of_a_trainer(make_trainer):
    shown, bar = io.StringIO(), ProgressBar()
    bar.bar.tqdm_kwargs.update(file=shown, disable=False, mininterval=0)
    make_trainer([bar]).run()
    text = shown.getvalue()
    assert "training" in text
    assert "[3/3]" in text
    for name in ("D1=", "D2=", "lr="):
        assert name in text


def test_bar_counts_the_images_of_an_evaluator():
    shown, bar = io.StringIO(), ProgressBar("segmenting")
    bar.bar.tqdm_kwargs.update(file=shown, disable=False, mininterval=0)
    engine = Engine(lambda engine, batch: {"pred": batch})
    bar.attach(engine)
    engine.run(range(5))
    assert "segmenting[5/5]" in shown.getvalue().replace(": ", "").replace(" [5", "[5")


def test_nothing_is_drawn_without_a_terminal(make_trainer, capfd):
    make_trainer([ProgressBar()]).run()
    assert "training" not in capfd.readouterr().err


def test_validation_log_names_metric_epoch_and_best(caplog):
    engine = Engine(lambda engine, batch: None)
    ValidationLog().attach(engine)
    engine.state = SimpleNamespace(epoch=4, metrics={"dice": 0.5}, key_metric_name="dice", best_metric=0.75,
                                   best_metric_epoch=2)  # fmt: skip
    with caplog.at_level(logging.INFO, logger="blosam"):
        ValidationLog()(engine)
    assert "epoch 4: dice 0.5000 (best 0.7500, epoch 2)" in caplog.text
