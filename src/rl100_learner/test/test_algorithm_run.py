# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 on a task of seconds: its stages, what they leave, and what a kill changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy import ROBOT, TASK, ReachCollector, make_episode, quick_settings

from rl100_learner.algorithms import critics, offline, transition
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.offline import GateConfig, OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig, ReplayConfig
from rl100_learner.algorithms.optimizers import OptimizerConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.offline_run import improve_offline
from rl100_learner.training.online_run import improve_version
from rl100_learner.training.records import read_metrics
from rl100_learner.training.stages import STAGES, read_stages
from rl100_policy.core.errors import ConfigError, LearningError
from rl100_policy.core.policy_version import WEIGHTS, read_manifest
from rl100_policy.core.presets import NetworkChoice

DEMONSTRATIONS = [make_episode(index) for index in range(12)]
QUICK_DISTILLATION = DistillationConfig(
    steps=5, windows=16, ema=0.5, optimizer=OptimizerConfig(warmup_steps=2)
)
SETTINGS = AlgorithmSettings(
    **quick_settings(20, 4).model_dump(),
    rounds=2,
    rollouts=8,
    trials=4,
    critics=CriticConfig(steps=30, width=16, returns=ValueConfig(width=8)),
    transition=TransitionConfig(steps=20, widths=(16,)),
    offline=OfflineConfig(iterations=2, states=16, gate=GateConfig(enabled=False)),
    candidate_distillation=QUICK_DISTILLATION,
    online=OnlineConfig(
        iterations=2,
        episodes=6,
        value=ValueConfig(width=8),
        replay=ReplayConfig(states=16, first_steps=10, steps=5, width=16),
    ),
    online_distillation=QUICK_DISTILLATION,
).model_copy(update={"n_chunk": 4})


def silent(*_):
    pass


class KilledError(Exception):
    """Stands for the end of the process."""


def run(output: Path, settings=SETTINGS, collector=None, on_progress=silent, **options):
    collector = collector or ReachCollector()
    return run_algorithm(
        DEMONSTRATIONS, TASK, ROBOT, output, settings, collector, on_progress, **options
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    return output, run(output)


def test_every_stage_leaves_a_version_that_names_its_parent(whole):
    output, records = whole
    assert [record.name for record in records] == ["imitation", "round 1", "round 2", "online"]
    versions = [output / record.version for record in records]
    assert all((version / WEIGHTS).exists() for version in versions)
    learned = output / "online" / "reach_run_online"
    assert read_manifest(learned).parents == (read_manifest(versions[-2]).reference,)
    assert versions[0].name == "reach_run_imitation"
    assert versions[-1] in (learned, versions[-2])
    assert [*read_stages(output)] == records


def test_a_round_tries_the_current_version_and_all_candidates_from_the_same_starts(whole):
    output, records = whole
    for index, record in enumerate(records[1:3], start=1):
        assert set(record.trials) == {"current", "iterate 2", "imitation"}
        assert record.chosen in record.trials
        assert record.trials[record.chosen][0] == max(won for won, _ in record.trials.values())
        folder = output / f"round_{index}" / "trials"
        assert {path.name for path in folder.iterdir()} == {
            "current", "iterate_2", "imitation",
        }  # fmt: skip
        assert record.episodes == 8 + 3 * 4
    assert set(records[3].trials) == {"current", "online"}
    assert records[3].episodes == 2 * 6 + 2 * 4


def test_what_was_played_in_a_round_is_learned_from_in_the_next(whole):
    output, _ = whole
    sizes = []
    for index in (1, 2):
        version = next((output / f"round_{index}" / "offline").glob("reach_*_2"))
        sizes.append(len(read_manifest(version).bags))
    assert sizes == [12 + 8, 12 + (8 + 12) + 8]


def test_a_version_names_only_episodes_that_it_learned_from(whole, tmp_path):
    output, records = whole
    version = output / records[0].version
    own = [make_episode(i, outcome="success" if i % 2 else "failure") for i in range(8)]
    data = [*own, replace(own[1], id="in millimetres", actions=1000 * own[1].actions)]
    (candidate,) = improve_offline(
        version, tmp_path / "offline", data, own, SETTINGS.offline_settings, silent
    )
    learned = improve_version(
        version, tmp_path / "online", SETTINGS.online_settings, ReachCollector(), silent,
        data=data, own=own,
    )  # fmt: skip
    for each in (candidate.version, learned):
        names = {bag.id for bag in read_manifest(each).bags}
        assert names >= {episode.id for episode in own}
        assert "in millimetres" not in names


def test_the_offline_stage_records_estimate_and_decision(whole):
    output, _ = whole
    rows = [
        row for row in read_metrics(output / "round_1" / "offline") if row["stage"] == "offline"
    ]
    assert [row["step"] for row in rows] == [1, 2]
    assert all({"j", "j_snapshot", "accepted", "kl", "q"} <= row.keys() for row in rows)


def test_critics_that_judge_learn_from_episodes_of_their_own(tmp_path, monkeypatch):
    seeds, fit = [], critics.fit
    amounts, fit_model = [], transition.fit

    def noted(data, own, seed, *rest):
        seeds.append(seed)
        amounts.append(len(data))
        return fit(data, own, seed, *rest)

    def noted_model(data, *rest):
        amounts.append(len(data))
        return fit_model(data, *rest)

    monkeypatch.setattr(critics, "fit", noted)
    monkeypatch.setattr(transition, "fit", noted_model)
    settings = SETTINGS.model_copy(
        update={
            "rounds": 1,
            "retrain": "none",
            "watch": 1,
            "offline": OfflineConfig(
                iterations=1, states=16, gate=GateConfig(enabled=False, held_out=0.5)
            ),
        }
    )
    run(tmp_path / "run", settings, stages=("imitation", "offline"))
    told = read_metrics(tmp_path / "run" / "round_1" / "offline")
    shown = [row["step"] for row in told if "j_improving" in row]
    assert shown == [0, 1], "also of the policy that the phase began with"
    rows = {row["stage"]: row for row in told}
    assert {"critics", "judging critics", "offline"} <= rows.keys()
    assert rows["critics"]["explained_variance"] != rows["judging critics"]["explained_variance"]
    assert rows["offline"]["j"] != rows["offline"]["j_improving"]
    assert len(set(seeds)) == 2, "and begin with weights of their own"
    improving, judging, model = amounts
    assert model == judging != improving, "the model is the judge's too"


def gated(output, monkeypatch, scripted, **gate) -> list[str]:
    """Names of the candidates of a round whose iterates get these estimates J, one by one."""
    estimates = iter(scripted)
    monkeypatch.setattr(offline, "estimate", lambda *_: next(estimates))
    chosen = OfflineConfig(iterations=4, states=16, gate=GateConfig(patience=4, **gate))
    settings = SETTINGS.model_copy(update={"rounds": 1, "retrain": "none", "offline": chosen})
    records = run(output, settings, stages=("imitation", "offline"))
    return sorted(records[-1].trials)


def test_only_what_the_gate_lets_through_is_a_candidate(tmp_path, monkeypatch):
    found = gated(tmp_path / "run", monkeypatch, [1.0, 1.1, 1.11, 0.9, 1.2])
    assert found == ["current", "iterate 1", "iterate 4"]


def test_an_iterate_that_is_estimated_worse_is_nobodys_candidate(tmp_path, monkeypatch):
    assert gated(tmp_path / "run", monkeypatch, [1.0, 0.9, 0.5, 1.04, 1.049]) == ["current"]


def test_the_phase_ends_with_the_accepts_that_are_allowed(tmp_path, monkeypatch):
    found = gated(tmp_path / "run", monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0], accepts=2)
    assert found == ["current", "iterate 1", "iterate 2"]


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_the_estimate_is_read_from_the_critics_that_judge(tmp_path, monkeypatch, held_out):
    fitted, fit, asked = [], critics.fit, []

    def noted(*rest):
        found, told = fit(*rest)
        fitted.append(found)
        return found, told

    def phase(policy, improving, judge, *rest):
        asked.append((improving, judge.critics))
        return real(policy, improving, judge, *rest)

    real = offline.phase
    monkeypatch.setattr(critics, "fit", noted)
    monkeypatch.setattr(offline, "phase", phase)
    chosen = OfflineConfig(iterations=1, states=16, gate=GateConfig(held_out=held_out))
    settings = SETTINGS.model_copy(update={"rounds": 1, "retrain": "none", "offline": chosen})
    run(tmp_path / "run", settings, stages=("imitation", "offline"))
    ((improving, judging),) = asked
    assert improving is fitted[0]
    assert judging is fitted[-1]
    assert len(fitted) == (2 if held_out else 1)


def test_episodes_to_be_watched_are_refused_before_any_is_played(tmp_path):
    class Robot(ReachCollector):
        watches = False

    robot = Robot()
    settings = SETTINGS.model_copy(update={"watch": 3})
    with pytest.raises(ConfigError, match="watch=3 plays episodes that are only shown"):
        run(tmp_path / "run", settings, robot)
    assert robot.asked == []
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", settings, robot, stages=("imitation",))


def test_all_failures_are_refused_before_the_folder_is_claimed(tmp_path):
    failures = [make_episode(index, outcome="failure") for index in range(3)]
    told = failures, TASK, ROBOT, tmp_path / "run"
    with pytest.raises(ConfigError, match="none of 3 episodes is labelled a success"):
        run_algorithm(*told, SETTINGS, ReachCollector(), silent, ("imitation",))
    settings = SETTINGS.model_copy(update={"episodes": "all"})
    assert run_algorithm(*told, settings, ReachCollector(), silent, ("imitation",))


@pytest.mark.parametrize("stage", ["offline", "online"])
def test_a_stage_that_has_nothing_to_begin_with_leaves_the_folder_free(tmp_path, stage):
    with pytest.raises(ConfigError, match="run the stage imitation first"):
        run(tmp_path / "run", stages=(stage,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["offline", "online"])
def test_a_run_does_not_go_on_with_policies_that_act_elsewhere(whole, tmp_path, stage):
    class Elsewhere(ReachCollector):
        where = "elsewhere"

    output, _ = whole
    again = tmp_path / "run"
    shutil.copytree(output, again)
    collector = Elsewhere()
    with pytest.raises(ConfigError, match=r"have acted in 'toy' so far .* in 'elsewhere'"):
        run(again, collector=collector, stages=(stage,))
    assert collector.asked == []


def test_fits_tell_of_their_steps_and_a_phase_of_its_end(tmp_path, monkeypatch):
    told = []
    settings = SETTINGS.model_copy(
        update={
            "rounds": 1,
            "retrain": "none",
            "critics": replace(SETTINGS.critics, steps=120),
            "transition": replace(SETTINGS.transition, steps=60),
            "offline": OfflineConfig(iterations=5, states=16, gate=GateConfig(patience=1)),
        }
    )
    monkeypatch.setattr(offline, "estimate", lambda *_: 1.0)  # nothing is ever better
    run(
        tmp_path / "run", settings, stages=("imitation", "offline"),
        on_progress=lambda _, progress: told.append(progress),
    )  # fmt: skip
    steps = [(each.stage, each.step, each.steps) for each in told]
    assert [each for each in steps if each[0] == "critics"] == [
        ("critics", 50, 120), ("critics", 100, 120), ("critics", 120, 120)
    ]  # fmt: skip
    assert [each for each in steps if each[0] == "transition model"] == [
        ("transition model", 50, 60), ("transition model", 60, 60)
    ]  # fmt: skip
    assert [each for each in steps if each[0] == "offline"] == [
        ("offline", 1, 5),
        ("offline", 1, 1),
    ]


def test_a_damaged_list_of_stages_says_so(tmp_path):
    for content in ("", "{", "[3]"):
        (tmp_path / "stages.json").write_text(content)
        with pytest.raises(ConfigError, match=r"stages\.json is damaged"):
            read_stages(tmp_path)


def test_other_demonstrations_are_told_by_their_number(whole):
    output, _ = whole
    again = DEMONSTRATIONS[:-1], TASK, ROBOT, output, SETTINGS, ReachCollector(), silent
    with pytest.raises(ConfigError, match=r"was 12 episodes \(.{8}\) and is 11 episodes"):
        run_algorithm(*again)


def test_a_second_call_plays_and_trains_nothing(whole):
    output, records = whole
    collector, told = ReachCollector(), []
    again = run(output, collector=collector, on_progress=lambda *args: told.append(args))
    assert again == records
    assert collector.asked == []
    assert told == []


def test_a_run_killed_in_every_stage_goes_on_to_the_same_bits(whole, tmp_path):
    output, records = whole

    def killer(stage):
        def kill(name, progress):
            if name == stage and progress.step >= progress.steps / 2:
                raise KilledError

        return kill

    for stage in ("imitation", "round 1", "online"):
        with pytest.raises(KilledError):
            run(tmp_path / "run", on_progress=killer(stage))
    resumed = run(tmp_path / "run")
    for one, other in zip(records, resumed, strict=True):
        assert one.version == other.version
        folders = (output, tmp_path / "run")
        weights = [(folder / one.version / WEIGHTS).read_bytes() for folder in folders]
        assert weights[0] == weights[1]


def test_a_round_killed_anywhere_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """Iterates 1 and 3 are let through, so that a candidate is written long before the end."""
    chosen = OfflineConfig(iterations=3, states=16, gate=GateConfig(patience=4))
    settings = SETTINGS.model_copy(update={"rounds": 1, "offline": chosen})
    stages = ("imitation", "offline")

    def go(output, on_progress=silent):
        estimates = iter([1.0, 1.1, 0.5, 1.2])
        monkeypatch.setattr(offline, "estimate", lambda *_: next(estimates))
        return run(output / "run", settings, on_progress=on_progress, stages=stages)

    def killer(stage, step):
        def kill(name, progress):
            if name == "round 1" and (progress.stage, progress.step) == (stage, step):
                raise KilledError

        return kill

    records = go(tmp_path / "whole")
    moments = (
        ("critics", SETTINGS.critics.steps), ("offline", 2), ("distillation of iterate 3", 5),
        ("imitation", 10),
    )  # fmt: skip
    for moment in moments:
        with pytest.raises(KilledError):
            go(tmp_path / "killed", killer(*moment))
    assert go(tmp_path / "killed") == [
        record.model_copy(update={"seconds": again.seconds})
        for record, again in zip(records, read_stages(tmp_path / "killed" / "run"), strict=True)
    ]
    written = sorted((tmp_path / "whole" / "run" / "round_1").rglob(WEIGHTS))
    assert len(written) == 3
    for path in written:
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_stages_can_be_run_one_by_one(tmp_path):
    collector = ReachCollector()
    settings = SETTINGS.model_copy(update={"rounds": 1})
    first = run(tmp_path / "run", settings, collector, stages=("imitation",))
    assert [record.name for record in first] == ["imitation"]
    assert collector.asked == []
    then = run(tmp_path / "run", settings, collector, stages=("online",))
    assert [record.name for record in then] == ["imitation", "online"]
    assert collector.asked == ["online", "online", "trials/current", "trials/online"]


def test_a_round_that_online_learning_went_without_is_refused_before_it_plays(tmp_path):
    settings = SETTINGS.model_copy(update={"rounds": 1})
    run(tmp_path / "run", settings, stages=("imitation", "online"))
    collector = ReachCollector()
    with pytest.raises(ConfigError, match="went without round 1"):
        run(tmp_path / "run", settings, collector, stages=("offline",))
    assert collector.asked == []


def test_online_learning_on_its_own_learns_from_the_rounds_before_all_the_same(whole, tmp_path):
    output, records = whole
    run(tmp_path / "run", stages=("imitation", "offline"))
    collector = ReachCollector()
    later = run(tmp_path / "run", collector=collector, stages=("online",))
    assert collector.asked == ["online", "online", "trials/current", "trials/online"]
    folders = (output, tmp_path / "run")
    weights = [(each / "online" / "reach_run_online" / WEIGHTS).read_bytes() for each in folders]
    assert weights[0] == weights[1]
    assert [record.trials for record in later] == [record.trials for record in records]


def test_a_stage_that_is_not_asked_for_is_not_gone_through_and_not_forgotten(whole):
    output, records = whole

    class Nobody:
        """Cannot act at all."""

    assert run(output, collector=Nobody(), stages=("imitation",)) == records
    assert read_stages(output) == records


def test_a_stage_without_the_one_before_it_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="run the stage imitation first"):
        run(tmp_path / "run", stages=("online",))


def test_a_run_with_other_settings_in_the_same_folder_is_refused(whole):
    output, _ = whole
    before = (output / STAGES).read_text()
    with pytest.raises(
        ConfigError, match=r"holds another run: settings\.seed was 0 and is 7; choose"
    ):
        run(output, SETTINGS.model_copy(update={"seed": 7}))
    assert (output / STAGES).read_text() == before


def test_settings_that_are_refused_do_not_claim_the_folder(tmp_path):
    unfit = SETTINGS.model_copy(update={"n_chunk": 3, "network": NetworkChoice(denoiser="unet1d")})
    with pytest.raises(ConfigError, match="n_chunk must be a multiple"):
        run(tmp_path / "run", unfit)
    assert not (tmp_path / "run").exists()


def test_later_stages_are_not_learned_from_another_description(whole):
    output, _ = whole
    action = TASK.action.model_copy(update={"high": (0.15, 0.15), "low": (-0.15, -0.15)})
    with pytest.raises(ConfigError, match=r"task\.action.*was.*and is"):
        run_algorithm(
            DEMONSTRATIONS, TASK.model_copy(update={"action": action}), ROBOT, output, SETTINGS,
            ReachCollector(), silent, ("online",),
        )  # fmt: skip


def test_roll_outs_that_all_fail_end_the_round_with_what_to_do(tmp_path):
    class Hopeless(ReachCollector):
        TOLERANCE_M = 0.0

    with pytest.raises(LearningError, match="0 of 8 roll-outs"):
        run(tmp_path / "run", collector=Hopeless())
    assert json.loads((tmp_path / "run" / STAGES).read_text())[0]["name"] == "imitation"


def test_where_nothing_fails_there_is_nothing_to_improve_offline(tmp_path):
    class Easy(ReachCollector):
        TOLERANCE_M = 10.0

    settings = SETTINGS.model_copy(update={"rounds": 1, "retrain": "none"})
    _, record = run(tmp_path / "run", settings, Easy(), stages=("imitation", "offline"))
    assert record.trials == {"current": (4, 4)}
    assert record.chosen == "current"


def test_one_demonstration_is_enough_to_begin_with(tmp_path):
    settings = SETTINGS.model_copy(update={"rounds": 0})
    records = run_algorithm(
        DEMONSTRATIONS[:1], TASK, ROBOT, tmp_path / "run", settings, ReachCollector(), silent
    )
    assert [record.name for record in records] == ["imitation", "online"]


def test_demonstrations_that_all_fail_are_nothing_to_imitate(tmp_path):
    failures = [make_episode(index, outcome="failure") for index in range(3)]
    with pytest.raises(ConfigError, match="relax the outcome filter"):
        run_algorithm(failures, TASK, ROBOT, tmp_path / "run", SETTINGS, ReachCollector(), silent)


def test_episodes_of_another_task_are_refused_before_anything_is_learned(tmp_path):
    strange = make_episode(0)
    object.__setattr__(strange, "proprio", strange.proprio[:, :2])
    with pytest.raises(ConfigError, match="another task or robot"):
        run_algorithm([strange], TASK, ROBOT, tmp_path / "run", SETTINGS, ReachCollector(), silent)
    assert not read_stages(tmp_path / "run")


def test_watching_shows_true_success_beside_the_estimate_and_changes_nothing_else(whole, tmp_path):
    output, records = whole
    settings = SETTINGS.model_copy(update={"watch": 3})
    watched = run(tmp_path / "run", settings, stages=("imitation", "offline"))
    rows = read_metrics(tmp_path / "run" / "round_1" / "offline")
    shown = [row for row in rows if row["stage"] == "offline"]
    assert [row["step"] for row in shown] == [0, 1, 2]
    assert all(row["success"] in (0.0, 1 / 3, 2 / 3, 1.0) for row in shown)
    assert shown[0]["j"] == shown[1]["j_snapshot"], "of the policy that the phase began with"
    assert [each.trials for each in watched] == [each.trials for each in records[:3]]
    last = watched[-1].version
    assert (tmp_path / "run" / last / WEIGHTS).read_bytes() == (
        output / last / WEIGHTS
    ).read_bytes()
