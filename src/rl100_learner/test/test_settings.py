# SPDX-License-Identifier: Apache-2.0
"""Changes to settings as key=value."""

from pathlib import Path

import pytest
from toy import TASK

from rl100_learner.training.algorithm_settings import AlgorithmSettings, settings_for
from rl100_learner.training.settings import TrainSettings, flattened, with_overrides
from rl100_policy.core.config import load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import DiffusionChoice, NetworkChoice, choose, preset

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"


def test_changes_are_applied_where_the_key_says():
    changed = with_overrides(TrainSettings(), ["seed=3", "imitation.optimizer.muon_lr=0.01"])
    assert changed.seed == 3
    assert changed.imitation.optimizer.muon_lr == 0.01
    assert changed.distillation == TrainSettings().distillation


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("imitation.stpes=10", r"no setting 'imitation.stpes'; did you mean imitation\.steps"),
        ("imitation=10", "invalid settings: imitation: .*got 10"),
        ("imitation.steps.more=10", "no setting"),
        ("imitation.steps", "as key=value"),
        ("imitation.steps=abc", "invalid settings: imitation.steps: .*got 'abc'"),
        ("imitation.steps=[", "not valid YAML"),
        ("imitation.steps=-5", "imitation.steps: .*greater than 0, got -5"),
        ("distillation.ema=1.0", "distillation.ema"),
    ],
)
def test_what_is_not_a_setting_is_refused_saying_what_was_meant(entry, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(TrainSettings(), [entry])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["online.iterations=2000"], "200000 episodes, and a run has 100000"),
        (["transition.elites=6"], "elites=6 of members=5"),
        (["offline.draws=1"], "offline.draws"),
        (["online.proximal.auxiliary.chamfer=-1"], "auxiliary.chamfer"),
        (["something"], "as key=value"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(entries, message):
    with pytest.raises(ConfigError, match=message):
        with_overrides(AlgorithmSettings(), entries)


def test_online_weights_are_a_tenth_of_imitations_unless_said():
    def weights(*entries):
        return with_overrides(AlgorithmSettings(), entries).online.proximal.auxiliary

    usual = AlgorithmSettings().imitation
    assert weights().chamfer == pytest.approx(0.1 * usual.chamfer_weight)
    assert weights("imitation.chamfer_weight=0").chamfer == 0.0
    assert weights("imitation.bottleneck_weight = 0.5").bottleneck == pytest.approx(0.05)
    said = ("online.proximal.auxiliary.proprio=0.3", "imitation.proprio_weight=2")
    assert weights(*said).proprio == 0.3
    with pytest.raises(ConfigError, match="chamfer_weight"):
        weights("imitation.chamfer_weight=much")


def test_a_key_like_no_other_is_refused_without_a_list_of_all():
    with pytest.raises(ConfigError) as refused:
        with_overrides(AlgorithmSettings(), ["zzz=1"])
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    "entry",
    [
        "offline.proximal.encoder_lr=1e-4",
        "offline.proximal.auxiliary.chamfer=0.1",
        "candidate_distillation.copies=2",
        "online_distillation.copies=2",
    ],
)
def test_what_has_no_effect_where_observations_stay_encoded_is_refused(entry):
    with pytest.raises(ConfigError, match="no setting"):
        with_overrides(AlgorithmSettings(), [entry])


def test_a_preset_brings_the_sizes_of_critics_and_model_unless_they_are_said():
    paper = with_overrides(AlgorithmSettings(), ["preset=paper"])
    assert (paper.critics.width, paper.online.replay.width) == (1024, 1024)
    assert paper.transition.widths == (1024, 1024, 512, 512)
    assert (paper.transition.members, paper.transition.elites) == (7, 5)
    smaller = with_overrides(AlgorithmSettings(), ["critics.width=64", "preset=paper_single"])
    assert smaller.critics.width == 64
    assert smaller.transition.widths == (400,) * 4
    assert with_overrides(AlgorithmSettings(), ["preset=small"]) == AlgorithmSettings()
    quoted = with_overrides(AlgorithmSettings(), ["preset=small", 'preset="paper"'])
    assert quoted.critics.width == 1024
    again = with_overrides(AlgorithmSettings(), ["preset=paper", "preset=small"])
    assert again == AlgorithmSettings()
    assert with_overrides(TrainSettings(), ["preset=paper"]).preset == "paper"


def test_what_suits_a_task_goes_before_the_defaults_and_a_persons_changes_before_it():
    learning = {"n_chunk": 3, "offline.gate.share": 0.01, "diffusion": {"n_steps": 4}}
    task = TASK.model_copy(update={"learning": learning})
    settings = settings_for(task, ["n_chunk=1", "seed=5"])
    assert (settings.n_chunk, settings.seed) == (1, 5)
    assert (settings.offline.gate.share, settings.diffusion.n_steps) == (0.01, 4)
    assert settings_for(TASK.model_copy(update={"learning": {}})) == AlgorithmSettings()
    unknown = TASK.model_copy(update={"learning": {"n_chnk": 3}})
    with pytest.raises(ConfigError, match=f"section learning of task '{TASK.name}'.*n_chunk"):
        settings_for(unknown)
    with pytest.raises(ConfigError, match=r"^there is no setting 'n_chnk'"):
        settings_for(task, ["n_chnk=3"])


@pytest.mark.parametrize("path", sorted((CONFIG / "tasks").glob("*.yaml")), ids=lambda p: p.stem)
def test_what_suits_every_shipped_task_is_valid(path):
    task = load_task(path)
    assert settings_for(task).n_chunk == task.learning.get("n_chunk", AlgorithmSettings().n_chunk)


def test_encoder_and_denoiser_are_of_any_size_and_kind_that_a_policy_may_have():
    changes = [
        "network.encoder={features: 64, widths: [64, 128, 256], layer_norm: true}",
        "network.sizes={blocks: 4}",
    ]
    settings = with_overrides(AlgorithmSettings(), changes)
    size = ObservationSize(n_obs=2, n_points=32, proprio_dim=3)
    action = ActionSize(n_chunk=4, dim=2)
    chosen = choose(preset("small", size, action), settings.diffusion, settings.network)
    assert (chosen.encoder.features, chosen.encoder.widths) == (64, (64, 128, 256))
    assert chosen.denoiser.blocks == chosen.student.blocks == 4
    seen = ObservationSize(n_obs=2, n_points=0, height=32, width=32, proprio_dim=3)
    image = preset("small", seen, action)
    resnet = NetworkChoice(encoder={"backbone": {"kind": "resnet18"}})
    assert choose(image, DiffusionChoice(), resnet).encoder.backbone.kind == "resnet18"
    with pytest.raises(ConfigError, match="featurs"):
        choose(image, DiffusionChoice(), NetworkChoice(encoder={"featurs": 3}))


def test_nested_settings_are_flattened_to_the_keys_that_changes_name():
    flat = flattened({"a": {"b": 1, "c": {"d": [2]}}, "e": {}})
    assert flat == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_a_preset_that_does_not_fit_the_chunk_says_so():
    size = ObservationSize(n_obs=2, n_points=32, proprio_dim=3)
    with pytest.raises(ConfigError, match=r"preset .paper. does not fit.*n_chunk must be"):
        preset("paper", size, ActionSize(n_chunk=1, dim=2))
