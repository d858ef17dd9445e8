# SPDX-License-Identifier: Apache-2.0
"""Episodes as decisions for offline learning, and as a file."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import N_POINTS, make_episode

from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.encoding import encode_decisions, within_range
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

GAMMA, N_CHUNK = 0.9, 4


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    size = ObservationSize(n_obs=2, n_points=N_POINTS, proprio_dim=3)
    made = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=N_CHUNK, dim=2)))
    return made.requires_grad_(False)


def test_every_period_begins_a_decision_and_trajectories_are_a_chunk_apart(policy):
    found = encode_decisions(policy, [make_episode(0, steps=10)], GAMMA)
    assert len(found) == 10
    # offsets 0 (0, 4, 8), 1 (1, 5, 9), 2 (2, 6), 3 (3, 7)
    assert found.ends.tolist() == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert found.starts.tolist() == [True] + [False] * 9


def test_a_success_is_earned_in_its_last_period_and_ends_the_task(policy):
    found = encode_decisions(policy, [make_episode(0, steps=10)], GAMMA)
    # the last decision of each trajectory lasts 2, 1, 4, 3 periods
    lasted = [2, 1, 4, 3]
    expected = torch.zeros(10)
    expected[found.ends] = torch.tensor([GAMMA ** (n - 1) for n in lasted])
    torch.testing.assert_close(found.rewards, expected)
    assert (found.discounts[found.ends] == 0).all()
    torch.testing.assert_close(found.discounts[~found.ends], torch.full((6,), GAMMA**N_CHUNK))


@pytest.mark.parametrize("outcome", ["failure", "unlabelled"])
def test_an_episode_that_was_cut_off_earns_nothing_and_goes_on_behind(policy, outcome):
    found = encode_decisions(policy, [make_episode(0, steps=10, outcome=outcome)], GAMMA)
    assert not found.rewards.any()
    expected = torch.tensor([GAMMA**n for n in (2, 1, 4, 3)])
    torch.testing.assert_close(found.discounts[found.ends], expected)


def test_a_failure_before_the_time_limit_ends_the_task(policy):
    early = make_episode(0, steps=10, outcome="failure")
    found = encode_decisions(policy, [early], GAMMA, longest=11)
    assert not found.rewards.any()
    assert (found.discounts[found.ends] == 0).all()
    nobody_judged = make_episode(0, steps=10, outcome="unlabelled")
    for cut_off, longest in ((early, 10), (nobody_judged, 11)):
        found = encode_decisions(policy, [cut_off], GAMMA, longest)
        assert (found.discounts > 0).all()


def test_conditions_are_those_the_policy_would_act_on(policy):
    episodes = [make_episode(0, steps=6), make_episode(1, steps=9)]
    found = encode_decisions(policy, episodes, GAMMA)
    row = 0
    for episode in episodes:
        for offset in range(N_CHUNK):
            for t in range(offset, len(episode), N_CHUNK):
                until = min(t + N_CHUNK, len(episode))
                for frame, kept in ((t, found.condition), (until, found.next_condition)):
                    pair = [max(0, frame - 1), frame]
                    expected = policy.encode(
                        torch.from_numpy(episode.visual[pair])[None],
                        torch.from_numpy(episode.proprio[pair])[None],
                    )[0]
                    torch.testing.assert_close(kept[row], expected, rtol=1e-4, atol=1e-5)
                executed = torch.from_numpy(episode.actions[t:until])
                normalised = policy.normalizer.action(executed).clamp(-1, 1)
                torch.testing.assert_close(found.action[row, : until - t], normalised)
                row += 1
    assert row == len(found)


def test_an_episode_of_another_task_is_refused(policy):
    strange = make_episode(0)
    object.__setattr__(strange, "visual", strange.visual[:, :7])
    with pytest.raises(ConfigError, match="another task or robot"):
        encode_decisions(policy, [strange], GAMMA)


def test_stored_episodes_come_back_as_they_were(tmp_path):
    episodes = [
        make_episode(index, steps=3 + index, outcome=outcome)
        for index, outcome in enumerate(["success", "failure", "unlabelled"])
    ]
    path = tmp_path / "new" / "episodes.npz"
    save_episodes(path, episodes)
    back = load_stored_episodes(path)
    assert [each.digest for each in back] == [each.digest for each in episodes]
    assert [(each.id, each.outcome, len(each)) for each in back] == [
        (each.id, each.outcome, len(each)) for each in episodes
    ]
    assert back[0].visual.dtype == np.float32
    assert not list(path.parent.glob("*.partial"))


def test_a_damaged_file_of_episodes_says_what_to_do(tmp_path):
    path = tmp_path / "episodes.npz"
    save_episodes(path, [make_episode(0)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BagError, match="delete the file"):
        load_stored_episodes(path)


def test_nothing_to_store_is_refused(tmp_path):
    with pytest.raises(BagError, match="collect at least one"):
        save_episodes(tmp_path / "episodes.npz", [])


def test_an_episode_of_another_unit_is_left_out_by_name(policy, caplog):
    known = make_episode(0)
    fitted = copy.deepcopy(policy)
    actions = torch.from_numpy(np.array([[-0.25, -0.25], [0.25, 0.25]], dtype=np.float32))
    fitted.normalizer.fit(
        actions=actions, proprio=torch.rand((8, 3)), clouds=torch.rand((8, 4, 3))
    )
    millimetres = replace(known, id="other", actions=1000 * known.actions)
    slightly = replace(known, actions=1.2 * known.actions)
    with caplog.at_level("WARNING"):
        assert within_range(fitted, [known, millimetres, slightly]) == [known, slightly]
    assert "other is left out: 100 %" in caplog.text
    assert within_range(fitted, []) == []
    with pytest.raises(ConfigError, match="none of 1 episodes"):
        within_range(fitted, [millimetres])
