# SPDX-License-Identifier: Apache-2.0
"""Proximal improvement and the value it stands on, on decisions whose outcome is known."""

import copy
from dataclasses import replace

import pytest
import torch

from rl100_learner.algorithms import proximal, value
from rl100_learner.algorithms.auxiliary import auxiliary_loss
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.proximal import ProximalConfig
from rl100_learner.algorithms.value import ValueBuffer, ValueConfig
from rl100_policy.core.errors import LearningError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

D, N_OBS, N_POINTS, N_CHUNK = 96, 2, 24, 4


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    size = ObservationSize(n_obs=N_OBS, n_points=N_POINTS, proprio_dim=3)
    return DiffusionPolicy(preset("small", size, ActionSize(n_chunk=N_CHUNK, dim=2)))


def decisions(policy, seed=0) -> DecisionBatch:
    """Decisions of the policy on random scenes; nothing came of them."""
    generator = torch.Generator().manual_seed(seed)
    cloud = 0.1 * torch.rand((D, N_OBS, N_POINTS, 3), generator=generator)
    proprio = 0.1 * torch.rand((D, N_OBS, 3), generator=generator)
    made = policy.decide(cloud, proprio, sampler="ddim", noise_seed=generator, deterministic=False)
    return DecisionBatch(
        cloud, proprio, cloud, proprio, made.latents, made.log_probs,
        rewards=torch.zeros(D), discounts=torch.ones(D), ends=torch.ones(D, dtype=torch.bool),
    )  # fmt: skip


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("encoder_lr", [0.0, 1e-4])
def test_before_the_first_step_every_ratio_is_one_to_float_precision(policy, encoder_lr):
    config = ProximalConfig(encoder_lr=encoder_lr, epochs=1, minibatch=32)
    batch = decisions(policy)
    metrics = proximal.improve(
        proximal.init(policy, config), batch, torch.randn(D), generator(), config
    )
    assert metrics["ratio_error"] < 1e-4


def test_what_was_better_becomes_likelier_and_what_was_worse_less_likely(policy):
    batch = decisions(policy)
    good = batch.latents[:, -1, :, 0].mean(dim=1) > 0  # chains that end with a push to one side
    advantages = torch.where(good, 1.0, -1.0)
    config = ProximalConfig(lr=1e-3, epochs=8, minibatch=32, kl_stop=1e6)
    fresh = decisions(policy, seed=7).latents[:, -1, :, 0].mean()
    metrics = proximal.improve(
        proximal.init(policy, config), batch, advantages, generator(), config
    )
    after = decisions(policy, seed=7).latents[:, -1, :, 0].mean()
    assert after > fresh + 0.01
    assert metrics["kl"] > 0.0
    assert metrics["epochs"] == 8


def test_only_what_is_asked_for_learns(policy):
    before = copy.deepcopy(policy.state_dict())
    batch, advantages = decisions(policy), torch.randn(D)

    def changed() -> set[str]:
        return {
            name.split(".")[0]
            for name, tensor in policy.state_dict().items()
            if not torch.equal(tensor, before[name])
        }

    config = ProximalConfig(epochs=1, minibatch=32)
    proximal.improve(proximal.init(policy, config), batch, advantages, generator(), config)
    assert changed() == {"denoiser"}
    config = ProximalConfig(encoder_lr=1e-4, epochs=1, minibatch=32)
    state = proximal.init(policy, config)
    proximal.improve(state, decisions(policy), advantages, generator(), config)
    assert changed() == {"denoiser", "encoder"}


@pytest.mark.parametrize(("lr", "shares"), [(1e-2, (1.0, 1 / 3)), (1e-6, (1.0, 1.0))])
def test_rates_shrink_after_a_step_that_went_too_far_and_no_others(policy, lr, shares):
    config = ProximalConfig(lr=lr, epochs=4, minibatch=32, kl_stop=1e9, kl_target=0.01)
    state = proximal.init(policy, config)
    told = [
        proximal.improve(state, decisions(policy, seed), torch.randn(D), generator(), config)
        for seed in range(2)
    ]
    assert [each["lr_share"] for each in told] == pytest.approx(shares)
    assert (told[0]["shift"] > 0.09) == (lr == 1e-2)


def test_rates_grow_again_to_what_they_may_be(policy):
    config = ProximalConfig(lr=1e-6, epochs=1, minibatch=32, kl_target=0.01)
    state = proximal.init(policy, config)
    proximal.slow_down(state, 0.5)
    state.optimizer.param_groups[0]["lr"] = 1e-7  # a tenth
    shares = [
        proximal.improve(state, decisions(policy), torch.randn(D), generator(), config)["lr_share"]
        for _ in range(6)
    ]
    assert shares == pytest.approx([0.1, 0.15, 0.225, 0.3375, 0.5, 0.5])


def test_a_loss_that_is_not_a_number_changes_nothing_and_is_said(policy):
    config = ProximalConfig(lr=1e-3, minibatch=16)
    state, batch = proximal.init(policy, config), decisions(policy)
    before = copy.deepcopy(policy.state_dict())
    spoiled = replace(batch, log_probs=torch.full_like(batch.log_probs, torch.nan))
    with pytest.raises(LearningError, match="not finite"):
        proximal.improve(state, spoiled, torch.randn(D), generator(), config)
    assert all(torch.equal(before[key], each) for key, each in policy.state_dict().items())


def test_no_step_takes_a_longer_gradient_than_it_may(policy):
    config = ProximalConfig(lr=1e-3, encoder_lr=1e-4, gradient_norm=0.01)
    state = proximal.init(policy, config)
    proximal.step(state, 1e4 * sum(each.sum() for each in policy.parameters()), config)
    for group in state.optimizer.param_groups:
        lengths = [each.grad.norm() for each in group["params"] if each.grad is not None]
        assert float(torch.stack(lengths).norm()) == pytest.approx(0.01, rel=1e-3)


def test_slowing_down_takes_its_share_of_rates_that_have_shrunk_already(policy):
    state = proximal.init(policy, ProximalConfig(lr=1e-3))
    state.optimizer.param_groups[0]["lr"] = 4e-4
    proximal.slow_down(state, 0.5)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)


def test_an_improvement_that_goes_too_far_is_taken_back_and_tried_at_lower_rates(policy):
    config = ProximalConfig(lr=1e-3, epochs=3, minibatch=16, kl_stop=0.2, kl_target=0.0)
    state, advantages = proximal.init(policy, config), torch.randn(D)
    metrics = proximal.improve(state, decisions(policy), advantages, generator(), config)
    times = metrics["taken_back"]
    assert 1 <= times <= 3
    assert metrics["shift"] < config.kl_stop
    assert metrics["epochs"] == 3
    assert metrics["lr_share"] == pytest.approx(3.0**-times)
    assert all(each["step"] == 3 * (-(-D // 16)) for each in state.optimizer.state.values()), (
        "moments are those of the last attempt alone"
    )


def test_one_that_still_goes_too_far_at_the_lowest_rates_leaves_the_policy_as_it_was(policy):
    before = copy.deepcopy(policy.state_dict())
    config = ProximalConfig(lr=3e-1, epochs=10, minibatch=16, kl_stop=1e-4)
    state = proximal.init(policy, config)
    metrics = proximal.improve(state, decisions(policy), torch.randn(D), generator(), config)
    assert metrics["taken_back"] == 4
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0.0, rtol=0.0)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(config.lr / 3**4)


def test_equal_advantages_move_nothing(policy):
    before = copy.deepcopy(policy.state_dict())
    config = ProximalConfig(epochs=2, minibatch=32)
    state = proximal.init(policy, config)
    proximal.improve(state, decisions(policy), torch.full((D,), 0.3), generator(), config)
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0.0)


def chain_buffer(seed: int) -> ValueBuffer:
    """A walk of 10 decisions whose condition tells how many are left; the last one earns 1."""
    left = torch.arange(10, 0, -1).repeat(8).float()
    noise = 0.1 * torch.randn((80, 3), generator=torch.Generator().manual_seed(seed))
    condition = torch.cat([left.unsqueeze(1) / 10.0, noise], dim=1)
    following = torch.cat([(left - 1).unsqueeze(1) / 10.0, noise], dim=1)
    last = left == 1.0
    discounts = torch.where(last, 0.0, 0.9)
    return ValueBuffer(condition, following, last.float(), discounts, last)


def test_the_value_of_a_walk_is_its_discounted_reward():
    torch.manual_seed(0)
    config = ValueConfig(width=32, sweeps=10, first_sweeps=40)
    state = value.init(4, config)
    first = value.update(state, chain_buffer(0), generator(), config)
    again = value.update(state, chain_buffer(1), generator(), config)
    assert first["explained_variance"] < 0.5 < 0.9 < again["explained_variance"]
    left = torch.arange(10, 0, -1).float()
    unseen = chain_buffer(2)
    with torch.no_grad():
        found = state.network(unseen.condition)[:10]
    torch.testing.assert_close(found, 0.9 ** (left - 1), atol=0.12, rtol=0.0)
    assert float(value.advantages(state, unseen, config).abs().mean()) < 0.1


def test_only_the_latest_buffers_are_kept():
    torch.manual_seed(0)
    config = ValueConfig(width=8, buffers=2, sweeps=1, first_sweeps=1, epochs=1)
    state = value.init(4, config)
    for seed in range(3):
        value.update(state, chain_buffer(seed), generator(), config)
    assert len(state.buffers) == 2
    torch.testing.assert_close(state.buffers[-1].condition, chain_buffer(2).condition)


def test_reconstruction_takes_part_where_the_encoder_learns_with_a_tenth_of_its_weight(policy):
    batch, advantages = decisions(policy), torch.zeros(D)
    weights = proximal.ProximalConfig().auxiliary
    assert weights.chamfer == pytest.approx(0.1 * ImitationConfig().chamfer_weight)
    told = {}
    for rate in (0.0, 1e-3):
        config = ProximalConfig(encoder_lr=rate, epochs=1, minibatch=D, chamfer_points=10_000)
        state = proximal.init(copy.deepcopy(policy), config)
        told[rate] = proximal.improve(state, batch, advantages, generator(), config)["auxiliary"]
    seen = auxiliary_loss(
        policy, policy.encode_window(batch.visual, batch.proprio), batch.visual, batch.proprio,
        weights, 10_000, generator(),
    )  # fmt: skip
    assert told == {0.0: 0.0, 1e-3: pytest.approx(float(seen.total.detach()), rel=1e-4)}


def test_the_decoder_holds_still_while_the_encoder_learns(policy):
    config = ProximalConfig(encoder_lr=1e-3, epochs=2, minibatch=D)
    before = copy.deepcopy(policy.encoder.decoder.state_dict())
    points = copy.deepcopy(policy.encoder.points.state_dict())
    state = proximal.init(policy, config)
    proximal.improve(state, decisions(policy), torch.randn(D), generator(), config)
    assert all(torch.equal(v, policy.encoder.decoder.state_dict()[k]) for k, v in before.items())
    assert any(
        not torch.equal(v, policy.encoder.points.state_dict()[k]) for k, v in points.items()
    )
