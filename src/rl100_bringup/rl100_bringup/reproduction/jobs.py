# SPDX-License-Identifier: Apache-2.0
"""One run of a claim: what decides it, and where it is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rl100_bringup.reproduction.claims import Variant
from rl100_bringup.reproduction.demonstrations import description_key
from rl100_learner.files import replacing
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.identity import content_key
from rl100_learner.training.settings import flattened, with_overrides
from rl100_policy.core.errors import ConfigError

JOB = "job.json"
"""What the runs of a folder are of."""


@dataclass(frozen=True)
class Job:
    """One run of a variant and a seed.

    Attributes:
        variant: What is run.
        seed: Of everything.
        output: Folder of all runs.
        trials: Evaluation episodes per stage and policy.
        overrides: Changes to the settings beyond those of the variant.
    """

    variant: Variant
    seed: int
    output: Path
    trials: int
    overrides: tuple[str, ...] = ()

    @property
    def settings(self) -> AlgorithmSettings:
        """Of learning.

        Raises:
            ConfigError: If one is invalid.
        """
        changes = (*self.variant.overrides, *self.overrides, f"seed={self.seed}")
        return with_overrides(AlgorithmSettings(), changes)

    @property
    def what(self) -> dict[str, Any]:
        """All that decides the run but settings and descriptions."""
        what = {
            "task": self.variant.task,
            "demonstrations": self.variant.demonstrations,
            "n_points": self.variant.n_points,
            "stages": list(self.variant.stages),
            "control": self.variant.control,
            "trials": self.trials,
        }
        return what | {"through_graph": True} if self.variant.through_graph else what

    @property
    def alike(self) -> Path:
        """Folder of the runs that differ in nothing but the seed."""
        chosen = _flat(self.settings)
        usual = _flat(AlgorithmSettings())
        changes = {key: value for key, value in chosen.items() if value != usual.get(key)}
        return self.output / "runs" / f"{self.variant.task}_{content_key(self.what, changes)}"

    @property
    def folder(self) -> Path:
        """Of the run; equal for equal runs, whichever claim they are part of."""
        return self.alike / f"seed_{self.seed}"

    @property
    def shared(self) -> Path:
        """Folder of what is equal in several runs: demonstrations and imitation."""
        return self.output / "shared"

    def write_down(self) -> None:
        """Write ``job.json``, or compare; what was not written there at the time may be any.

        Raises:
            ConfigError: If the runs that are there had a setting of another value, or are of
                another description of the task, its robot or its operator.
        """
        path, settings = self.alike / JOB, _flat(self.settings)
        described = description_key(self.variant)
        if not path.exists():
            self.alike.mkdir(parents=True, exist_ok=True)
            what = self.what | {"description": described, "settings": settings}
            told = json.dumps(what, indent=2) + "\n"
            # another command may have this run too
            with FileLock(self.alike / "lock"), replacing(path) as file:
                file.write(told.encode())
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("description", described) != described:
            raise ConfigError(
                f"the runs in {self.alike} are of another description of the task, its robot or "
                "its operator; choose another --output, or delete them"
            )
        for key, value in known["settings"].items():
            now = settings.get(key, "not a setting any more")
            if now != value:
                raise ConfigError(
                    f"the runs in {self.alike} had {key}={value}, and it is {now} now; choose "
                    "another --output, or delete them"
                )


def _flat(settings: AlgorithmSettings) -> dict[str, Any]:
    """All settings but the seed."""
    flat = flattened(settings.model_dump(mode="json"))
    del flat["seed"]
    return flat
