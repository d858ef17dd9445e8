# SPDX-License-Identifier: Apache-2.0
"""Claims: their settings, one run of a variant in small, and the table over seeds."""

from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from shutil import copy

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.report import Report
from rl100_bringup.reproduction import demonstrations, jobs, reproducing
from rl100_bringup.reproduction.claims import CLAIMS, CONTROL, Claim, Variant, find_claim
from rl100_bringup.reproduction.demonstrations import (
    demonstrations_of,
    describe_task,
    scripted_episodes,
)
from rl100_bringup.reproduction.jobs import JOB, Job
from rl100_bringup.reproduction.reproducing import _imitation_key, reproduce, run_job
from rl100_learner.training import algorithm_run
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.imitation_run import policy_config_for
from rl100_learner.training.settings import flattened, with_overrides
from rl100_policy.core.errors import ConfigError, LearningError
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


def test_ablations_share_the_run_in_which_nothing_is_changed(tmp_path):
    unchanged = {
        "ablation_prediction": "velocity",
        "ablation_variance": "0.05 at least",
        "ablation_chunk": "n_chunk 8",
        "ablation_steps": "K = 5",
    }
    jobs = [
        Job(CLAIMS[claim].variant(name), 0, tmp_path, 100) for claim, name in unchanged.items()
    ]
    assert len({job.folder for job in jobs}) == 1
    task, _ = describe_task(jobs[0].variant)
    config = policy_config_for(task, None, jobs[0].settings)
    assert config.action.n_chunk == 8
    assert config.diffusion.n_steps == 5
    assert config.diffusion.prediction == "velocity"
    assert (config.diffusion.sigma_min, config.diffusion.sigma_max) == (0.05, 0.8)


def test_the_method_in_the_table_of_baselines_is_that_of_the_claims(tmp_path):
    for baseline, claim, name in (
        ("RL-100: push-v3", "meta_world", "push-v3"),
        ("RL-100: Push-T clouds", "push_t", "push_t"),
    ):
        assert _folder(tmp_path, "baselines", baseline) == _folder(tmp_path, claim, name)
    whole = _folder(tmp_path, "ablation_retrain", "success")
    assert whole == _folder(tmp_path, "meta_world", "peg-insert-side-v3")


def _folder(output, claim, variant):
    return Job(CLAIMS[claim].variant(variant), 0, output, CLAIMS[claim].trials).folder


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
    variant = Variant("push-v3", "push-v3", TINY, demonstrations=4, control=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproducing, "ENVIRONMENTS", 2)
        job = Job(variant, 0, tmp_path_factory.mktemp("output"), trials=2)
        job.write_down()
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
    assert _imitation_key(job) == _imitation_key(replace(job, overrides=("rounds=1",)))
    assert _imitation_key(job) != _imitation_key(replace(job, seed=1))


def test_what_a_claim_compares_cannot_be_set_for_all_of_it(tmp_path):
    for claim, override, why in (
        ("ablation_chunk", "n_chunk=4", "what is compared"),
        ("ablation_steps", "diffusion.n_steps=5", "what is compared"),
        ("push_t", "seed=5", "chosen by --seed"),
    ):
        with pytest.raises(ConfigError, match=why):
            reproduce(claim, tmp_path, (), (0,), (override,), 1, Console(quiet=True))


def test_a_run_that_cannot_go_on_is_told_with_what_it_has(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise LearningError("0 of 2 roll-outs are labelled a success")

    monkeypatch.setattr(algorithm_run, "improve_version", fails)
    monkeypatch.setattr(reproducing, "ENVIRONMENTS", 2)
    variant = Variant("push-v3", "push-v3", TINY, demonstrations=4)
    report = run_job(Job(variant, 0, tmp_path, trials=2))
    assert report.failure == "0 of 2 roll-outs are labelled a success"
    assert [stage.name for stage in report.stages] == ["demonstrations", "imitation", "imitation"]
    monkeypatch.setitem(CLAIMS, "tiny", Claim("text", (variant,), (0, 1), 2))
    job = Job(variant, 0, tmp_path, trials=2)
    job.write_down()
    reproduce("tiny", tmp_path, (), (), (), 1, Console(quiet=True), finished=True)
    told = (tmp_path / "tiny" / "tables.md").read_text(encoding="utf-8")
    assert "0 of 2 roll-outs" in told
    assert "not run yet" in told


def test_a_damaged_report_says_what_to_do(finished, tmp_path):
    job = replace(finished[0], output=tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "report.json").write_text('{"command": ', encoding="utf-8")
    with pytest.raises(ConfigError, match="delete it"):
        run_job(job)


def test_a_finished_run_is_taken_from_its_folder(finished, monkeypatch):
    job, report = finished
    monkeypatch.setattr(reproducing, "run_algorithm", None)
    assert run_job(job) == report


def test_equal_runs_of_several_claims_share_a_folder_and_others_do_not(finished):
    job, _ = finished
    renamed = replace(job.variant, name="chunks of 8", overrides=(*TINY, "n_chunk=8"))
    assert replace(job, variant=renamed).folder == job.folder
    others = (
        replace(job, trials=3),
        replace(job, seed=1),
        replace(job, overrides=("gamma=0.9",)),
        replace(job, variant=replace(job.variant, control=False)),
    )
    assert len({each.folder for each in (job, *others)}) == 5
    assert replace(job, seed=1).alike == job.alike


def test_runs_of_other_defaults_are_refused_by_the_setting_that_changed(finished, monkeypatch):
    job, _ = finished

    def changed(settings):
        return flattened(settings.model_dump(mode="json")) | {"gamma": 0.5, "new": 1}

    job.write_down()
    alike = job.alike
    monkeypatch.setattr(jobs, "_flat", changed)
    monkeypatch.setattr(Job, "alike", alike)
    with pytest.raises(ConfigError, match=r"had gamma=0\.99, and it is 0\.5 now"):
        job.write_down()


def test_runs_of_another_description_are_refused_and_its_demonstrations_are_others(
    finished, monkeypatch
):
    job, _ = finished
    job.write_down()
    shown = set((job.shared / "demonstrations").glob("*.npz"))
    monkeypatch.setattr(demonstrations, "SUITE", "Meta-World 9")
    with pytest.raises(ConfigError, match="another description of the task"):
        job.write_down()
    demonstrations_of(job.variant, job.seed, job.shared / "demonstrations")
    now = set((job.shared / "demonstrations").glob("*.npz"))
    assert shown < now
    assert len(now) == len(shown) + 1


def test_the_progress_line_tells_of_learning_and_not_of_the_control(
    finished, tmp_path, monkeypatch
):
    job, report = finished
    told = []

    class Display:
        def add_task(self, *_, **__):
            return 0

        def update(self, *_, note, **__):
            told.append(note)

    stages = [
        stage.model_copy(update={"successes": index}) for index, stage in enumerate(report.stages)
    ]
    other = replace(job, output=tmp_path)
    report.model_copy(update={"stages": stages}).write(other.folder)
    monkeypatch.setattr(reproducing, "progress_display", lambda _: nullcontext(Display()))
    monkeypatch.setattr(reproducing, "run_jobs", lambda jobs, _, tell: tell(jobs[0], "") or {})
    assert reproducing._run_all([other], 1, Console(quiet=True)) == {}
    assert told == [f"{job.variant.name} seed 0: 4/2"]


def test_what_is_finished_is_told_from_reports_alone(finished, tmp_path, monkeypatch):
    job, _ = finished
    other = replace(job, output=tmp_path)
    monkeypatch.setitem(CLAIMS, "tiny", Claim("text", (job.variant,), (0, 1), 2))
    with pytest.raises(ConfigError, match="no run of tiny is finished"):
        reproduce("tiny", tmp_path, (), (), (), 1, Console(quiet=True), finished=True)
    other.folder.mkdir(parents=True)
    copy(job.alike / JOB, other.alike)
    copy(job.folder / "report.json", other.folder)
    console = Console(record=True, width=200, file=StringIO())
    told = reproduce("tiny", tmp_path, (), (), (), 1, console, finished=True)
    assert "1 of 2 runs are finished" in console.export_text()
    assert told.stages[0].trials == 4
    names = {path.name for path in (tmp_path / "tiny").iterdir()}
    assert names == {"report.json", "tables.md", "success.png", "curves.png"}
    assert not list(tmp_path.rglob("lock"))
    listed = CliRunner().invoke(app, ["reproduce", "--finished", "--output", str(tmp_path)])
    rows = [line.split() for line in listed.output.splitlines()]
    assert ["tiny", "1", "of", "2"] in [[word for word in row if word.isalnum()] for row in rows]


def test_a_run_that_failed_is_told_with_the_others_and_fails_the_command(
    finished, tmp_path, monkeypatch
):
    job = replace(finished[0], output=tmp_path)
    job.folder.mkdir(parents=True)
    copy(finished[0].alike / JOB, job.alike)
    copy(finished[0].folder / "report.json", job.folder)
    broken = replace(job, seed=1)
    monkeypatch.setitem(CLAIMS, "tiny", Claim("text", (job.variant,), (0, 1), 2))
    monkeypatch.setattr(reproducing, "_run_all", lambda *_: {broken.folder: "the disk is full"})
    with pytest.raises(LearningError, match="1 of 2 runs failed"):
        reproduce("tiny", tmp_path, (), (), (), 1, Console(quiet=True))
    assert "the disk is full" in (tmp_path / "tiny" / "tables.md").read_text(encoding="utf-8")


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

    def tell(_task, _robot, _n_chunk, _processes, gamma, *_, **__):
        raise ToldError(gamma)

    monkeypatch.setattr(reproducing, "simulated_collector", tell)
    variant = Variant("push-v3", "push-v3", demonstrations=1)
    job = Job(variant, 0, tmp_path, trials=1, overrides=("gamma=0.8",))
    with pytest.raises(ToldError, match=r"0\.8"):
        run_job(job)
