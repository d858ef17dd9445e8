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
from rl100_policy.core.engine import Engine
from rl100_policy.core.errors import ObservationError, PolicyVersionError
from rl100_policy.core.observation import Frame, Visual, stack
from rl100_policy.core.policy import DiffusionPolicy, Sampler
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import (
    check_fits,
    check_scale,
    check_sizes,
    load_version,
)
from rl100_policy.core.presets import preset

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
    """From the window to the actions [s]."""
    encode_s: float
    """Of it until every frame was encoded [s]."""


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


def load_libraries() -> None:
    """Let torch import what it imports when it builds and traces a first network.

    These are some eight hundred modules, in more than a second, and objects that the garbage
    collector goes through in a tenth of one. A process that drives an arm does it before.
    """
    size = preset("small", ObservationSize(), ActionSize())
    with torch.device("meta"):
        DiffusionPolicy(size)
    Engine(DiffusionPolicy(size).eval(), "one_step")


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
        traced: bool = True,
    ) -> None:
        """Hold a policy that is already in evaluation mode.

        Args:
            policy: On the CPU.
            version: Its reference.
            sampler: How it decides.
            deterministic: Take the mean of every transition.
            noise_seed: Of the noise; each decision mixes in its observation.
            traced: False runs the networks as they are, see :class:`Engine`.
        """
        self._engine = Engine(policy, sampler, traced=traced)
        self._config = policy.config
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
        check_sizes(policy.config, task, robot, manifest.name)
        check_scale(policy, task, manifest.name)
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
    def name(self) -> str:
        """Version and how it decides; no other decides the same."""
        noise = "" if self._deterministic else ", with noise"
        return f"{self.version} by {self.sampler}{noise}"

    @property
    def n_chunk(self) -> int:
        """Actions of one decision."""
        return self._config.action.n_chunk

    @property
    def plain(self) -> str:
        """Why the networks are run as they are, for people; empty if they are traced."""
        return self._engine.plain

    def prepare(self, frame: Frame) -> None:
        """Encode a frame ahead of the decision that it is for.

        Raises:
            ObservationError: If it is not what the policy sees.
        """
        self._engine.encode(frame)

    def warm_up(self) -> None:
        """Decide a few times on an empty scene.

        So the first real decision is not slower than the others.
        """
        seen = self._config.observation
        for stamp in range(_WARM_UP_DECISIONS):
            frame = Frame(stamp, seen.blank(), np.zeros(seen.proprio_dim, np.float32))
            self.decide([frame] * seen.n_obs)

    def decide(self, frames: list[Frame]) -> Decided:
        """One decision from a window of frames, oldest first.

        Raises:
            ObservationError: If the network's output is not finite.
        """
        begun = time.perf_counter()
        condition = self._engine.condition(frames)
        encode_s = time.perf_counter() - begun
        seed = decision_seed(self._noise_seed, *stack(frames))
        decision = self._engine.decide(
            condition, noise_seed=seed, deterministic=self._deterministic
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
            encode_s=encode_s,
        )
