# SPDX-License-Identifier: Apache-2.0
"""Critics, the transition model and the offline phase on problems whose answers are known."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from rl100_learner.algorithms import critics, offline, transition, value
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.offline import GateConfig, Judge, OfflineConfig
from rl100_learner.algorithms.proximal import ChainsConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.networks.critics import EnsembleMlp, QNetwork, TransitionNetwork
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

CHUNK, DIM, STATE = 2, 1, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bandit(count: int = 2000, seed: int = 0) -> EncodedDecisions:
    """One decision; the reward is one if the mean of the chunk is near the first feature."""
    g = generator(seed)
    condition = torch.rand((count, STATE), generator=g) * 2 - 1
    action = torch.rand((count, CHUNK, DIM), generator=g) * 2 - 1
    reward = ((action.mean(dim=(1, 2)) - condition[:, 0]).abs() < 0.3).float()
    yes = torch.ones(count, dtype=torch.bool)
    return EncodedDecisions(condition, action, condition, reward, torch.zeros(count), yes, yes)


def chain(count: int = 500) -> EncodedDecisions:
    """Two decisions: the first moves by its mean action, the second earns where that led to."""
    g = generator(3)
    first = torch.rand((count, STATE), generator=g) * 2 - 1
    action = torch.rand((2 * count, CHUNK, DIM), generator=g) * 2 - 1
    second = first + 0.5 * action[0::2].mean(dim=1)
    rows = torch.stack((first, second), dim=1).flatten(0, 1)
    following = torch.stack((second, second), dim=1).flatten(0, 1)
    earned = torch.sigmoid(4 * second.sum(dim=1))
    last = torch.arange(2 * count) % 2 == 1
    return EncodedDecisions(
        rows,
        action,
        following,
        torch.where(last, earned.repeat_interleave(2), 0.0),
        torch.where(last, 0.0, 0.9),
        last,
        ~last,
    )


QUICK = CriticConfig(
    steps=600, width=32, returns=ValueConfig(width=32, members=2, first_sweeps=1, epochs=30)
)


def test_members_of_an_ensemble_are_networks_of_their_own():
    torch.manual_seed(0)
    network = EnsembleMlp(3, 4, (8,), 2)
    x = torch.randn(5, 4)
    together = network(x)
    assert together.shape == (3, 5, 2)
    for member in range(3):
        alone = EnsembleMlp(1, 4, (8,), 2)
        for own, shared in zip(alone.parameters(), network.parameters(), strict=True):
            own.data = shared.data[member : member + 1]
        torch.testing.assert_close(alone(x)[0], together[member])
    assert not torch.allclose(together[0], together[1])
    own_rows = torch.stack([x, x + 1, x - 1])
    torch.testing.assert_close(network(own_rows)[0], together[0])


def test_many_rows_are_evaluated_like_few_or_with_a_gradient():
    torch.manual_seed(0)
    network, rows = EnsembleMlp(3, 4, (8,), 2), torch.randn(1300, 4)
    at_once = network(rows)
    with torch.no_grad():
        torch.testing.assert_close(network(rows), at_once)
        torch.testing.assert_close(network(rows[700:900]), at_once[:, 700:900])
        torch.testing.assert_close(network(rows.expand(3, -1, -1)), at_once)


def test_q_learns_what_an_action_earns():
    data, held = bandit(), bandit(500, seed=1)
    fitted, told = critics.fit(data, data, 0, generator(), QUICK)
    worth = fitted.worth(held.condition, held.action, 0.0)
    error = ((worth - held.rewards) ** 2).mean()
    assert error < 0.4 * held.rewards.var()
    assert told["explained_variance"] > 0.5


@pytest.mark.parametrize("kind", ["returns", "expectile"])
def test_q_of_a_first_decision_reaches_the_reward_behind_the_second(kind):
    data = chain()
    config = replace(QUICK, value=kind, tau=0.5, steps=1000, target_rate=0.05)
    fitted, _ = critics.fit(data, data, 0, generator(), config)
    first = data.starts
    worth = fitted.worth(data.condition[first], data.action[first], 0.0)
    truth = 0.9 * torch.sigmoid(4 * data.next_condition[first].sum(dim=1))
    assert float(torch.corrcoef(torch.stack((worth, truth)))[0, 1]) > 0.9


def test_pessimism_takes_off_the_disagreement_of_the_members():
    torch.manual_seed(0)
    q = QNetwork(STATE, CHUNK * DIM, 8, 1, members=4)
    fitted = critics.Critics(q, value.init(STATE, ValueConfig(width=8)).network)
    condition, action = torch.randn(6, STATE), torch.randn(6, CHUNK, DIM)
    members = q(condition, action)
    torch.testing.assert_close(fitted.worth(condition, action, 0.0), members.mean(dim=0))
    expected = members.mean(dim=0) - 2.0 * members.std(dim=0, unbiased=False)
    torch.testing.assert_close(fitted.worth(condition, action, 2.0), expected)


def test_fitting_repeats_to_the_bit_and_leaves_the_global_generator_alone():
    data = bandit(300)
    before = torch.get_rng_state()
    weights = [
        list(critics.fit(data, data, 4, generator(7), replace(QUICK, steps=20))[0].q.parameters())
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


MODEL = TransitionConfig(widths=(32, 32), steps=600, members=3, elites=2)


def test_the_model_predicts_the_next_condition_and_how_uncertain_it_is():
    data = chain()
    first = data.starts
    moves = EncodedDecisions(*(getattr(data, name)[first] for name in vars(data)))
    model, told = transition.fit(moves, 0, generator(), MODEL)
    assert told["explained_variance"] > 0.9
    assert len(model.elites) == 2
    drawn = torch.stack(
        [model.step(moves.condition, moves.action, generator(seed)) for seed in range(20)]
    )
    error = (drawn.mean(dim=0) - moves.next_condition).abs().mean()
    assert error < 0.25 * (moves.next_condition - moves.condition).abs().mean()
    assert (drawn[0] != drawn[1]).any()
    assert torch.equal(drawn[0], model.step(moves.condition, moves.action, generator(0)))


def test_the_model_does_not_leave_the_range_of_the_data():
    data = chain()
    model, _ = transition.fit(data, 0, generator(), replace(MODEL, steps=5))
    far = model.step(torch.full((8, STATE), 100.0), torch.zeros((8, CHUNK, DIM)), generator())
    seen = torch.cat((data.condition, data.next_condition))
    spread = seen.amax(dim=0) - seen.amin(dim=0)
    assert (far <= seen.amax(dim=0) + MODEL.margin * spread + 1e-6).all()


def test_a_fresh_model_moves_in_units_of_its_scale():
    torch.manual_seed(0)
    network = TransitionNetwork(STATE, CHUNK * DIM, (8,), 2)
    mean, log_variance = network(torch.zeros(4, STATE), torch.zeros(4, CHUNK, DIM))
    assert mean.shape == log_variance.shape == (2, 4, STATE)
    assert (log_variance < 0.5).all()


@pytest.mark.parametrize("count", [5, 19])
def test_too_little_data_is_refused(count):
    with pytest.raises(ConfigError, match=f"20 decisions of 2 episodes, got {count} of {count}"):
        transition.fit(bandit(count), 0, generator(), MODEL)


def test_more_elites_than_members_are_refused():
    with pytest.raises(ValueError, match="elites=9 of members=3"):
        replace(MODEL, elites=9)


def test_elites_are_chosen_on_episodes_that_no_member_has_learned_from(monkeypatch):
    data, learned = chain(), []
    learn = transition._learn
    monkeypatch.setattr(
        transition, "_learn", lambda *args: learned.append(args[3]) or learn(*args)
    )
    transition.fit(data, 0, generator(), replace(MODEL, steps=5, held_out=0.25))
    episode = data.starts.long().cumsum(0) - 1
    kept, count = set(episode[learned[0]].tolist()), int(episode[-1]) + 1
    assert len(kept) == count - round(0.25 * count)
    assert sum(int((episode == each).sum()) for each in kept) == len(learned[0])  # whole episodes


def test_one_episode_makes_no_model():
    data = chain()
    one = data.starts.long().cumsum(0) == 1
    repeated = one.nonzero().flatten().repeat(30)
    starts = torch.arange(len(repeated)) == 0
    again = EncodedDecisions(*(getattr(data, name)[repeated] for name in vars(data)))
    with pytest.raises(ConfigError, match="of 1; collect"):
        transition.fit(replace(again, starts=starts), 0, generator(), MODEL)


# The phase


@pytest.fixture
def policy() -> DiffusionPolicy:
    torch.manual_seed(1)
    size = ObservationSize(n_obs=1, n_points=16, proprio_dim=3)
    made = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=4, dim=1)))
    return made.requires_grad_(False)


def problem(policy: DiffusionPolicy, count: int = 1500) -> EncodedDecisions:
    """The bandit in the policy's own sizes: go where the first feature points."""
    g = generator(5)
    condition = torch.randn((count, policy.condition_dim), generator=g) * 0.5
    action = torch.rand((count, 4, 1), generator=g) * 2 - 1
    reward = torch.exp(-4 * (action.mean(dim=(1, 2)) - condition[:, 0].clamp(-0.5, 0.5)) ** 2)
    yes = torch.ones(count, dtype=torch.bool)
    return EncodedDecisions(condition, action, condition, reward, torch.zeros(count), yes, yes)


@pytest.fixture
def parts(policy):
    data = problem(policy)
    fitted, _ = critics.fit(data, data, 0, generator(), replace(QUICK, steps=800))
    model, _ = transition.fit(data, 0, generator(), replace(MODEL, steps=50))
    return data, fitted, Judge(fitted, model, data.condition, 0)


PHASE = OfflineConfig(
    iterations=6,
    states=64,
    proximal=ChainsConfig(lr=1e-3, epochs=4, minibatch=64),
    gate=GateConfig(horizon=2, starts=64, enabled=False),
)


def run(policy, parts, config):
    data, fitted, judge = parts
    return list(offline.phase(copy.deepcopy(policy), fitted, judge, data, 0, config))


@pytest.mark.parametrize("baseline", ["draws", "value"])
def test_the_phase_improves_what_the_critics_ask_for(policy, parts, baseline):
    found = run(policy, parts, replace(PHASE, baseline=baseline, iterations=12))
    assert len(found) == 12
    assert found[-1].metrics["q"] > found[0].metrics["q"] + 0.05
    assert found[-1].metrics["j"] > found[0].metrics["j_snapshot"]
    assert 0.0 < found[0].metrics["distance"] < found[-1].metrics["distance"]
    assert all(each.metrics["ratio_error"] < 1e-3 for each in found)


def test_snapshots_stay_as_they_were_when_the_phase_goes_on(policy, parts):
    data, fitted, judge = parts
    phase = offline.phase(copy.deepcopy(policy), fitted, judge, data, 0, PHASE)
    first = next(phase)
    before = copy.deepcopy(first.policy.denoiser.state_dict())
    next(phase)
    assert all(torch.equal(v, first.policy.denoiser.state_dict()[k]) for k, v in before.items())


def test_the_gate_compares_with_the_snapshot_and_ends_the_phase(policy, parts):
    gate = GateConfig(horizon=2, starts=64, share=0.02, accepts=2, patience=8)
    found = run(policy, parts, replace(PHASE, iterations=30, gate=gate))
    accepted = [each for each in found if each.decision.accepted]
    assert len(accepted) == 2
    assert accepted[-1] is found[-1]
    assert accepted[1].metrics["j_snapshot"] == accepted[0].metrics["j"]
    for each in found:
        assert each.decision.accepted == (
            each.metrics["j"]
            >= each.metrics["j_snapshot"] + 0.02 * abs(each.metrics["j_snapshot"])
        )


def test_a_gate_that_never_opens_ends_the_phase_by_its_patience(policy, parts):
    gate = GateConfig(horizon=2, starts=64, share=100.0, patience=2)
    found = run(policy, parts, replace(PHASE, iterations=30, gate=gate))
    assert [each.decision.accepted for each in found] == [False, False]


def test_looking_at_j_changes_nothing_else(policy, parts):
    few = run(policy, parts, PHASE)[-1].policy.denoiser.state_dict()
    many = run(policy, parts, replace(PHASE, gate=replace(PHASE.gate, horizon=5, starts=16)))[-1]
    assert all(torch.equal(v, many.policy.denoiser.state_dict()[k]) for k, v in few.items())


def test_equal_policies_have_equal_estimates(policy, parts):
    _, _, judge = parts
    found = {offline.estimate(policy, replace(judge, seed=3), PHASE) for _ in range(2)}
    assert len(found) == 1


def test_the_regression_moves_towards_the_better_actions_of_the_data(policy, parts):
    data, fitted, _ = parts
    regression = replace(PHASE, method="regression", iterations=10)
    after = run(policy, parts, regression)[-1].policy
    worth = [
        float(
            fitted.worth(
                data.condition,
                each.decide_encoded(
                    data.condition, sampler="ddim", noise_seed=0
                ).actions_normalised,
                0.0,
            ).mean()
        )
        for each in (policy, after)
    ]
    assert worth[1] > worth[0] + 0.05


def test_the_value_of_the_policy_counts_what_is_behind_a_time_limit():
    """One state: a decision succeeds with p = .1, after four that did not time is up.

    V = p + (1 - p) g V = .1 / (1 - .9 * .9) = .526; without what is behind the limit .30.
    """
    g = generator(5)
    rewards, discounts, ends = [], [], []
    for _ in range(1500):
        for step in range(4):
            won = bool(torch.rand((), generator=g) < 0.1)
            rewards.append(float(won))
            discounts.append(0.0 if won else 0.9)
            ends.append(won or step == 3)
            if won:
                break
    count = len(rewards)
    state = torch.full((count, STATE), 0.5)
    buffer = value.ValueBuffer(
        state, state, torch.tensor(rewards), torch.tensor(discounts), torch.tensor(ends)
    )
    config = CriticConfig().returns
    torch.manual_seed(0)
    learned = value.init(STATE, config)
    value.update(learned, buffer, g, config)
    assert float(learned.network(state[:1])) == pytest.approx(0.526, abs=0.06)
