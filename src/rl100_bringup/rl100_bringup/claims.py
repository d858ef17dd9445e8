# SPDX-License-Identifier: Apache-2.0
"""What the documentation claims, as runs that anybody can repeat: variants, seeds, settings."""

from __future__ import annotations

from dataclasses import dataclass

from rl100_learner.training.algorithm_run import ALL_STAGES, Stage
from rl100_policy.core.errors import ConfigError

PUSH_T, SUITE = "push_t", "Meta-World 3.1.1"


@dataclass(frozen=True)
class Variant:
    """One way to run a task.

    Attributes:
        name: In tables and folders.
        task: ``push_t``, with clouds, or one of Meta-World.
        overrides: Changes to the settings.
        demonstrations: Episodes of the scripted operator.
        n_points: Of the clouds of a Meta-World task; 0: its state is observed.
        stages: Which kinds are run.
        control: Whether imitation of the successful demonstrations alone is trained beside.
    """

    name: str
    task: str
    overrides: tuple[str, ...] = ()
    demonstrations: int = 100
    n_points: int = 0
    stages: tuple[Stage, ...] = ALL_STAGES
    control: bool = False


@dataclass(frozen=True)
class Claim:
    """What is to be reproduced.

    Attributes:
        text: What it is about.
        variants: What is compared, or the tasks.
        seeds: Of demonstrations, learning and roll-outs; settings were chosen on others.
        trials: Evaluation episodes per stage and policy.
    """

    text: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    trials: int = 100

    def variant(self, name: str) -> Variant:
        """The variant of this name.

        Raises:
            ConfigError: If there is none.
        """
        for each in self.variants:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.variants)
        raise ConfigError(f"this claim has the variants {known}, got {name!r}")


_STATE = (
    "episodes=all", "rounds=2", "imitation.steps=3000", "diffusion.sigma_min=0.05",
    "network.width=128", "online.iterations=10", "online.episodes=100",
)  # fmt: skip
"""Of Meta-World with states."""
_CLOUD = ("rounds=2", "retrain=none", "trials=100")
"""Of Push-T with clouds."""


def _state(name: str, *overrides: str, task: str = "push-v3") -> Variant:
    return Variant(name, task, (*_STATE, *overrides))


def _push_t(name: str, *overrides: str) -> Variant:
    return Variant(name, PUSH_T, (*_CLOUD, *overrides), demonstrations=200)


CLAIMS = {
    "meta_world": Claim(
        "From imperfect demonstrations of Meta-World tasks, observed by state: imitation, two "
        "offline rounds, online learning, one-step student.",
        tuple(
            Variant(task, task, _STATE, control=True)
            for task in ("push-v3", "pick-place-v3", "peg-insert-side-v3")
        ),
    ),
    "push_t": Claim(
        "Push-T from point clouds: imitation, two offline rounds, online learning, one-step "
        "student.",
        (_push_t("push_t", "online.iterations=60"),),
    ),
}


def find_claim(name: str) -> Claim:
    """The claim of this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in CLAIMS:
        raise ConfigError(f"expected one of the claims {', '.join(CLAIMS)}, got {name!r}")
    return CLAIMS[name]
