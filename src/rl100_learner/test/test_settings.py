# SPDX-License-Identifier: Apache-2.0
"""Changes to settings as key=value."""

import pytest

from rl100_learner.training.algorithm_run import AlgorithmSettings
from rl100_learner.training.settings import TrainSettings, with_overrides
from rl100_policy.core.errors import ConfigError


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
