# SPDX-License-Identifier: Apache-2.0
"""Claims: their settings, one run of a variant in small, and the table over seeds."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rl100_bringup import reproducing
from rl100_bringup.claims import CLAIMS, CONTROL, Claim, Variant, find_claim
from rl100_bringup.demonstrating import describe_task, scripted_episodes
from rl100_bringup.report import Report
from rl100_bringup.reproducing import Job, _imitation_key, reproduce, run_job
from rl100_learner.training.algorithm_run import AlgorithmSettings
from rl100_learner.training.run import policy_config_for
from rl100_learner.training.settings import with_overrides
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import WEIGHTS, read_manifest
from rl100_sim.meta_world.tasks import TASKS

TINY = (
    "episodes=all", "imitation.steps=12", "distillation.steps=4", "rounds=0", "trials=2",
    "online.iterations=1", "online.episodes=2", "online_distillation.steps=4",
    "online.replay.first_steps=4", "online.replay.steps=4", "online.replay.states=16",
)  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_of_known_tasks_and_valid_settings(name):
    claim = CLAIMS[name]
    assert len({variant.name for variant in claim.variants}) == len(claim.variants)
    for variant in claim.variants:
        assert variant.task == "push_t" or variant.task in TASKS
        settings = with_overrides(AlgorithmSettings(), variant.overrides)
        if variant.task == "push_t":
            policy_config_for(*describe_task(variant), settings)


@pytest.mark.parametrize(
    ("claim", "variants", "message"),
    [("everything", (), "expected one of the claims"), ("push_t", ("x",), "has the variants")],
)
def test_what_there_is_not_is_refused_with_what_there_is(tmp_path, claim, variants, message):
    with pytest.raises(ConfigError, match=message):
        reproduce(claim, tmp_path, variants, (), (), 1, Console(quiet=True))


def test_a_setting_that_is_wrong_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="no setting"):
        reproduce("push_t", tmp_path, (), (0,), ("imitation.stepz=1",), 1, Console(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Job, Report]:
    folder = tmp_path_factory.mktemp("runs") / "push-v3" / "seed_0"
    variant = Variant("push-v3", "push-v3", TINY, demonstrations=4, control=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproducing, "ENVIRONMENTS", 2)
        job = Job(
            variant, 0, folder, folder.parent / "shared", trials=2, overrides=(*TINY, "seed=0")
        )
        return job, run_job(job)


def test_a_run_demonstrates_learns_and_evaluates_every_stage_and_the_control(finished):
    job, report = finished
    names = [(stage.name, stage.policy) for stage in report.stages]
    assert names == [
        ("demonstrations", "operator"),
        ("imitation", "ddim"), ("imitation", "one_step"),
        ("online", "ddim"), ("online", "one_step"),
        (CONTROL, "ddim"), (CONTROL, "one_step"),
    ]  # fmt: skip
    assert [stage.trials for stage in report.stages] == [4, 2, 2, 2, 2, 2, 2]
    manifest = read_manifest(job.folder / "run" / report.run[-1].version)
    assert manifest.robot is None
    assert manifest.task.suite.startswith("Meta-World")
    assert (job.folder / "run.log").stat().st_size > 0


def test_imitation_of_equal_settings_is_done_once_for_all_runs(finished):
    job, report = finished
    (shared,) = (job.shared / "imitation").glob("push-v3_*/run/imitation/push-v3_run_imitation")
    copied = job.folder / "run" / report.run[0].version
    assert copied.name == shared.name
    assert (copied / WEIGHTS).read_bytes() == (shared / WEIGHTS).read_bytes()
    assert report.run[0].seconds > 0.0
    changed = replace(job, overrides=(*job.overrides, "rounds=1"))
    assert _imitation_key(job) == _imitation_key(changed)
    changed = replace(job, overrides=(*job.overrides, "seed=1"))
    assert _imitation_key(job) != _imitation_key(changed)


def test_a_finished_run_is_taken_from_its_folder(finished, monkeypatch):
    job, report = finished
    monkeypatch.setattr(reproducing, "run_algorithm", None)
    assert run_job(job) == report


def test_results_of_other_settings_are_not_told_as_those_asked_for(finished):
    job, _ = finished
    for other in (replace(job, trials=3), replace(job, overrides=(*job.overrides, "gamma=0.9"))):
        with pytest.raises(ConfigError, match="other settings"):
            run_job(other)


def test_the_scripted_person_pushes_the_block_home_without_a_graph():
    task, robot = describe_task(Variant("push_t", "push_t"))
    episodes = list(scripted_episodes(task, robot, range(3), skill=1.0))
    assert [episode.outcome for episode in episodes] == ["success"] * 3
    again = next(scripted_episodes(task, robot, range(1), skill=1.0))
    assert again.digest == episodes[0].digest
    assert all(np.abs(episode.actions).max() <= 0.25 for episode in episodes)


def test_a_claim_finds_its_variants():
    claim = Claim("text", (Variant("a", "push_t"), Variant("b", "push_t")))
    assert claim.variant("b").name == "b"
    assert find_claim("push_t").variants


def test_decisions_are_discounted_as_online_learning_says(tmp_path, monkeypatch):
    class ToldError(Exception):
        pass

    def tell(_task, _robot, _n_chunk, _processes, gamma, *_):
        raise ToldError(gamma)

    monkeypatch.setattr(reproducing, "simulated_collector", tell)
    variant = Variant("push-v3", "push-v3", demonstrations=1)
    job = Job(
        variant,
        0,
        tmp_path,
        tmp_path / "shared",
        trials=1,
        overrides=("gamma=0.5", "online.gamma=0.8"),
    )
    with pytest.raises(ToldError, match=r"0\.8"):
        run_job(job)
