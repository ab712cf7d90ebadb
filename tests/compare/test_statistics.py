"""Intervals, tests and corrections against calculations that share nothing with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from blosam.compare import statistics as module
from blosam.compare.statistics import (
    Scores,
    holm,
    interval,
    missing_seeds,
    p_text,
    paired_test,
    ranking,
    scores,
    statistics,
    wilcoxon,
    write_statistics,
)

compute_tests = module.tests  # pytest would take a function of that name for a test


def table(values) -> Scores:
    array = np.asarray(values, float)
    images = tuple(f"i{n:02d}" for n in range(len(array)))
    return Scores(images, tuple(range(array.shape[1])), array, "")


def test_scores_are_images_by_seeds_with_classes_averaged_and_gaps(run_of):
    first = run_of("unet", 2, 0, {"a": 0.5, "b": 0.7})
    first["rows"].append({**first["rows"][1], "class": "heart", "dice": 0.9})
    second = run_of("unet", 2, 3, {"b": 0.4, "c": 0.2})
    found = scores([second, first], "dice")
    assert found.images == ("a", "b", "c") and found.seeds == (0, 3)
    assert found.values == pytest.approx(np.array([[0.7, np.nan], [0.7, 0.4], [np.nan, 0.2]]), nan_ok=True)
    assert found.mean == pytest.approx((0.7 + 0.3) / 2) and found.seed_means == pytest.approx([0.7, 0.3])


def test_distances_of_different_units_are_not_averaged(run_of):
    run = run_of("unet", 2, 0, {"a": 0.5, "b": 0.7})
    assert scores([run], "hd95").unit == "pixels" and scores([run], "surface_dice").unit == ""
    run["rows"][1]["unit"] = "mm"
    assert scores([run], "hd95").unit is None and scores([run], "dice").unit == ""
    assert scores([run], "surface_dice").unit is None, "its tolerance is 2 mm or some pixels"
    assert {row["metric"] for row in statistics([run], [])} == {"dice"}


def test_interval_agrees_with_scipy_without_gaps():
    values = np.random.default_rng(1).beta(8, 2, (30, 3))
    low, high = interval(values)
    theirs = stats.bootstrap(
        (values.mean(axis=1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.05 * width and abs(high - theirs.high) < 0.05 * width


def test_interval_with_gaps_agrees_with_drawing_images_one_by_one():
    generator = np.random.default_rng(3)
    values = generator.beta(5, 2, (12, 3))
    values[0, 0] = values[1, 1] = values[2, 1] = values[3, 2] = np.nan
    means = []
    for _ in range(4000):
        drawn = [values[generator.integers(12)] for _ in range(12)]
        seeds = [[row[s] for row in drawn if not np.isnan(row[s])] for s in range(3)]
        means.append(sum(sum(column) / len(column) for column in seeds) / 3)
    low, high = interval(values)
    expected = np.percentile(means, [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.06 * (expected[1] - expected[0]))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    inside = [
        low <= 0.0 <= high
        for low, high in (interval(generator.normal(size=(40, 1))) for _ in range(300))
    ]  # fmt: skip
    assert 0.89 <= np.mean(inside) <= 0.99


def test_interval_needs_two_images():
    assert interval(np.array([[0.5, 0.6]])) is None
    assert interval(np.full((5, 2), 0.5)) == pytest.approx((0.5, 0.5))


def test_wilcoxon_is_the_share_of_sign_patterns_at_least_as_extreme():
    differences = np.array([0.031, -0.012, 0.054, 0.021, 0.047, -0.003, 0.062, 0.018])
    order = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = abs(sum(rank * np.sign(d) for rank, d in zip(order, differences, strict=True)))
    totals = [
        abs(sum(r * s for r, s in zip(order, signs, strict=True))) for signs in itertools.product((1, -1), repeat=8)
    ]
    assert wilcoxon(differences) == pytest.approx(np.mean([total >= observed for total in totals]))


def test_methods_that_do_not_differ_have_p_one():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert wilcoxon(np.array([1e-12, -1e-13, 0.0])) == 1.0


def test_holm_by_its_definition():
    p_values = [0.04, 0.001, 0.03, 0.2, 0.03]
    ordered = sorted(p_values)
    stepped = [min(1.0, (5 - i) * p) for i, p in enumerate(ordered)]
    expected = {p: max(stepped[: i + 1]) for i, p in reversed(list(enumerate(ordered)))}
    for p in (0.03,):  # equal values get the same, larger one
        expected[p] = max(stepped[j] for j, q in enumerate(ordered) if q <= p)
    assert holm(p_values) == pytest.approx([expected[p] for p in p_values])
    assert holm([]) == [] and holm([0.7, 0.8]) == [1.0, 1.0]


def test_paired_test_uses_what_both_have():
    generator = np.random.default_rng(5)
    one = Scores(("a", "b", "c", "d"), (0, 1, 2), generator.random((4, 3)), "")
    other = Scores(("b", "c", "d", "e"), (1, 2, 4), generator.random((4, 3)), "")
    one.values[1, 1] = np.nan  # image b, seed 1
    other.values[3] = 100.0
    found = paired_test(one, other)
    by_hand = {
        1: [one.values[2, 1] - other.values[1, 0], one.values[3, 1] - other.values[2, 0]],
        2: [one.values[i, 2] - other.values[i - 1, 1] for i in (1, 2, 3)],
    }
    assert found["seeds"] == 2 and found["images"] == 3
    assert found["difference"] == pytest.approx(sum(sum(v) / len(v) for v in by_hand.values()) / 2)
    per_image = [by_hand[2][0], (by_hand[1][0] + by_hand[2][1]) / 2, (by_hand[1][1] + by_hand[2][2]) / 2]
    assert found["p"] == pytest.approx(stats.wilcoxon(per_image).pvalue)
    assert found["ci_low"] <= found["difference"] <= found["ci_high"]
    assert paired_test(one, Scores(("x",), (0,), np.ones((1, 1)), "")) is None


@pytest.fixture
def runs(run_of) -> list[dict]:
    """Four methods, two of 0.1 and 0.01 below the best, and one that cannot be ranked although it has most."""
    generator = np.random.default_rng(6)
    base = {f"i{n:02d}": 0.7 + 0.01 * n for n in range(15)}
    shift = {"blo-sam": 0.1, "joint": 0.11, "unet": 0.0, "sam-oracle-box": 0.14}
    found = []
    for method, more in shift.items():
        for seed in (0, 1):
            dice = {name: value + more + float(generator.normal(0, 0.004)) for name, value in base.items()}
            caveat = "oracle prompts, not comparable" if "oracle" in method else ""
            found.append(run_of(method, 2, seed, dice, caveat=caveat))
    return found


def test_ranking_and_families_leave_out_what_cannot_be_compared(runs):
    assert ranking(runs) == {2: ["joint", "blo-sam", "unet"]}
    found = compute_tests(runs)
    assert [(t["reference"], t["method"]) for t in found] == [
        ("best (joint)", "blo-sam"), ("best (joint)", "unet"), ("blo-sam", "joint"), ("blo-sam", "unet"),
        ("unet", "joint"), ("unet", "blo-sam"),
    ]  # fmt: skip
    for name in {t["reference"] for t in found}:
        family = [t for t in found if t["reference"] == name]
        assert [t["p_holm"] for t in family] == pytest.approx(holm([t["p"] for t in family]))
    to_unet = next(t for t in found if (t["reference"], t["method"]) == ("unet", "joint"))
    assert to_unet["difference"] == pytest.approx(0.11, abs=0.005) and to_unet["p"] == pytest.approx(2**-14)


def test_statistics_hold_every_method_with_its_rank_and_p(runs, tmp_path):
    tested = compute_tests(runs)
    rows = {(row["method"], row["metric"]): row for row in statistics(runs, tested)}
    assert len(rows) == 12
    oracle, unet = rows["sam-oracle-box", "dice"], rows["unet", "dice"]
    assert oracle["ranked"] == "no" and oracle["rank"] is None and oracle["p_best"] is None
    assert unet["rank"] == 3 and unet["p_unet"] is None and unet["p_best"] < 0.001
    values = scores([run for run in runs if run["method"] == "unet"], "dice")
    assert unet["mean"] == pytest.approx(values.values.mean())
    assert unet["std_over_seeds"] == pytest.approx(abs(np.subtract(*values.seed_means)) / np.sqrt(2))
    assert rows["unet", "hd95"]["unit"] == "pixels"
    write_statistics(tmp_path, list(rows.values()), tested)
    lines = (tmp_path / "tests.csv").read_text().splitlines()
    assert lines[0].startswith("shots,reference,method") and len(lines) == 7 and "6.104e-05" in lines[5]


def test_missing_seeds_are_those_that_others_have(runs):
    assert missing_seeds(runs) == {}
    assert missing_seeds(runs[:-1]) == {(2, "sam-oracle-box"): [1]}


def test_p_values_in_words():
    assert [p_text(p) for p in (None, 0.0004, 0.0312, 0.4, 1.0)] == [
        "",
        "p < 0.001",
        "p = 0.031",
        "p = 0.40",
        "p = 1.00",
    ]
