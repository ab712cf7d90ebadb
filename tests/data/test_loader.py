"""The order of batches: a pure function of seed and iteration that uses every image of D2 (B1, B4)."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from blosam.data import BilevelLoader, FeatureBank
from blosam.errors import BlosamError


@pytest.fixture
def make_loader(make_dataset, recorder):
    """Function (count, views=1, ...) for a loader over a bank of that many images."""

    def make(count: int, views: int = 1, **options) -> BilevelLoader:
        bank = FeatureBank(make_dataset(count), recorder(), lambda item: item, num_views=views, seed=1)
        return BilevelLoader(bank, **options)

    return make


def images(loader: BilevelLoader, level: str, iterations) -> list[int]:
    """The images a level uses in some iterations, in order."""
    return [image for i in iterations for image in loader.plan(i)[level][0]]


@pytest.mark.parametrize("count, batch_size", [(2, 1), (4, 1), (5, 1), (7, 1), (8, 1), (7, 2), (9, 3), (4, 8)])
def test_every_image_of_both_halves_is_used_in_every_epoch(make_loader, count, batch_size):
    """The authors' code shows the upper level the first D2 image only."""
    loader = make_loader(count, batch_size=batch_size)
    length = -(-len(loader.bank.d1) // batch_size)
    assert len(loader) == length
    for epoch in range(6):
        window = range(epoch * length, (epoch + 1) * length)
        assert sorted(images(loader, "d1", window)) == sorted(loader.bank.d1)
        assert set(images(loader, "d2", window)) == set(loader.bank.d2)
    for iteration in range(3 * length):
        for level in ("d1", "d2"):
            chosen, _ = loader.plan(iteration)[level]
            assert len(set(chosen)) == len(chosen) <= batch_size


def test_orders_are_shuffled_per_epoch_and_independent(make_loader):
    loader = make_loader(10)
    epochs = [tuple(images(loader, level, range(e * 5, e * 5 + 5))) for level in ("d1", "d2") for e in range(8)]
    assert len(set(epochs[:8])) > 5 and len(set(epochs[8:])) > 5
    positions = [
        (loader.bank.d1.index(a), loader.bank.d2.index(b))
        for i in range(400)
        for a, b in zip(loader.plan(i)["d1"][0], loader.plan(i)["d2"][0], strict=True)
    ]
    assert len(set(positions)) == 25  # every pairing occurs


def test_a_batch_is_a_pure_function_of_seed_and_iteration(make_loader):
    loader, other = make_loader(6, views=4, seed=3), make_loader(6, views=4, seed=3)
    for iteration in (17, 2, 40, 2):
        assert loader.plan(iteration) == other.plan(iteration)
        for level in ("d1", "d2"):
            first, second = loader.batch(iteration)[level], other.batch(iteration)[level]
            assert all(torch.equal(first[key], second[key]) for key in ("features", "label"))
    different = make_loader(6, views=4, seed=4)
    assert any(loader.plan(i) != different.plan(i) for i in range(10))


def test_iterating_goes_on_from_next_iteration_without_end(make_loader):
    loader = make_loader(4, views=3)
    taken = list(itertools.islice(loader, 5))
    assert loader.next_iteration == 5 and len(loader) == 2
    resumed = make_loader(4, views=3)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.next_iteration == 5
    assert torch.equal(next(iter(resumed))["d1"]["features"], loader.batch(5)["d1"]["features"])
    assert torch.equal(taken[4]["d2"]["label"], loader.batch(4)["d2"]["label"])


def test_resuming_keeps_the_number_of_views_that_timing_chose(make_dataset, recorder):
    def loader(seconds):
        return BilevelLoader(FeatureBank(make_dataset(4), recorder(), lambda item: item, seconds=seconds))

    first = loader(seconds=1e9)
    first.batch(0)
    second = loader(seconds=1e-9)
    second.load_state_dict(first.state_dict())
    second.batch(0)
    assert second.bank.num_views == 32
    third = loader(seconds=1e-9)
    third.batch(0)
    with pytest.raises(BlosamError, match="num_views=32, but 1 views"):
        third.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "seed 0, now it is 1"),
        ({"count": 3}, "images 4, now it is 3"),
        ({"swap_roles": True}, "swap_roles False, now it is True"),
    ],
)
def test_resuming_with_other_batches_is_refused(make_loader, change, message):
    """3 and 4 images give epochs of the same length, so nothing else would notice."""
    saved = make_loader(4).state_dict()
    with pytest.raises(BlosamError, match=message):
        make_loader(**{"count": 4, **change}).load_state_dict(saved)


def test_an_order_is_drawn_once_not_in_every_step(make_loader, monkeypatch):
    loader = make_loader(8, seed=977)
    loader.plan(0)
    drawn = []
    original = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or original(seed))
    for iteration in range(1, len(loader)):
        loader.plan(iteration)
    orders = [seed for seed in drawn if len(seed) == 4]
    assert orders == []


def test_every_view_is_used_equally_often(make_loader):
    loader = make_loader(4, views=4)
    uses = Counter()
    for iteration in range(8 * len(loader)):  # each image twice through its views
        for level in ("d1", "d2"):
            uses.update((level, i, v) for i, v in zip(*loader.plan(iteration)[level], strict=True))
    assert len(uses) == 16 and set(uses.values()) == {2}


def test_swapped_roles_let_every_image_serve_both_levels(make_loader):
    loader = make_loader(6, swap_roles=True)
    halves = [set(loader.bank.d1), set(loader.bank.d2)]
    for iteration in range(8):
        plan = loader.plan(iteration)
        assert set(plan["d1"][0]) <= halves[iteration % 2]
        assert set(plan["d2"][0]) <= halves[1 - iteration % 2]
    for level in ("d1", "d2"):
        assert set(images(loader, level, range(2 * len(loader)))) == set(range(6))


def test_joint_uses_all_images_and_needs_no_halves(make_loader):
    loader = make_loader(5, joint=True, batch_size=2)
    assert len(loader) == 3
    assert sorted(images(loader, "d1", range(3))) == [0, 1, 2, 3, 4]
    assert set(loader.batch(0)) == {"d1"}
    assert make_loader(1, joint=True).plan(7)["d1"][0] == [0]


def test_bad_arguments(make_loader):
    with pytest.raises(BlosamError, match="batch_size is 0"):
        make_loader(4, batch_size=0)
    with pytest.raises(BlosamError, match="joint and swap_roles"):
        make_loader(4, joint=True, swap_roles=True)
