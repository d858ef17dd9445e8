# SPDX-License-Identifier: Apache-2.0
"""A loaded policy version ready to decide: what the policy node's worker thread calls."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import ObservationError, PolicyVersionError
from rl100_policy.core.observation import Frame, Visual, stack
from rl100_policy.core.policy import DiffusionPolicy, Sampler
from rl100_policy.core.policy_version import check_fits, load_version

_WARM_UP_DECISIONS = 5


@dataclass(frozen=True)
class Decided:
    """One decision, as plain arrays and lists ready for messages."""

    version: str
    sampler: str
    deterministic: bool
    noise_seed: int
    actions: NDArray[np.float64]
    """[n_c, d_a], SI units."""
    normalised: list[float]
    """Clamped normalised actions, row-major [n_c, d_a]."""
    latents: list[float]
    """Row-major [K+1, n_c, d_a], unclamped, normalised units; [x_T, x_0] for one_step."""
    log_probs: list[float]
    """[K], nat; empty if deterministic or one_step."""
    timesteps: list[int]
    sigmas: list[float]
    inference_s: float


def decision_seed(noise_seed: int, visual: Visual, proprio: NDArray[np.float32]) -> int:
    """Seed of the generator of one decision, 63 bits.

    It is a function of the policy's seed and the observation alone.

    So the same version sees the same episode the same way, whenever it runs and whatever ran
    before; and two samplers that see the same observation start from the same noise.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (np.int64(noise_seed), visual, proprio):
        digest.update(np.ascontiguousarray(part).tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


class PolicyRunner:
    """One version, one sampler. Not thread-safe; called from one worker thread."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        version: str,
        *,
        sampler: Sampler,
        deterministic: bool,
        noise_seed: int,
    ) -> None:
        """Hold a policy that is already in evaluation mode."""
        self._policy = policy
        self.version, self.sampler = version, sampler
        self._deterministic, self._noise_seed = deterministic, noise_seed

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        task: TaskConfig,
        robot: RobotConfig,
        sampler: str,
        deterministic: bool,
        noise_seed: int,
    ) -> Self:
        """Load a version and check that it was made for this task and robot.

        Raises:
            PolicyVersionError: If it is damaged, was made for something else, or the sampler is
                unknown.
        """
        if sampler not in ("ddim", "one_step"):
            raise PolicyVersionError(f"expected sampler 'ddim' or 'one_step', got {sampler!r}")
        policy, manifest = load_version(path)
        check_fits(manifest, task, robot)
        policy.eval()
        name = cast(Sampler, sampler)
        return cls(
            policy,
            manifest.reference,
            sampler=name,
            deterministic=deterministic,
            noise_seed=noise_seed,
        )

    @property
    def n_chunk(self) -> int:
        """Actions of one decision."""
        return self._policy.config.action.n_chunk

    def warm_up(self) -> None:
        """Decide a few times on an empty scene.

        So the first real decision is not slower than the others.
        """
        observation = self._policy.config.observation
        frame = Frame(0, observation.blank(), np.zeros(observation.proprio_dim, np.float32))
        for _ in range(_WARM_UP_DECISIONS):
            self.decide([frame] * observation.n_obs)

    def decide(self, frames: list[Frame]) -> Decided:
        """One decision from a window of frames, oldest first.

        Raises:
            ObservationError: If the network's output is not finite.
        """
        begun = time.perf_counter()
        visual, proprio = stack(frames)
        seed = decision_seed(self._noise_seed, visual, proprio)
        decision = self._policy.decide(
            torch.from_numpy(visual)[None],
            torch.from_numpy(proprio)[None],
            sampler=self.sampler,
            noise_seed=seed,
            deterministic=self._deterministic,
        )
        actions = decision.actions[0].numpy().astype(np.float64)
        inference_s = time.perf_counter() - begun
        if not np.isfinite(actions).all():
            raise ObservationError(
                f"version {self.version} decided NaN or infinity; the decision is dropped"
            )
        return Decided(
            version=self.version,
            sampler=self.sampler,
            deterministic=self._deterministic,
            noise_seed=seed,
            actions=actions,
            normalised=decision.actions_normalised[0].flatten().tolist(),
            latents=decision.latents[0].flatten().tolist(),
            log_probs=decision.log_probs.flatten().tolist(),
            timesteps=[int(step) for step in decision.timesteps],
            sigmas=[float(sigma) for sigma in decision.sigmas],
            inference_s=inference_s,
        )
