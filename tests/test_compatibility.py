"""What is refused before a workflow runs, and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blosam.bundle import Bundle
from blosam.compatibility import check_metadata, check_overrides, check_run, names_setting
from blosam.errors import BlosamError
from blosam.weightsio import load_strict, read_state, save_state_dict

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "bundles" / "blosam_lung" / "configs" / "train.json"
EVALUATE = TRAIN.with_name("evaluate.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": "https://example.org/meta_schema_20310101.json"}, "schema of 20310101, .* up to 20240725"),
        ({"required_packages_version": {"blosam": "99.1.0"}}, "needs blosam 99.1.0, this is .* Update blosam"),
    ],
)
def test_a_newer_bundle_is_refused_with_both_versions(tmp_path, change, reason):
    metadata = json.loads(TRAIN.with_name("metadata.json").read_text())
    check_metadata(metadata, "here")
    path = tmp_path / "configs" / "metadata.json"
    path.parent.mkdir()
    path.write_text(json.dumps(metadata | change))
    with pytest.raises(BlosamError, match=f"metadata.json: .*{reason}"):
        check_run(tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--num_shot", "4"], "--num_shot: no such setting in train.json. Did you mean --num_shots"),
        (["--split-sed=3"], "Did you mean --split_seed"),
        (["--train#trainer#max_epochs", "3", "--train#lodaer#seed", "3"], "--train#lodaer#seed"),
        (["--qqq", "3"], "first lines of .*train.json"),
    ],
)
def test_overrides_that_set_nothing_are_refused(words, reason):
    with pytest.raises(BlosamError, match=reason):
        check_overrides(["run", "training", "--config_file", str(TRAIN), *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--num_shots", "4", "--bundle_root=/somewhere", "--meta_file", "m.json", "--workflow_type", "train"],
        ["--num-shots=4", "--train#trainer#max_epochs", "3", "--train::trainer::max_epochs", "3"],
        ["--train#trainer#amp", "true", "--+labels", "{'heart': 2}", "--train#handlers#0#_disabled_", "true"],
        ["--tracking", "mlflow", "--experiment_name", "first", "--run_name", "one"],
        ["--_meta_#version", "1.0"],
    ],
)
def test_overrides_that_set_something_pass(words):
    check_overrides(["run", "training", "--config_file", str(TRAIN), *words])


@pytest.mark.parametrize("quotes", ["['{}','{}']", "[{},{}]", "('{}', '{}')"])
def test_every_config_of_an_overlay_counts(quotes):
    files = quotes.format(TRAIN, EVALUATE)
    check_overrides(["run", "evaluating", "--config_file", files, "--subset", "test", "--num_shots", "4"])
    with pytest.raises(BlosamError, match="in train.json and evaluate.json. Did you mean --subset"):
        check_overrides(["run", "evaluating", "--config_file", files, "--subst", "test"])


def test_other_commands_and_runs_without_a_config_are_left_alone():
    check_overrides(["ckpt_export", "--config_file", str(TRAIN), "--qqq", "1"])
    check_overrides(["run", "--args_file", "arguments.json", "--qqq", "1"])
    check_run("/nowhere")  # this process is pytest, not MONAI's command


def test_ids_reach_into_lists_and_components():
    config = {"a": [{"_target_": "X", "b": 1}], "plain": {"c": 1}}
    assert names_setting(config, "a#0#b") and names_setting(config, "a::0::new") and names_setting(config, "plain#c")
    assert not names_setting(config, "a#1#b") and not names_setting(config, "plain#d")
    assert not names_setting(config, "a#0#new#deeper")


def test_monais_command_ends_with_one_line():
    """A real process from another folder, as users see it: the reason, exit status 1, nothing trained."""
    words = ["run", "training", "--config_file", str(TRAIN), "--bundle_root", str(TRAIN.parents[1]), "--num_shot", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd="/",
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --num_shot: no such setting in train.json")
    assert "Traceback" not in done.stderr


def test_weights_of_another_task_are_refused_although_their_shapes_fit(tmp_path):
    network = torch.nn.Linear(2, 3)
    path = tmp_path / "model.pt"
    save_state_dict(network.state_dict(), path, {"classes": "background,lung"})
    load_strict(network, path, {"lung": 1})
    load_strict(network, path)
    with pytest.raises(BlosamError, match="for the classes background,lung, the bundle's are background,polyp"):
        load_strict(network, path, {"polyp": 1})
    # Readers that know nothing of it find a flat state dict, weights-only.
    state = torch.load(path, weights_only=True)
    assert set(state) == {"weight", "bias"} == set(read_state(path))
    network.load_state_dict(state, strict=True)
    save_state_dict(network.state_dict(), path)
    load_strict(network, path, {"polyp": 1})  # says nothing, as files of other programs


def test_bundles_refuse_each_others_weights(tmp_path):
    """Through the loader in the configs, at the size they are made for."""
    lung, polyp = (Bundle(ROOT / "bundles" / f"blosam_{name}") for name in ("lung", "polyp"))
    network = lung.parser().get_parsed_content("network_def")
    path = tmp_path / "model.pt"
    save_state_dict(network.state_dict(), path, {"classes": "background,lung"})
    for bundle, fits in ((lung, True), (polyp, False)):
        loader = bundle.parser(checkpoint=str(path), device="$torch.device('cpu')").get_parsed_content("handlers#0")
        if fits:
            loader.load()
        else:
            with pytest.raises(BlosamError, match="for the classes background,lung"):
                loader.load()
