# SPDX-License-Identifier: Apache-2.0
"""The online stage: improves, resumes to the same bits, and leaves a version with its lineage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import ROBOT, TASK

from rl100_learner.algorithms import critics
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.online import OnlineConfig, ReplayConfig
from rl100_learner.algorithms.optimizers import OptimizerConfig
from rl100_learner.algorithms.proximal import ProximalConfig
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.data.episode import Episode
from rl100_learner.training.checkpoint import CHECKPOINT
from rl100_learner.training.collecting import Collected
from rl100_learner.training.online_run import OnlineSettings, improve_version
from rl100_learner.training.records import read_metrics
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_policy.core.errors import ConfigError, LearningError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import WEIGHTS, load_version, read_manifest, write_version
from rl100_policy.core.presets import preset

ONLINE_SEED = episode_seeds(Purpose.ONLINE, 0, 0, 1).start
SETTINGS = OnlineSettings(
    online=OnlineConfig(
        iterations=6,
        episodes=48,
        proximal=ProximalConfig(lr=1e-3, encoder_lr=3e-4, epochs=4, minibatch=48),
        value=ValueConfig(width=16),
        replay=ReplayConfig(states=0),
    ),
    distillation=DistillationConfig(
        steps=60, windows=32, ema=0.95, optimizer=OptimizerConfig(warmup_steps=5)
    ),
)
BRIEF = SETTINGS.model_copy(
    update={
        "online": replace(
            SETTINGS.online,
            iterations=4,
            episodes=12,
            proximal=replace(SETTINGS.online.proximal, epochs=2, minibatch=12),
        ),
        "distillation": replace(SETTINGS.distillation, steps=40),
    }
)
"""Where it does not matter how much is learned."""


@pytest.fixture
def version(tmp_path) -> Path:
    torch.manual_seed(0)
    size = ObservationSize(n_obs=2, n_points=16, proprio_dim=3)
    policy = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=4, dim=2)))
    folder = tmp_path / "reach_0"
    write_version(
        folder, policy, task=TASK, robot=ROBOT, parents=(), bags=(), metrics={}, training={}
    )
    return folder


class OnePushEach:
    """Lets a policy decide once an episode: success is a push to positive x."""

    def decisions(self, policy, _parent, seeds, generator, *, every_frame=False) -> Collected:
        """Episodes of one decision; a success is a push that goes to positive x on the whole."""
        clouds = np.stack([np.random.default_rng(s).uniform(0.3, 0.4, (2, 16, 3)) for s in seeds])
        cloud = torch.from_numpy(clouds.astype(np.float32))
        proprio = torch.full((len(seeds), 2, 3), 0.35)
        made = policy.decide(
            cloud, proprio, sampler="ddim", noise_seed=generator, deterministic=False
        )
        good = made.actions_normalised[:, :, 0].mean(dim=1) > 0.1
        count = len(seeds)
        batch = DecisionBatch(
            cloud, proprio, cloud, proprio, made.latents, made.log_probs, good.float(),
            torch.zeros(count), torch.ones(count, dtype=torch.bool),
        )  # fmt: skip
        recorded = _episodes(made, cloud, good) if every_frame else ()
        return Collected(batch, int(good.sum()), count, 4 * count, recorded)


PUSHER = OnePushEach()


def _episodes(made, cloud, good) -> list[Episode]:
    """The same as recorded: four periods during which nothing is seen to move."""
    clouds = cloud[:, :1].expand(-1, 5, -1, -1).numpy()
    return [
        Episode(
            id=f"push_{index}",
            outcome="success" if good[index] else "failure",
            visual=clouds[index],
            proprio=np.full((5, 3), 0.35, dtype=np.float32),
            actions=made.actions[index].numpy(),
            stamps_ns=np.arange(5, dtype=np.int64) * 100_000_000,
        )
        for index in range(len(good))
    ]


class KilledError(Exception):
    """Stands for the end of the process."""


def killer(at: int):
    def on_progress(progress):
        if progress.stage == "online" and progress.step == at:
            raise KilledError

    return on_progress


def silent(_):
    pass


def test_success_rises_and_the_version_names_where_it_came_from(version, tmp_path):
    result = improve_version(version, tmp_path / "run", SETTINGS, PUSHER, silent)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    assert len(rows) == 6
    assert rows[-1]["success"] > rows[0]["success"] + 0.2
    assert all(row["ratio_error"] < 1e-3 for row in rows)
    manifest = read_manifest(result)
    assert manifest.parents == (read_manifest(version).reference,)
    assert manifest.metrics["online_episodes"] == 6 * 48
    policy, _ = load_version(result)
    generator = torch.Generator().manual_seed(3)
    cloud, proprio = 0.3 + 0.1 * torch.rand((64, 2, 16, 3)), torch.full((64, 2, 3), 0.35)
    teacher, student = (
        policy.decide(cloud, proprio, sampler=name, noise_seed=generator).actions_normalised
        for name in ("ddim", "one_step")
    )
    assert abs(float(teacher[:, :, 0].mean() - student[:, :, 0].mean())) < 0.25


def test_iterations_grow_by_one_factor_and_no_start_is_played_twice(version, tmp_path):
    asked: list[range] = []

    class Asked(OnePushEach):
        def decisions(self, policy, parent, seeds, *args, **kwargs):
            asked.append(seeds)
            return super().decisions(policy, parent, seeds, *args, **kwargs)

    online = replace(SETTINGS.online, iterations=3, episodes=8, last_episodes=32)
    settings = SETTINGS.model_copy(update={"online": online})
    improve_version(version, tmp_path / "run", settings, Asked(), silent)
    assert [len(seeds) for seeds in asked] == [8, 16, 32]
    assert [seed for seeds in asked for seed in seeds] == list(
        range(ONLINE_SEED, ONLINE_SEED + 56)
    )
    assert online.episodes_before(3) == 56
    assert replace(online, iterations=1).episodes_of(0) == 8


def test_a_killed_run_goes_on_to_the_same_bits(version, tmp_path):
    whole = improve_version(version, tmp_path / "a" / "run", BRIEF, PUSHER, silent)
    with pytest.raises(KilledError):
        improve_version(version, tmp_path / "b" / "run", BRIEF, PUSHER, killer(3))
    assert (tmp_path / "b" / "run" / CHECKPOINT).exists()
    resumed = improve_version(version, tmp_path / "b" / "run", BRIEF, PUSHER, silent)
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert not (tmp_path / "b" / "run" / CHECKPOINT).exists()


REPLAYING = SETTINGS.model_copy(
    update={
        "online": replace(
            SETTINGS.online,
            episodes=24,
            replay=ReplayConfig(states=64, first_steps=200, steps=100, width=32, buffers=3),
        )
    }
)

BRIEFLY_REPLAYING = BRIEF.model_copy(
    update={
        "online": replace(
            BRIEF.online,
            replay=ReplayConfig(states=32, first_steps=40, steps=20, width=16, buffers=3),
        )
    }
)


def test_with_q_success_rises_on_half_the_episodes(version, tmp_path):
    improve_version(version, tmp_path / "run", REPLAYING, PUSHER, silent)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    assert rows[-1]["success"] > rows[0]["success"] + 0.2
    assert all(row["ratio_error"] < 1e-3 and row["q_spread"] > 0 for row in rows)


def test_with_q_and_earlier_episodes_a_killed_run_goes_on_to_the_same_bits(version, tmp_path):
    policy, _ = load_version(version)
    known = PUSHER.decisions(
        policy, "", range(500, 512), torch.Generator().manual_seed(0), every_frame=True
    ).recorded

    def run(folder, on_progress):
        return improve_version(
            version, folder / "run", BRIEFLY_REPLAYING, PUSHER, on_progress, data=known, own=known
        )

    whole = run(tmp_path / "a", silent)
    with pytest.raises(KilledError):
        run(tmp_path / "b", killer(3))
    resumed = run(tmp_path / "b", silent)
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="another run"):
        improve_version(version, tmp_path / "a" / "run", BRIEFLY_REPLAYING, PUSHER, silent)


def test_a_policy_that_collapses_is_given_up_for_the_best_one(version, tmp_path):
    acted = []

    class Collapses(OnePushEach):
        def decisions(self, policy, *args, **kwargs):
            acted.append({key: each.clone() for key, each in policy.state_dict().items()})
            found = super().decisions(policy, *args, **kwargs)
            won = 5 if len(acted) == 4 else 40 + len(acted)
            return replace(found, successes=won)

    improve_version(version, tmp_path / "run", SETTINGS, Collapses(), silent)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    assert [row["returned"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert "kl" not in rows[3], "nothing was learned from the decisions of the collapsed policy"

    def differ(a, b):
        teacher = [key for key in acted[a] if not key.startswith("student.")]
        return any(not torch.equal(acted[a][key], acted[b][key]) for key in teacher)

    assert not differ(2, 4), "after the fourth iteration the policy of the third acts again"
    assert differ(3, 4)
    assert differ(4, 5)


@pytest.mark.parametrize(("last", "returns"), [(32, True), (38, False)])
def test_a_last_policy_that_is_worse_than_the_best_is_not_what_remains(
    version, tmp_path, last, returns
):
    """45 of 48, then fewer: 2.4 deviations are 35.5, four of them 29."""
    acted = []

    class Declines(OnePushEach):
        def decisions(self, policy, *args, **kwargs):
            acted.append({key: each.clone() for key, each in policy.state_dict().items()})
            found = super().decisions(policy, *args, **kwargs)
            return replace(found, successes=(40, 45, 44, 42, 40, last)[len(acted) - 1])

    result = improve_version(version, tmp_path / "run", SETTINGS, Declines(), silent)
    final = load_version(result)[0].state_dict()
    teacher = [key for key in final if not key.startswith("student.")]
    assert all(torch.equal(final[key], acted[1][key]) for key in teacher) is returns
    assert read_manifest(result).metrics["online_success"] == (45 if returns else last) / 48


def test_what_remains_is_the_moving_average_of_the_policies(version, tmp_path):
    acted = []

    class Watched(OnePushEach):
        def decisions(self, policy, *args, **kwargs):
            acted.append({key: each.clone() for key, each in policy.state_dict().items()})
            return super().decisions(policy, *args, **kwargs)

    final = {}
    for decay in (0.0, 0.7):
        settings = SETTINGS.model_copy(update={"online": replace(SETTINGS.online, average=decay)})
        result = improve_version(version, tmp_path / str(decay), settings, Watched(), silent)
        final[decay] = load_version(result)[0].state_dict()
    policies = [*acted[1:6], final[0.0]]  # after every iteration, averaged or not
    for key in (key for key in final[0.7] if not key.startswith("student.")):
        expected = policies[0][key]
        for each in policies[1:]:
            expected = 0.7 * expected + 0.3 * each[key]
        torch.testing.assert_close(final[0.7][key], expected.to(final[0.7][key].dtype))


def test_it_ends_once_the_latest_episodes_hardly_fail(version, tmp_path):
    class SoonPerfect(OnePushEach):
        def decisions(self, policy, parent, seeds, *args, **kwargs):
            found = super().decisions(policy, parent, seeds, *args, **kwargs)
            third = seeds.start >= ONLINE_SEED + 2 * SETTINGS.online.episodes
            return replace(found, successes=47 if third else 10)

    def run(folder, on_progress, enough):
        settings = SETTINGS.model_copy(
            update={"online": replace(SETTINGS.online, enough=enough, enough_episodes=90)}
        )
        result = improve_version(version, folder / "run", settings, SoonPerfect(), on_progress)
        return result, [r for r in read_metrics(folder / "run") if r["stage"] == "online"]

    _, rows = run(tmp_path / "all", silent, 0.99)
    assert len(rows) == 6, "94 of 96 are not enough"
    whole, rows = run(tmp_path / "a", silent, 0.95)
    assert len(rows) == 4, "the third and fourth had 94 of 96"
    assert ["kl" in row for row in rows] == [True, True, False, False], "good ones stay"
    with pytest.raises(KilledError):
        run(tmp_path / "b", killer(4), 0.95)
    resumed, rows = run(tmp_path / "b", silent, 0.95)
    assert len(rows) == 4
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


class Spoils(OnePushEach):
    """Tells other likelihoods of its first decisions than the policy gave them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def decisions(self, *args, **kwargs):
        found = super().decisions(*args, **kwargs)
        log_probs = found.batch.log_probs.clone()
        log_probs[: self.count, 2] += 0.2
        return replace(found, batch=replace(found.batch, log_probs=log_probs))


def test_decisions_that_the_policy_has_not_made_like_that_are_left_out(version, tmp_path):
    improve_version(version, tmp_path / "run", SETTINGS, Spoils(6), silent)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    assert [row["foreign"] for row in rows] == pytest.approx([6 / 48] * 6)
    assert all(row["ratio_error"] < 1e-3 for row in rows)


def test_too_many_of_them_end_the_stage(version, tmp_path):
    with pytest.raises(LearningError, match=r"25 % of 48 decisions have another likelihood"):
        improve_version(version, tmp_path / "run", SETTINGS, Spoils(12), silent)


def test_without_any_success_nothing_is_changed_and_the_stage_says_so(version, tmp_path):
    weights = []

    class Hopeless(OnePushEach):
        def decisions(self, policy, *args, **kwargs):
            weights.append(
                {key: each.clone() for key, each in policy.denoiser.state_dict().items()}
            )
            return replace(super().decisions(policy, *args, **kwargs), successes=0)

    with pytest.raises(LearningError, match="none of 72 episodes succeeded"):
        improve_version(version, tmp_path / "run", REPLAYING, Hopeless(), silent)
    assert len(weights) == 3
    for later in weights[1:]:
        assert all(torch.equal(later[key], each) for key, each in weights[0].items())
    with pytest.raises(LearningError, match="none of 72 episodes"):  # nor does it end otherwise
        improve_version(version, tmp_path / "run", REPLAYING, Hopeless(), silent)
    assert len(weights) == 3


def test_q_learns_from_nothing_in_its_first_regression_whichever_iteration_it_is_in(
    version, tmp_path, monkeypatch
):
    class FirstPerfect(OnePushEach):
        def decisions(self, policy, parent, seeds, *args, **kwargs):
            found = super().decisions(policy, parent, seeds, *args, **kwargs)
            return replace(found, successes=found.episodes if seeds.start == ONLINE_SEED else 18)

    steps, regress = [], critics.regress

    def counted(q, data, target, generator, config):
        steps.append(config.steps)
        return regress(q, data, target, generator, config)

    monkeypatch.setattr(critics, "regress", counted)
    online = replace(REPLAYING.online, iterations=3)
    settings = REPLAYING.model_copy(update={"online": online})
    improve_version(version, tmp_path / "run", settings, FirstPerfect(), silent)
    assert steps == [online.replay.first_steps, online.replay.steps]


def test_episodes_that_somebody_saved_are_not_replayed(version, tmp_path):
    class Saved(OnePushEach):
        def decisions(self, *args, **kwargs):
            found = super().decisions(*args, **kwargs)
            saved = [replace(each, taken_over=True) for each in found.recorded]
            return replace(found, recorded=saved)

    improve_version(version, tmp_path / "run", REPLAYING, Saved(), silent)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    assert all("kl" in row and "q_loss" not in row for row in rows)


def test_progress_tells_success_and_loss_apart(version, tmp_path):
    told = []
    improve_version(version, tmp_path / "run", SETTINGS, PUSHER, told.append)
    rows = [row for row in read_metrics(tmp_path / "run") if row["stage"] == "online"]
    online = [each for each in told if each.stage == "online"]
    assert [each.success for each in online] == [row["success"] for row in rows]
    assert [each.loss for each in online] == [row["loss"] for row in rows]
    assert all(each.success is None for each in told if each.stage != "online")


def test_another_run_in_the_same_folder_is_refused(version, tmp_path):
    brief = SETTINGS.model_copy(
        update={
            "online": OnlineConfig(
                iterations=1, episodes=8, value=ValueConfig(width=8), replay=ReplayConfig(states=0)
            )
        }
    )
    result = improve_version(version, tmp_path / "run", brief, PUSHER, silent)
    assert improve_version(version, tmp_path / "run", brief, PUSHER, silent) == result
    other = brief.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="another run"):
        improve_version(version, tmp_path / "run", other, PUSHER, silent)
