# SPDX-License-Identifier: Apache-2.0
"""Decisions from bags: what each lasted and earned, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rl100_learner.data.decisions import DecisionReader, decision_batch
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.testing import FROM_ABOVE, MessageFactory, SyntheticEpisode
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import BagError

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(update={"cameras": (FROM_ABOVE,)})
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
FACTORY = MessageFactory()
T, GAMMA = 10, 0.9


def judged(kind: JudgementKind) -> tuple[Judgement, ...]:
    return (Judgement(stamp_ns=1, kind=kind),)


def episode(
    at=(0, 4, 8),
    version="v1",
    kind=JudgementKind.SUCCESS,
    likelihood=True,
    sampler="ddim",
    judgements=(),
    **changes,
) -> SyntheticEpisode:
    """Ten periods; the cloud of step t lies 1 mm lower than that of step t - 1."""
    steps = np.arange(T + 1)
    depth = np.broadcast_to(
        460 + steps[:, None, None], (T + 1, FROM_ABOVE.height, FROM_ABOVE.width)
    )
    plain = SyntheticEpisode(
        TASK, ROBOT, depth.astype(np.uint16), np.tile(ROBOT.home, (T + 1, 1)),
        np.zeros((T, 2), np.float32), judgements=judgements or judged(kind),
        policy=dict.fromkeys(range(T), version),
    )  # fmt: skip
    log_probs = np.arange(5, dtype=np.float32) if likelihood else np.zeros(0, np.float32)
    chain = np.zeros((len(log_probs) + 1, 4, 2), np.float32)
    decided = [
        (
            "decision",
            step,
            FACTORY.decision(
                plain.stamp_ns(step),
                version,
                chain + step,
                log_probs,
                [plain.stamp_ns(max(0, step - 1)), plain.stamp_ns(step)],
                sampler,
            ),
        )
        for step in at
    ]
    return replace(plain, extra=decided, **changes)


def height(cloud) -> list:
    """Step at which each frame was seen."""
    return (1e3 * (0.040 - cloud[..., 2].mean(-1))).round().int().tolist()


def read(tmp_path, synthetic, task=TASK):
    return DecisionReader(task, ROBOT).read(synthetic.write(tmp_path, FACTORY))


def test_a_decision_lasts_until_the_next_and_the_last_one_earns_the_success(tmp_path):
    recorded = read(tmp_path, episode())
    assert recorded.rows.tolist() == [0, 4, 8]
    assert recorded.policy_version == "v1"
    assert recorded.terminated
    batch = decision_batch([recorded], "v1", 2, GAMMA)
    torch.testing.assert_close(batch.rewards, torch.tensor([0.0, 0.0, GAMMA]))
    torch.testing.assert_close(batch.discounts, torch.tensor([GAMMA**4, GAMMA**4, 0.0]))
    assert batch.ends.tolist() == [False, False, True]
    assert batch.latents[:, 0, 0, 0].tolist() == [0.0, 4.0, 8.0]
    assert batch.log_probs[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert height(batch.visual) == [[0, 0], [3, 4], [7, 8]]
    assert height(batch.next_visual) == [[3, 4], [7, 8], [9, 10]]


@pytest.mark.parametrize(
    ("kind", "time_limit", "terminated"),
    [
        (JudgementKind.SUCCESS, 12.0, True),
        (JudgementKind.SUCCESS, 1.0, True),
        (JudgementKind.FAILURE, 12.0, True),
        (JudgementKind.FAILURE, 1.0, False),
        (JudgementKind.UNDO, 12.0, False),
    ],
)
def test_a_true_end_and_a_time_limit_are_told_apart(tmp_path, kind, time_limit, terminated):
    task = TASK.model_copy(update={"time_limit": time_limit})
    recorded = read(tmp_path, episode(kind=kind), task)
    assert recorded.terminated is terminated
    batch = decision_batch([recorded], "v1", 2, GAMMA)
    assert (float(batch.discounts[-1]) == 0.0) is terminated
    assert float(batch.rewards.sum()) == pytest.approx(GAMMA * (kind is JudgementKind.SUCCESS))


def test_decisions_without_a_likelihood_are_refused(tmp_path):
    with pytest.raises(BagError, match="deterministic false"):
        read(tmp_path, episode(likelihood=False))


def test_an_episode_without_decisions_is_refused(tmp_path):
    with pytest.raises(BagError, match="no decision"):
        read(tmp_path, episode(at=()))


def test_decisions_of_two_versions_in_one_episode_are_refused(tmp_path):
    mixed = episode(at=(0, 4))
    other = episode(at=(8,), version="v2").extra
    with pytest.raises(BagError, match=r"several versions \['v1', 'v2'\]"):
        read(tmp_path, replace(mixed, extra=[*mixed.extra, *other]))


def test_decisions_of_two_sizes_in_one_episode_are_refused(tmp_path):
    """Regression: they ended the run with a trace of numpy."""
    whole = episode()
    chain, log_probs = np.zeros((4, 4, 2), np.float32), np.zeros(3, np.float32)
    stamps = [whole.stamp_ns(3), whole.stamp_ns(4)]
    shorter = FACTORY.decision(stamps[1], "v1", chain, log_probs, stamps, "ddim")
    mixed = replace(whole, extra=[whole.extra[0], ("decision", 4, shorter), whole.extra[2]])
    with pytest.raises(BagError, match="several sizes"):
        read(tmp_path, mixed)


def test_episodes_of_another_version_than_the_current_one_are_refused_and_named(tmp_path):
    old, new = (read(tmp_path / v, episode(version=v)) for v in ("v1", "v2"))
    with pytest.raises(BagError, match=r"got 2 of which 1 are of \['v1'\]"):
        decision_batch([old, new], "v2", 2, GAMMA)
    with pytest.raises(BagError, match="got 0"):
        decision_batch([], "v2", 2, GAMMA)
    both = decision_batch([new, new], "v2", 2, GAMMA)
    assert both.ends.tolist() == [False, False, True] * 2


def test_a_decision_between_two_control_periods_belongs_to_the_nearer_one(tmp_path):
    made = episode(at=(0, 8))
    stamp = made.stamp_ns(4) + 10_000_000
    seen = [made.stamp_ns(3), made.stamp_ns(4)]
    chain = np.full((6, 4, 2), 4.0, np.float32)
    between = ("decision", 4, FACTORY.decision(stamp, "v1", chain, np.arange(5.0), seen))
    recorded = read(tmp_path, replace(made, extra=[*made.extra, between]))
    assert recorded.rows.tolist() == [0, 4, 8]
    other = FACTORY.decision(stamp, "v0", chain, np.arange(5.0), seen)
    mixed = replace(made, extra=[*made.extra, ("decision", 4, other)])
    with pytest.raises(BagError, match=r"several versions \['v0', 'v1'\]"):
        read(tmp_path, mixed)


def test_a_decision_was_made_on_the_frames_that_it_names(tmp_path):
    """Nobody is in command at first: those periods are no part of the episode, but were seen."""
    recorded = read(tmp_path, episode(at=(3, 7), hold=frozenset(range(3)), policy=by_policy(3)))
    assert recorded.rows.tolist() == [0, 4]
    batch = decision_batch([recorded], "v1", 2, GAMMA)
    assert height(batch.visual) == [[2, 3], [6, 7]]
    assert height(batch.next_visual) == [[6, 7], [9, 10]]


def by_policy(first: int, until: int = T) -> dict[int, str]:
    return dict.fromkeys(range(first, until), "v1")


def test_decisions_whose_frames_are_not_in_the_bag_do_not_count(tmp_path):
    made = episode(missing={"depth": frozenset({3})})
    recorded = read(tmp_path, made)
    assert len(recorded.episode) == 6
    assert recorded.rows.tolist() == [4], "that of step 4 saw step 3, which is lost"


def test_what_a_person_did_is_not_learned_as_the_policy_s_own(tmp_path):
    with pytest.raises(BagError, match="was not in command during any"):
        read(tmp_path, episode(policy={}))  # it only proposed, a person drove
    taken_over = read(tmp_path, episode(at=(0, 3, 6), policy=by_policy(0, 7)))
    assert taken_over.rows.tolist() == [0, 3], "the last decision was not carried out to its end"
    batch = decision_batch([taken_over], "v1", 2, GAMMA)
    assert batch.rewards.tolist() == [0.0, 0.0], "the person's success"
    torch.testing.assert_close(batch.discounts, torch.tensor([GAMMA**3, GAMMA**3]))
    assert batch.ends.tolist() == [False, True]
    between = read(tmp_path, episode(at=(0, 3, 6), policy=by_policy(0, 3) | by_policy(6)))
    assert between.rows.tolist() == [0, 6]
    batch = decision_batch([between], "v1", 2, GAMMA)
    assert batch.ends.tolist() == [True, True]
    torch.testing.assert_close(batch.rewards, torch.tensor([0.0, GAMMA**3]))
    torch.testing.assert_close(batch.discounts, torch.tensor([GAMMA**3, 0.0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"hold": frozenset({0}), "policy": by_policy(1), "at": (1, 5)},
        {"hold": frozenset({9}), "policy": by_policy(0, 9)},
        {"missing": {"depth": frozenset({10})}},
        {"missing": {"depth": frozenset({1})}, "at": (2, 6)},
    ],
)
def test_a_time_limit_stays_one_if_a_period_is_not_part_of_the_episode(tmp_path, changes):
    task = TASK.model_copy(update={"time_limit": 1.0})
    recorded = read(tmp_path, episode(kind=JudgementKind.FAILURE, **changes), task)
    assert len(recorded.episode) < T
    assert not recorded.terminated


def test_decisions_beside_another_versions_commands_are_refused(tmp_path):
    half = dict.fromkeys(range(5), "v1") | dict.fromkeys(range(5, T), "v0")
    with pytest.raises(BagError, match=r"v1 decided, and \['v0'\] was in command"):
        read(tmp_path, episode(policy=half))


def test_an_executed_action_that_no_gate_lets_through_is_missing(tmp_path):
    actions = np.zeros((T, 2), np.float32)
    actions[7, 1] = 1e6
    bounds = TASK.action.high[0]
    actions[2, 0] = 2.5 * bounds  # a person may be a little faster
    found = read(tmp_path, episode(actions=actions)).episode
    assert len(found) == 7
    assert found.actions.max() == pytest.approx(2.5 * bounds)


def seen_at(step: float, kind=JudgementKind.SUCCESS, delay_s=0.0):
    """A press about what was seen some control periods after the start."""
    plain = episode()
    at = plain.stamp_ns(0) + round((plain.stamp_ns(1) - plain.stamp_ns(0)) * step)
    return (Judgement(stamp_ns=at + round(delay_s * 1e9), kind=kind, reaction_delay_s=delay_s),)


def test_the_decision_in_command_when_the_success_was_seen_earns_it(tmp_path):
    """Decisions at periods 0, 4 and 8; seen in the sixth period, pressed .3 s later."""
    recorded = read(tmp_path, episode(judgements=seen_at(5.5, delay_s=0.3)))
    assert (recorded.rows.tolist(), recorded.until.tolist()) == ([0, 4], [4, 6])
    assert recorded.terminated
    batch = decision_batch([recorded], "v1", 2, GAMMA)
    np.testing.assert_allclose(batch.rewards, [0.0, GAMMA], rtol=1e-6)


def test_a_success_seen_at_an_observation_was_earned_by_the_period_before_it(tmp_path):
    recorded = read(tmp_path, episode(judgements=seen_at(4)))
    assert (recorded.rows.tolist(), recorded.until.tolist()) == ([0], [4])


def test_nothing_that_came_after_a_failure_was_seen_is_learned_from(tmp_path):
    recorded = read(tmp_path, episode(judgements=seen_at(2.5, JudgementKind.FAILURE)))
    assert len(recorded.episode) == 3
    assert recorded.episode.outcome == "failure"
    assert recorded.terminated
