# SPDX-License-Identifier: Apache-2.0
"""Training runs: they learn, repeat, resume to the same bits, and refuse what does not belong
together."""

import math
from pathlib import Path

import pytest
import torch
from toy import GAIN, ROBOT, TASK, make_episode, quick_settings

from rl100_learner.algorithms import distillation, imitation
from rl100_learner.training.checkpoint import CHECKPOINT
from rl100_learner.training.imitation_run import RESOLVED, train_imitation
from rl100_learner.training.progress import Progress
from rl100_learner.training.records import read_metrics
from rl100_learner.training.settings import TrainSettings, with_overrides
from rl100_policy.core.errors import ConfigError, LearningError
from rl100_policy.core.policy_version import WEIGHTS, load_version


class KilledError(Exception):
    """Stands for the process ending."""


def silent(progress: Progress) -> None:
    """Ignore progress."""


def killer(stage: str, step: int):
    """A callback that ends the run when ``stage`` has reached ``step``."""

    def on_progress(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step):
            raise KilledError

    return on_progress


def episodes(count: int = 4):
    return [make_episode(i) for i in range(count)]


def train(output: Path, settings: TrainSettings, on_progress=silent, data=None) -> Path:
    return train_imitation(data or episodes(), TASK, ROBOT, output, settings, on_progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("whole"), quick_settings(20, 20))


def test_same_seed_gives_the_same_weights_and_another_seed_others(finished, tmp_path):
    again = train(tmp_path / "again", quick_settings(20, 20))
    other = train(tmp_path / "other", quick_settings(20, 20).model_copy(update={"seed": 1}))
    assert (again / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert (other / WEIGHTS).read_bytes() != (finished / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        ("imitation", 5),
        ("imitation", 15),
        ("imitation", 20),
        ("distillation", 10),
        ("distillation", 20),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path, stage, step):
    """Checkpoints after 5, 10, ... steps; the kill at 15 loses nothing, as does one at the end of
    a stage."""
    settings = quick_settings(20, 20).model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(KilledError):
        train(tmp_path / "run", settings, killer(stage, step))
    assert (tmp_path / "run" / CHECKPOINT).exists()
    resumed = train(tmp_path / "run", settings)
    assert (resumed / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    steps = [(row["stage"], row["step"]) for row in read_metrics(tmp_path / "run")]
    assert steps == [(s, k) for s in ("imitation", "distillation") for k in (5, 10, 15, 20)]


def test_a_kill_without_a_recent_checkpoint_repeats_the_steps_since_then(finished, tmp_path):
    settings = quick_settings(20, 20).model_copy(update={"checkpoint_seconds": 1e6})
    with pytest.raises(KilledError):
        train(tmp_path / "run", settings, killer("distillation", 15))
    resumed = train(tmp_path / "run", settings)
    assert (resumed / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    steps = [(row["stage"], row["step"]) for row in read_metrics(tmp_path / "run")]
    assert steps == [(s, k) for s in ("imitation", "distillation") for k in (5, 10, 15, 20)]


@pytest.mark.parametrize("stage", [imitation, distillation])
def test_what_has_diverged_is_not_written_over_the_last_checkpoint(tmp_path, monkeypatch, stage):
    name, update = stage.__name__.rpartition(".")[2], stage.update

    def diverges(state, *rest):
        told = update(state, *rest)
        return told | {"loss": math.nan} if state.step > 12 else told

    settings = quick_settings(20, 20).model_copy(update={"checkpoint_seconds": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(stage, "update", diverges)
        with pytest.raises(LearningError, match=f"{name} has diverged: .* nan at step 15"):
            train(tmp_path / "run", settings)
    last = read_metrics(tmp_path / "run")[-1]
    assert (last["stage"], last["step"]) == (name, 10)
    assert train(tmp_path / "run", settings).exists(), "from step 10 on"


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    settings = quick_settings(10, 5).model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(KilledError):
        train(tmp_path / "run", settings, killer("imitation", 5))
    with pytest.raises(ConfigError, match=r"settings\.seed was 0 and is 9"):
        train(tmp_path / "run", settings.model_copy(update={"seed": 9}))
    with pytest.raises(ConfigError, match="from other episodes"):
        train(tmp_path / "run", settings, data=episodes(3))


def test_a_damaged_checkpoint_is_refused_not_ignored(tmp_path):
    settings = quick_settings(10, 5).model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(KilledError):
        train(tmp_path / "run", settings, killer("imitation", 5))
    whole = (tmp_path / "run" / CHECKPOINT).read_bytes()
    (tmp_path / "run" / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="damaged"):
        train(tmp_path / "run", settings)


def test_a_finished_run_is_returned_and_not_repeated(finished):
    before = (finished / WEIGHTS).stat().st_mtime_ns
    assert train(finished.parent, quick_settings(20, 20)) == finished
    assert (finished / WEIGHTS).stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="other settings"):
        train(finished.parent, quick_settings(20, 15))
    with pytest.raises(ConfigError, match=r"other episodes \(0 are new, 1 are gone\)"):
        train(finished.parent, quick_settings(20, 20), data=episodes(3))


def test_version_names_its_episodes_settings_and_limits(finished):
    policy, manifest = load_version(finished)
    assert [bag.id for bag in manifest.bags] == ["reach_0", "reach_1", "reach_2", "reach_3"]
    assert manifest.training["settings"]["imitation"]["steps"] == 20
    assert manifest.metrics["windows"] == 48.0
    data = torch.cat([torch.from_numpy(e.actions) for e in episodes()])
    normalised = policy.normalizer.action(data)
    torch.testing.assert_close(normalised.amin(0), -torch.ones(2))
    torch.testing.assert_close(normalised.amax(0), torch.ones(2))


def test_run_folder_holds_loss_curves_settings_and_tensorboard(finished):
    rows = read_metrics(finished.parent)
    assert {"loss", "loss_diffusion", "loss_chamfer", "lr_share", "seconds"} <= rows[0].keys()
    assert list((finished.parent / "tensorboard").glob("events.*"))
    assert '"imitation"' in (finished.parent / RESOLVED).read_text()
    assert not (finished.parent / CHECKPOINT).exists()


def test_only_successes_are_imitated_if_asked(tmp_path):
    data = [
        make_episode(0),
        make_episode(1, outcome="failure"),
        make_episode(2, outcome="unlabelled"),
    ]
    settings = quick_settings(5, 5).model_copy(update={"episodes": "success"})
    _, manifest = load_version(train(tmp_path / "run", settings, data=data))
    assert [bag.id for bag in manifest.bags] == ["reach_0"]
    with pytest.raises(ConfigError, match="none of 2 episodes is labelled a success"):
        train(tmp_path / "none", settings, data=data[1:])


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    version = train(
        tmp_path_factory.mktemp("learned"), quick_settings(300, 200), data=episodes(40)
    )
    return load_version(version)[0]


@pytest.mark.parametrize("sampler", ["ddim", "one_step"])
def test_the_policy_learns_to_head_for_what_it_sees(learned, sampler):
    """On unseen episodes the first action has less than a fifth of the squared error of the best
    constant action."""
    torch.manual_seed(0)
    wanted, found = [], []
    for index in range(1000, 1010):
        episode = make_episode(index)
        cloud, proprio = torch.from_numpy(episode.visual), torch.from_numpy(episode.proprio)
        decision = learned.decide(
            torch.stack((cloud[:-1], cloud[1:]), 1)[:5],
            torch.stack((proprio[:-1], proprio[1:]), 1)[:5],
            sampler=sampler,
            noise_seed=index,
        )
        goal = (cloud[1:6].amin(1) + cloud[1:6].amax(1))[:, :2] / 2
        wanted.append((GAIN * (goal - proprio[1:6, :2])).clamp(-0.25, 0.25))
        found.append(decision.actions[:, 0])
    wanted, found = torch.cat(wanted), torch.cat(found)
    error = ((wanted - found) ** 2).mean()
    assert float(error) < 0.2 * float(wanted.var(0).mean())


def test_overrides_change_nested_settings():
    settings = with_overrides(
        TrainSettings(), ["seed=3", "imitation.optimizer.muon_lr=0.01", "episodes=success"]
    )
    assert (settings.seed, settings.imitation.optimizer.muon_lr, settings.episodes) == (
        3,
        0.01,
        "success",
    )
    assert settings.imitation.windows == TrainSettings().imitation.windows


@pytest.mark.parametrize(
    "bad", ["seed", "sede=3", "imitation.steps=many", "imitation.stepz=3", "seed.x=1"]
)
def test_wrong_overrides_are_refused(bad):
    with pytest.raises(ConfigError):
        with_overrides(TrainSettings(), [bad])
