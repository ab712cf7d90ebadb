"""What the trainer does to theta and p, step by step, against calculations that do not use it."""

from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.handlers import CheckpointLoader as MonaiCheckpointLoader

from blosam.data import BilevelLoader, FeatureBank
from blosam.engines import BilevelEvents, BilevelTrainer, LastCheckpoint
from blosam.errors import BlosamError
from blosam.networks import BloSam


class Batches(list):
    """A plain loader with fixed batches."""


def random_batch(seed, size=2):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(size, 8, 16, 16, generator=generator)
    mask = (torch.rand(size, 1, 16, 16, generator=generator) > 0.5).float()
    return {"features": features, "label": torch.cat([1 - mask, mask], 1)}


def state_of(trained_state, trainer):
    trainer.run()
    return trained_state(trainer.network)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def on(trainer, event, function):
    trainer.add_event_handler(event, function)
    return trainer


def test_one_step_is_adamw_on_d1_then_adamw_on_d2_at_the_new_weights(make_trainer, toy_net, dice_ce, trained_state):
    d1, d2 = random_batch(1), random_batch(2)
    trainer = make_trainer(loader=Batches([{"d1": d1, "d2": d2}]), epochs=1)
    ours = state_of(trained_state, trainer)

    net = toy_net()
    weights = torch.optim.AdamW(net.weight_parameters(), lr=5e-3, weight_decay=0.1)
    prompts = torch.optim.AdamW(net.prompt_parameters(), lr=5e-3, weight_decay=0.1)
    dice_ce(net.logits_from(d1["features"]), d1["label"]).backward()
    weights.step()
    net.zero_grad()
    dice_ce(net.logits_from(d2["features"]), d2["label"]).backward()
    prompts.step()
    assert equal(ours, trained_state(net))


def test_b1_every_d2_image_is_used_within_an_epoch(make_trainer, items):
    trainer = make_trainer(items=items(7), epochs=1)  # 4 in D1, 3 in D2
    bank, seen = trainer.data_loader.bank, []
    on(trainer, BilevelEvents.UPPER_COMPLETED, lambda e: seen.append(e.state.batch["d2"]["features"]))
    trainer.run()
    used = {i for i in bank.d2 for batch in seen if torch.equal(batch, bank.get([i], [0])["features"])}
    assert used == set(bank.d2)
    assert len(bank.d2) == 3


def test_b4_a_seed_fixes_everything_and_another_seed_changes_the_order(make_trainer, items, trained_state):
    first, again, other = (state_of(trained_state, make_trainer(items=items(6), seed=seed)) for seed in (3, 3, 4))
    assert equal(first, again)
    assert not equal(first, other)


def test_check4_d2_does_not_reach_the_first_weight_update(make_trainer, trained_state):
    after = []
    for d2_seed in (2, 3):
        loader = Batches([{"d1": random_batch(1), "d2": random_batch(d2_seed)}])
        after.append(state_of(trained_state, make_trainer(loader=loader, epochs=1)))
    assert equal(after[0][:-1], after[1][:-1])
    assert not torch.equal(after[0][-1], after[1][-1])


def test_check4_d1_does_not_reach_the_prompt_when_the_weights_are_held(make_trainer, trained_state):
    after = []
    for d1_seed in (1, 5):
        loader = Batches([{"d1": random_batch(d1_seed), "d2": random_batch(2)}])
        after.append(state_of(trained_state, make_trainer(loader=loader, epochs=1, lr=0.0)))
    assert equal(after[0], after[1])


@pytest.mark.parametrize("order", [1, 2])
def test_b11_each_level_leaves_the_other_ones_tensors_and_gradients_alone(make_trainer, trained_state, order):
    trainer = make_trainer(epochs=2, order=order)
    net, kept = trainer.network, {}

    def copy_of(parameters):
        return [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in parameters]

    def same(one, two):
        return all(
            torch.equal(a[0], b[0]) and (a[1] is b[1] or torch.equal(a[1], b[1])) for a, b in zip(one, two, strict=True)
        )

    def begin(engine):
        kept["prompts"] = copy_of(net.prompt_parameters())

    def middle(engine):
        assert same(kept["prompts"], copy_of(net.prompt_parameters()))
        kept["weights"] = copy_of(net.weight_parameters())

    def end(engine):
        assert same(kept["weights"], copy_of(net.weight_parameters()))
        kept["count"] = kept.get("count", 0) + 1

    on(trainer, Events.ITERATION_STARTED, begin)
    on(trainer, BilevelEvents.LOWER_COMPLETED, middle)
    on(trainer, BilevelEvents.UPPER_COMPLETED, end)
    trainer.run()
    assert kept["count"] == 4


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"joint": True}])
def test_b5_gradients_left_behind_by_others_do_not_matter(make_trainer, trained_state, options):
    clean = state_of(trained_state, make_trainer(**options))
    dirty = make_trainer(**options)

    def spoil(engine):
        for parameter in dirty.network.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)

    on(dirty, Events.ITERATION_STARTED, spoil)
    assert equal(clean, state_of(trained_state, dirty))


@pytest.mark.parametrize("order", [1, 2])
def test_frozen_weights_never_move(make_trainer, order):
    trainer = make_trainer(order=order)
    before = [p.clone() for p in trainer.network.encoder.parameters()]
    trainer.run()
    assert equal(before, list(trainer.network.encoder.parameters()))


@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_b8_second_order_with_weight_rate_zero_is_first_order_bit_for_bit(make_trainer, trained_state, method):
    first = state_of(trained_state, make_trainer(lr=0.0, weight_decay=0.0))
    second = state_of(trained_state, make_trainer(lr=0.0, weight_decay=0.0, order=2, hypergradient=method))
    assert equal(first, second)


def test_b7_b8_second_order_takes_the_same_first_weight_step(make_trainer, trained_state):
    loader = Batches([{"d1": random_batch(1), "d2": random_batch(2)}])
    first, second = (state_of(trained_state, make_trainer(loader=loader, epochs=1, order=order)) for order in (1, 2))
    assert equal(first[:-1], second[:-1])


def test_b7_functional_loss_equals_the_network_and_changes_nothing(make_trainer, dice_ce, trained_state):
    trainer, batch = make_trainer(), random_batch(1)
    net = trainer.network
    before = trained_state(net)
    moved = [w + 0.1 for w in before]
    value = trainer.lower_loss(batch, moved[:-1], moved[-1:])
    assert equal(before, trained_state(net))
    with torch.no_grad():
        for parameter, tensor in zip((*net.weight_parameters(), *net.prompt_parameters()), moved, strict=True):
            parameter.copy_(tensor)
    assert torch.equal(value, dice_ce(net.logits_from(batch["features"]), batch["label"]))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-6), ({"fused": True}, 1e-6), ({"hypergradient": "finite_difference"}, 1e-3)],
)
def test_second_order_gradient_is_the_derivative_through_the_real_step(
    make_trainer, toy_net, dice_ce, options, tolerance
):
    """Numeric differentiation through PyTorch's AdamW, in the third iteration of a run in double precision."""
    batches = Batches([{"d1": random_batch(i), "d2": random_batch(10 + i)} for i in range(3)])
    trainer = make_trainer(loader=batches, epochs=1, net=toy_net().double(), lr=0.05, order=2, **options)
    before, result = {}, {}

    def remember(engine):
        before["net"], before["weights"] = copy.deepcopy((engine.network, engine.weight_optimizer.state_dict()))

    def note(engine):
        result["gradient"] = engine.network.prompt.grad.clone()

    on(trainer, Events.ITERATION_STARTED, remember)
    on(trainer, BilevelEvents.UPPER_COMPLETED, note)
    trainer.run()

    def upper_after_step(prompt):
        net = copy.deepcopy(before["net"])
        with torch.no_grad():
            net.prompt.copy_(prompt)
        optimizer = torch.optim.AdamW(net.weight_parameters(), lr=0.05, weight_decay=0.1)
        optimizer.load_state_dict(copy.deepcopy(before["weights"]))
        net.zero_grad()
        dice_ce(net.logits_from(batches[2]["d1"]["features"].double()), batches[2]["d1"]["label"].double()).backward()
        optimizer.step()
        with torch.no_grad():
            return float(dice_ce(net.logits_from(batches[2]["d2"]["features"].double()),
                                 batches[2]["d2"]["label"].double()))  # fmt: skip

    start, step = before["net"].prompt.detach(), 1e-6
    truth = torch.zeros_like(start)
    for index in range(start.numel()):
        shift = torch.zeros_like(start)
        shift.view(-1)[index] = step
        truth.view(-1)[index] = (upper_after_step(start + shift) - upper_after_step(start - shift)) / (2 * step)
    # The loss itself is computed in float32 by the trainer, so a numeric derivative cannot agree better.
    assert (result["gradient"] - truth).norm() / truth.norm() < max(tolerance, 1e-4)


def test_sgd_unroll_differs_from_adamw_unroll_and_both_from_first_order(make_trainer, trained_state):
    results = [
        state_of(trained_state, make_trainer(lr=0.05, **options))[-1]
        for options in ({}, {"order": 2}, {"order": 2, "unroll": "sgd"})
    ]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_dropout_masks_are_those_of_the_step_that_is_differentiated(make_trainer, monkeypatch):
    trainer, seen = make_trainer(order=2, dropout=0.5, epochs=1), []
    original = trainer.network.dropout.forward

    def spy(x):
        y = original(x)
        seen.append((y == 0).clone())
        return y

    monkeypatch.setattr(trainer.network.dropout, "forward", spy)
    trainer.run()
    assert len(seen) == 6  # per iteration: lower, upper, lower once more
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], seen[5])
    assert not torch.equal(seen[0], seen[1])


def test_training_mode_is_set_again_after_a_validation(make_trainer):
    trainer, modes = make_trainer(), []
    on(trainer, Events.EPOCH_COMPLETED, lambda e: e.network.eval())
    on(trainer, BilevelEvents.LOWER_COMPLETED, lambda e: modes.append(e.network.dropout.training))
    trainer.run()
    assert modes == [True] * 6


def test_joint_mode_moves_both_on_one_loss(make_trainer, toy_net, dice_ce, trained_state):
    batch = random_batch(1)
    trainer = make_trainer(loader=Batches([{"d1": batch}]), epochs=1, joint=True)
    ours = state_of(trained_state, trainer)
    net = toy_net()
    everything = torch.optim.AdamW(net.weight_parameters() + net.prompt_parameters(), lr=5e-3, weight_decay=0.1)
    dice_ce(net.logits_from(batch["features"]), batch["label"]).backward()
    everything.step()
    assert equal(ours, trained_state(net))
    assert "d2_loss" not in trainer.state.output


def test_iou_head_is_trained_only_when_asked(make_trainer, toy_net):
    start = toy_net().iou_head.weight
    for weight, moves in ((0.0, False), (1.0, True)):
        trainer = make_trainer(iou=weight)
        trainer.run()
        assert torch.equal(trainer.network.iou_head.weight, start) != moves


def test_parameters_without_gradient_are_skipped_by_the_optimizer(make_trainer, toy_net):
    trainer = make_trainer()
    trainer.weight_optimizer.add_param_group({"params": list(trainer.network.iou_head.parameters())})
    trainer = BilevelTrainer("cpu", 1, trainer.data_loader, trainer.network, trainer.weight_optimizer,
                             trainer.prompt_optimizer, trainer.objective.loss_function, order=2)  # fmt: skip
    trainer.run()
    assert torch.equal(trainer.network.iou_head.weight, toy_net().iou_head.weight)  # not even decayed
    assert trainer.network.iou_head.weight not in trainer.weight_optimizer.state


def test_clip_norm_limits_the_weights_gradient(make_trainer):
    trainer, norms = make_trainer(clip_norm=1e-3), []
    on(trainer, BilevelEvents.LOWER_COMPLETED,
       lambda e: norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in e.weights]))))  # fmt: skip
    trainer.run()
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)


@pytest.mark.parametrize(
    "options", [{}, {"order": 2}, {"order": 2, "hypergradient": "finite_difference"}, {"joint": True}]
)
def test_bfloat16_on_the_cpu(make_trainer, trained_state, options):
    trainer, types = make_trainer(amp=True, amp_dtype="bfloat16", **options), set()
    trainer.network.head.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    start = trained_state(trainer.network)
    mixed = state_of(trained_state, trainer)
    full = state_of(trained_state, make_trainer(**options))
    assert types == {torch.bfloat16}
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in mixed)
    moved = torch.cat([(m - s).reshape(-1) for m, s in zip(mixed, start, strict=True)])
    wanted = torch.cat([(f - s).reshape(-1) for f, s in zip(full, start, strict=True)])
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.9


def test_float16_uses_a_scaler_and_bfloat16_does_not(make_trainer):
    trainer = make_trainer(amp=True, amp_dtype="float16")
    assert all(scaler.is_enabled() for scaler in trainer.scalers)
    trainer.run()
    assert torch.isfinite(trainer.network.prompt).all()
    assert not any(scaler.is_enabled() for scaler in make_trainer(amp=True).scalers)


def test_a_loss_that_is_not_finite_names_the_iteration_and_keeps_the_last_epoch(make_trainer, dice_ce, tmp_path):
    calls = []

    def broken(logits, target):
        calls.append(1)
        return dice_ce(logits, target) * (float("nan") if len(calls) > 6 else 1.0)

    path = tmp_path / "last.pt"
    trainer = make_trainer([LastCheckpoint(path)], epochs=4, loss_function=broken)
    with pytest.raises(BlosamError, match=r"loss is nan in iteration 4 \(epoch 2\)"):
        trainer.run()
    assert torch.load(path, weights_only=True)["engine"]["epoch"] == 1


def test_a_gradient_that_is_not_finite_stops_before_it_is_applied(make_trainer, trained_state):
    trainer = make_trainer(loss_function=lambda logits, target: (logits - logits.detach()).abs().sqrt().mean())
    before = trained_state(trainer.network)
    with pytest.raises(BlosamError, match="gradient norm is nan in iteration 1"):
        trainer.run()
    assert equal(before, trained_state(trainer.network))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 3}, "order is 3"),
        ({"order": 2, "hypergradient": "magic"}, "hypergradient is 'magic'"),
        ({"order": 2, "unroll": "adam"}, "unroll is 'adam'"),
        ({"amp": True, "amp_dtype": "int8"}, "amp_dtype is 'int8'"),
        ({"order": 2, "amp": True, "amp_dtype": "float16"}, "overflows"),
        ({"order": 2, "clip_norm": 1.0}, "clip_norm"),
    ],
)
def test_contradicting_settings_are_refused(make_trainer, options, message):
    with pytest.raises(BlosamError, match=message):
        make_trainer(**options)


def test_optimizers_of_another_network_are_refused(make_trainer, toy_net):
    trainer = make_trainer()
    with pytest.raises(BlosamError, match="not in the network"):
        BilevelTrainer("cpu", 1, [], toy_net(), trainer.weight_optimizer, trainer.prompt_optimizer, None)
    both = torch.optim.AdamW(trainer.network.parameters())
    with pytest.raises(BlosamError, match="in both optimizers"):
        BilevelTrainer("cpu", 1, [], trainer.network, both, trainer.prompt_optimizer, None)


def test_too_few_images_is_an_error_before_training(make_trainer, items):
    with pytest.raises(BlosamError, match=r"1 image\(s\)"):
        make_trainer(items=items(1))
    empty = items(4)
    for item in empty[1:]:
        item["label"].zero_()
    with pytest.raises(BlosamError, match="foreground"):
        make_trainer(items=empty)


def test_the_bank_is_filled_after_a_loader_that_label_inserts(make_trainer, toy_net, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(toy_net(seed=9).state_dict(), path)
    net = toy_net()
    trainer = make_trainer([MonaiCheckpointLoader(str(path), {"model": net}, strict=False)], net=net, epochs=1)
    trainer.run()
    bank = trainer.data_loader.bank
    image = bank.draw(0, 0)["image"][None]
    assert torch.allclose(bank.get([0], [0])["features"], toy_net(seed=9).frozen_features(image))


def test_the_real_network_trains_in_every_mode(dice_ce, items):
    big = [
        {key: torch.nn.functional.interpolate(value[None].float(), 64)[0] for key, value in item.items()}
        for item in items(4)
    ]
    for options in ({}, {"order": 2}, {"order": 2, "hypergradient": "finite_difference"}, {"joint": True}):
        net = BloSam(encoder="tiny", image_size=64, out_channels=2)
        bank = FeatureBank(Dataset(big), net, num_views=1)
        loader = BilevelLoader(bank, joint=options.get("joint", False))
        trainer = BilevelTrainer(
            "cpu", 4, loader, net, torch.optim.AdamW(net.weight_parameters(), lr=5e-3),
            torch.optim.AdamW(net.prompt_parameters(), lr=5e-3), dice_ce, **options,
        )  # fmt: skip
        losses = []
        on(trainer, Events.ITERATION_COMPLETED, lambda e, kept=losses: kept.append(e.state.output["loss"]))
        frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
        trainer.run()
        assert losses[-1] < losses[0]
        assert all(torch.equal(p, net.get_parameter(n)) for n, p in frozen.items())
