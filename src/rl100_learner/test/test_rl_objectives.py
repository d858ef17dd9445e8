# SPDX-License-Identifier: Apache-2.0
"""Objectives of reinforcement learning against closed forms and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_learner.objectives.advantages import (
    offline_advantage,
    regression_weights,
    sampled_advantage,
)
from rl100_learner.objectives.bottleneck import standard_normal_kl
from rl100_learner.objectives.evaluation import am_q_estimate, clearly_worse, gate
from rl100_learner.objectives.iql import expectile_loss, q_loss, q_target
from rl100_learner.objectives.proximal import (
    clipped_surrogate,
    ratio_statistics,
    standardise,
    symmetric_gaussian_kl,
)
from rl100_learner.objectives.returns import (
    bootstrap_discount,
    chunk_reward,
    generalised_advantage,
)
from rl100_learner.objectives.transition import ensemble_nll, soft_clamp

GAMMA = 0.9


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Rewards of decisions


def test_a_chunk_of_ones_earns_the_geometric_sum():
    executed = torch.tensor([1, 3, 8])
    expected = [(1 - GAMMA**n) / (1 - GAMMA) for n in (1, 3, 8)]
    found = chunk_reward(torch.ones(3, 8), executed, GAMMA)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_what_was_not_executed_earns_nothing_not_even_nan():
    rewards = torch.tensor([[1.0, math.nan, math.inf]])
    assert chunk_reward(rewards, torch.tensor([1]), GAMMA).item() == 1.0


def test_the_value_behind_a_decision_counts_unless_the_task_ended():
    found = bootstrap_discount(torch.tensor([8, 2]), torch.tensor([False, True]), GAMMA)
    torch.testing.assert_close(found, torch.tensor([GAMMA**8, 0.0]))


# Generalised advantage


def trajectory(steps: int, *, terminated: bool):
    rewards, values, after = draw(steps), draw(steps, seed=1), draw(1, seed=2)
    next_values = torch.cat([values[1:], after])
    discounts = torch.full((steps,), GAMMA)
    if terminated:
        discounts[-1] = 0.0
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[-1] = True
    return rewards, values, next_values, discounts, ends


@pytest.mark.parametrize("terminated", [True, False])
def test_with_lambda_one_the_advantage_is_the_return_minus_the_value(terminated):
    rewards, values, next_values, discounts, ends = trajectory(6, terminated=terminated)
    returned = torch.zeros(6)
    running = 0.0 if terminated else float(next_values[-1])
    for t in reversed(range(6)):
        running = float(rewards[t]) + GAMMA * running * (not (terminated and t == 5))
        returned[t] = running
    found = generalised_advantage(rewards, values, next_values, discounts, ends, 1.0)
    torch.testing.assert_close(found, returned - values)


def test_with_lambda_zero_the_advantage_is_the_temporal_difference():
    rewards, values, next_values, discounts, ends = trajectory(6, terminated=False)
    found = generalised_advantage(rewards, values, next_values, discounts, ends, 0.0)
    torch.testing.assert_close(found, rewards + discounts * next_values - values)


def test_a_truncated_end_keeps_the_value_behind_it_and_a_terminated_one_does_not():
    rewards, values, next_values, discounts, ends = trajectory(3, terminated=False)
    truncated = generalised_advantage(rewards, values, next_values, discounts, ends, 0.95)
    discounts[-1] = 0.0
    terminated = generalised_advantage(rewards, values, next_values, discounts, ends, 0.95)
    difference = float(truncated[-1] - terminated[-1])
    assert difference == pytest.approx(GAMMA * float(next_values[-1]), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.0, 1.0))
def test_trajectories_one_after_the_other_do_not_mix(first, second, lam):
    one, two = trajectory(first, terminated=True), trajectory(second, terminated=False)
    joined = [torch.cat(pair) for pair in zip(one, two, strict=True)]
    apart = torch.cat([generalised_advantage(*each, lam) for each in (one, two)])
    torch.testing.assert_close(generalised_advantage(*joined, lam), apart)


def test_parallel_trajectories_are_columns():
    one, two = trajectory(5, terminated=True), trajectory(5, terminated=False)
    together = [torch.stack(pair, dim=1) for pair in zip(one, two, strict=True)]
    found = generalised_advantage(*together, 0.9)
    torch.testing.assert_close(found[:, 0], generalised_advantage(*one, 0.9))
    torch.testing.assert_close(found[:, 1], generalised_advantage(*two, 0.9))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 1000), st.floats(0.0, 1.0))
def test_the_advantage_is_its_recursion_to_the_bit(rows, columns, seed, lam):
    rewards, values, next_values = (draw(rows, columns, seed=seed + i) for i in range(3))
    discounts = draw(rows, columns, seed=seed + 3).sigmoid()
    ends = draw(rows, columns, seed=seed + 4) > 0.5
    expected, running = torch.zeros(rows, columns), torch.zeros(columns)
    for row in reversed(range(rows)):
        carried = torch.where(ends[row], 0.0, running)
        delta = rewards[row] + discounts[row] * next_values[row] - values[row]
        running = delta + lam * discounts[row] * carried
        expected[row] = running
    found = generalised_advantage(rewards, values, next_values, discounts, ends, lam)
    assert torch.equal(found, expected)


# Implicit Q-learning


def test_at_half_the_expectile_loss_is_half_the_mean_square():
    q, v = draw(50), draw(50, seed=1)
    torch.testing.assert_close(expectile_loss(q, v, 0.5), 0.5 * ((q - v) ** 2).mean())


@pytest.mark.parametrize(("tau", "low", "high"), [(0.5, 0.45, 0.55), (0.9, 0.7, 0.85)])
def test_the_minimiser_is_the_expectile(tau, low, high):
    q = torch.linspace(0, 1, 1001)
    v = torch.linspace(0, 1, 501)
    losses = torch.stack([expectile_loss(q, torch.full_like(q, float(each)), tau) for each in v])
    best = float(v[losses.argmin()])
    weight = torch.where(q > best, tau, 1 - tau)
    assert low < best < high
    assert float((weight * q).sum() / weight.sum()) == pytest.approx(best, abs=2e-3)


def test_no_gradient_reaches_q_from_v_nor_the_target_from_q():
    q, v = draw(4).requires_grad_(), draw(4, seed=1).requires_grad_()
    expectile_loss(q, v, 0.7).backward()
    assert q.grad is None
    assert v.grad is not None
    next_v = draw(4, seed=2).requires_grad_()
    target = q_target(torch.ones(4), torch.full((4,), GAMMA), next_v)
    assert not target.requires_grad
    torch.testing.assert_close(target, 1 + GAMMA * next_v.detach())


def test_q_losses_of_the_critics_add_up():
    estimates, target = draw(2, 10), draw(10, seed=3)
    each = [((estimate - target) ** 2).mean() for estimate in estimates]
    torch.testing.assert_close(q_loss(estimates, target), each[0] + each[1])


def test_the_offline_advantage_takes_the_lower_critic():
    estimates = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    torch.testing.assert_close(
        offline_advantage(estimates, torch.tensor([0.5, 0.5])), torch.tensor([0.5, 2.5])
    )


# Proximal objective


def test_at_the_old_policy_the_gradient_is_that_of_the_policy_gradient():
    log_probs, advantages = draw(20).requires_grad_(), draw(20, seed=1)
    loss = clipped_surrogate(log_probs, log_probs.detach(), advantages, 0.2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-float(advantages.mean()), abs=1e-6)
    torch.testing.assert_close(log_probs.grad, -advantages / 20)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.21, 1.0, False),
        (1.19, 1.0, True),
        (1.21, -1.0, True),
        (0.79, -1.0, False),
        (0.81, -1.0, True),
        (0.79, 1.0, True),
    ],
)
def test_a_ratio_that_has_left_the_range_moves_only_back(ratio, advantage, moves):
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_surrogate(log_prob, torch.zeros(1), torch.tensor([advantage]), 0.2).backward()
    assert bool(log_prob.grad.abs() > 0) is moves


def test_standardised_advantages_have_zero_mean_unit_variance_and_limits():
    found = standardise(3 + 5 * draw(1000))
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(found.std(unbiased=False)) == pytest.approx(1.0, rel=1e-4)
    assert float(standardise(draw(1000), 1.5).abs().max()) == 1.5
    assert not standardise(torch.full((5,), 7.3)).any()


def test_ratio_statistics_of_equal_policies_are_those_of_ratio_one():
    log_probs = draw(100)
    found = ratio_statistics(log_probs, log_probs, 0.2)
    assert (found.kl, found.clipped) == (0.0, 0.0)
    moved = ratio_statistics(log_probs + 0.5, log_probs, 0.2)
    assert moved.shift == pytest.approx(0.125)
    assert moved.kl == pytest.approx(math.exp(0.5) - 1.5, rel=1e-4)
    assert moved.clipped == 1.0
    apart = torch.log(torch.tensor([1.21, 1.19, 0.79, 0.81]))
    assert ratio_statistics(apart, torch.zeros(4), 0.2).clipped == 0.5


def test_the_symmetric_kl_of_gaussians_matches_torch():
    mean, other, sigma = draw(6, 3, 2), draw(6, 3, 2, seed=1), 0.3
    p, q = torch.distributions.Normal(mean, sigma), torch.distributions.Normal(other, sigma)
    both = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(symmetric_gaussian_kl(mean, other, sigma), both.sum((1, 2)) / 2)


# Bottleneck, transition model, gate


def test_the_bottleneck_matches_torch_and_is_zero_at_the_prior():
    mean, log_variance = draw(7, 4), draw(7, 4, seed=1)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()
    torch.testing.assert_close(standard_normal_kl(mean, log_variance), expected)
    assert float(standard_normal_kl(torch.zeros(2, 3), torch.zeros(2, 3))) == 0.0


def test_the_likelihood_is_best_where_the_variance_is_the_squared_error():
    mean, target = torch.zeros(3, 5, 2), torch.full((5, 2), 0.4)
    at = [
        ensemble_nll(mean, torch.full_like(mean, math.log(v)), target) for v in (0.08, 0.16, 0.32)
    ]
    assert at[1] < at[0]
    assert at[1] < at[2]
    assert float(at[1]) == pytest.approx(3 * (1 + math.log(0.16)), rel=1e-5)


def test_log_variances_stay_within_soft_limits_with_a_gradient_everywhere():
    low, high = torch.tensor(-4.0), torch.tensor(1.0)
    x = torch.linspace(-50, 50, 101, requires_grad=True)
    y = soft_clamp(x, low, high)
    assert bool(((y >= low) & (y <= high + math.log1p(math.exp(-5.0)))).all())
    assert float(soft_clamp(torch.tensor(-1.5), low, high)) == pytest.approx(-1.5, abs=0.1)
    y[40:].sum().backward()  # from -10 on: farther out it is smaller than float32 tells
    assert bool((x.grad[40:60] > 0).all())
    assert bool((x.grad >= 0).all())


@pytest.mark.parametrize(
    ("candidate", "incumbent", "accepted"),
    [
        (1.05, 1.0, True),
        (1.04, 1.0, False),
        (-0.94, -1.0, True),
        (-0.96, -1.0, False),
        (0.0, 0.0, False),
        (0.1, 0.0, True),
        (math.nan, 1.0, False),
    ],
)
def test_the_gate_asks_for_five_per_cent(candidate, incumbent, accepted):
    assert gate(candidate, incumbent).accepted is accepted


@pytest.mark.parametrize(
    ("won", "best_won", "worse"),
    [(60, 80, True), (70, 80, False), (80, 60, False), (0, 0, False), (100, 100, False)],
)
def test_clearly_worse_is_three_standard_deviations_of_100_trials(won, best_won, worse):
    # 60 against 80 of 100: q = 0.7, spread 0.0648, 3.09 of them; 70 against 80: 1.63.
    assert clearly_worse(won, 100, best_won, 100, 3.0) is worse


def test_the_estimate_is_the_mean_over_states_and_horizon():
    q = draw(4, 6)
    assert float(am_q_estimate(torch.tensor([[1.0, 3.0], [5.0, 11.0]]))) == 5.0
    # the published sum over decisions is H times that: a relative margin means the same
    summed = [float(each.sum(dim=0).mean()) for each in (q, q + 0.3)]
    means = [float(am_q_estimate(each)) for each in (q, q + 0.3)]
    assert summed[1] / summed[0] == pytest.approx(means[1] / means[0], rel=1e-5)


def test_an_error_of_q_that_all_draws_of_a_state_share_does_not_reach_their_advantage():
    q, wrong = draw(6, 4), draw(6, 1, seed=1)
    advantage = sampled_advantage(q)
    torch.testing.assert_close(sampled_advantage(q + wrong), advantage)
    torch.testing.assert_close(advantage.mean(dim=1), torch.zeros(6))
    torch.testing.assert_close(advantage[:, 0] - advantage[:, 1], q[:, 0] - q[:, 1])


def test_regression_weights_are_exponentials_up_to_a_limit():
    a = torch.tensor([-1.0, 0.0, 0.5, 100.0])
    expected = torch.tensor([math.exp(-2.0), 1.0, math.e, 20.0])
    torch.testing.assert_close(regression_weights(a, 0.5, 20.0), expected)
    even = regression_weights(a, 1e6, 20.0)
    torch.testing.assert_close(even, torch.ones(4), rtol=1e-3, atol=1e-3)
