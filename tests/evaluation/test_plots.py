"""The charts: numbers behind them by independent calculation, and SVG that can live inside a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from blosam.evaluation import plots
from blosam.evaluation.report_data import Curves

CURVES = Curves(
    iterations=list(range(50)),
    d1_loss=list(np.linspace(1, 0.1, 50)),
    d2_loss=list(np.linspace(1.2, 0.3, 50)),
    learning_rate=list(np.linspace(5e-3, 0, 50)),
    validation=[(10, 0.5), (20, 0.912), (30, 0.9)],
)
PROMPT = np.cumsum(np.random.default_rng(0).normal(size=(50, 32)), axis=0)


def all_plots(curves: Curves = CURVES) -> list[str]:
    return [
        plots.loss_plot(curves),
        plots.learning_rate_plot(curves),
        plots.validation_plot(curves),
        plots.prompt_change_plot(curves.iterations, PROMPT[: len(curves.iterations)]),
        plots.prompt_path_plot(PROMPT),
    ]


@pytest.mark.parametrize("svg", all_plots(), ids=["loss", "rate", "validation", "change", "path"])
def test_svg_is_well_formed_fetches_nothing_and_takes_the_colours_of_the_page(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" and root.get("viewBox") and root.get("width") is None and root.get("height") is None
    assert "http" not in svg and "<script" not in svg and "<image" not in svg
    assert "var(--ink)" in svg and "#0102" not in svg
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))


def test_ids_of_different_plots_do_not_collide_and_references_resolve() -> None:
    seen: set[str] = set()
    for svg in all_plots():
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert not ids & seen
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= ids
        seen |= ids


def test_the_best_validation_is_named() -> None:
    assert "best 0.912" in plots.validation_plot(CURVES)


def test_one_iteration_and_a_prompt_that_stands_still_can_be_drawn() -> None:
    one = Curves(iterations=[0], d1_loss=[0.5], learning_rate=[1e-3], validation=[(0, 0.3)])
    assert "D2" not in plots.loss_plot(one) and "training images" in plots.loss_plot(one)
    assert "<svg" in plots.validation_plot(one) and "<svg" in plots.learning_rate_plot(one)
    assert "<svg" in plots.prompt_path_plot(np.ones((3, 4))) and "<svg" in plots.prompt_path_plot(np.ones((1, 4)))


def test_losses_that_are_not_known_are_left_out() -> None:
    gaps = Curves(iterations=[0, 1, 2, 3], d1_loss=[1.0, np.nan, 0.5, 0.4], d2_loss=[np.nan] * 4)
    svg = plots.loss_plot(gaps)
    assert "nan" not in svg.lower() and "D2: prompt" not in svg and "D1: weights" in svg


@pytest.mark.parametrize("length", [1, 2, 7, 40, 101, 200])
def test_running_mean_by_loops(length: int) -> None:
    values = np.random.default_rng(1).normal(size=length)
    reach = int(length * 0.05 / 2)
    expected = []
    for i in range(length):
        near = min(reach, i, length - 1 - i)
        expected.append(np.mean(values[i - near : i + near + 1]))
    np.testing.assert_allclose(plots.running_mean(values), expected)


def test_principal_components_equal_those_of_the_covariance() -> None:
    scores, share = plots.principal_components(PROMPT)
    values, vectors = np.linalg.eigh(np.cov(PROMPT.T))
    np.testing.assert_allclose(share, values[::-1][:2] / values.sum())
    expected = (PROMPT - PROMPT[0]) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-9)
    assert (scores[0] == 0).all() and (scores[-1] >= 0).all()


def test_principal_components_of_a_line() -> None:
    scores, share = plots.principal_components(np.outer(np.arange(4.0), [3.0, 4.0, 0.0]))
    np.testing.assert_allclose(scores[:, 0], [0, 5, 10, 15])
    np.testing.assert_allclose(scores[:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(share, [1, 0], atol=1e-12)
