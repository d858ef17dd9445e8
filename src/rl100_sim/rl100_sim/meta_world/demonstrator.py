# SPDX-License-Identifier: Apache-2.0
"""Imperfect demonstrations of Meta-World tasks: the library's scripted policy with a human's hand.

The hand trembles and hesitates, more in some episodes than in others; the gripper does what the
script says, because a grasp that opens for one period is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import ConfigError
from rl100_sim.meta_world.env import MetaWorldEnv

Floats = NDArray[np.float64]

TREMOR_MEMORY = 0.7
"""Correlation of the tremor from one control period to the next."""
PAUSE_RATE = 0.05
"""Probability that a hesitation starts in a control period, per level."""
PAUSE_PERIODS = (3, 12)
"""Length of a hesitation: uniform from the first to below the second."""
_STREAM = 1
"""Beside the seed, so that the operator's numbers are not those of the scene."""
_HAND_DIM = 3
_NS = 1_000_000_000


@dataclass(frozen=True)
class Demonstration:
    """One demonstrated episode.

    ``id``, ``outcome``, ``visual``, ``proprio``, ``actions`` and ``stamps_ns`` are what the
    learner's episode has, with the same meaning, shape and dtype.

    Attributes:
        id: Task and seed.
        outcome: ``success`` or ``failure``.
        visual: [T + 1, N, 3] float32, world frame [m]; N = 0 of a state observation.
        proprio: [T + 1, d_q] float32, as :class:`MetaWorldEnv` gives it.
        actions: [T, 4] float32, as executed.
        stamps_ns: [T + 1] int64, from 0 on.
        seed: Of the episode: the same actions in the environment reset with it give the same
            observations.
        level: Imperfection, see :class:`ImperfectHand`.
    """

    id: str
    outcome: Literal["success", "failure"]
    visual: NDArray[np.float32]
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    stamps_ns: NDArray[np.int64]
    seed: int
    level: float

    @property
    def success(self) -> bool:
        """Whether the task was done within the time limit."""
        return self.outcome == "success"

    def __len__(self) -> int:
        """Number of actions T."""
        return len(self.actions)


class ImperfectHand:
    """Adds tremor and hesitations to displacements of the hand.

    The tremor is n_t = m n_{t-1} + level sqrt(1 - m^2) e_t with m = ``TREMOR_MEMORY`` and standard
    normal e_t, so its standard deviation is ``level`` in units of the action, on each axis.
    During a hesitation the hand asks for no displacement.
    """

    def __init__(self, level: float, rng: np.random.Generator) -> None:
        """Begin an episode; all randomness comes from rng."""
        self._level, self._rng = level, rng
        self._tremor = level * rng.standard_normal(_HAND_DIM)
        self._pause = 0

    def spoil(self, action: Floats) -> Floats:
        """The action as it comes out, [4], within [-1, 1]; the gripper's part is kept."""
        spread = self._level * np.sqrt(1.0 - TREMOR_MEMORY**2)
        noise = self._rng.standard_normal(_HAND_DIM)
        starts = self._rng.random() < PAUSE_RATE * self._level
        length = int(self._rng.integers(*PAUSE_PERIODS))
        self._tremor = TREMOR_MEMORY * self._tremor + spread * noise
        if self._pause == 0 and starts:
            self._pause = length
        hand = action[:_HAND_DIM] + self._tremor
        if self._pause > 0:
            self._pause -= 1
            hand = np.zeros(_HAND_DIM)
        return np.append(np.clip(hand, -1.0, 1.0), action[_HAND_DIM:])


def demonstrate(env: MetaWorldEnv, seed: int, *, level: float | None = None) -> Demonstration:
    """Show one episode.

    Args:
        env: With ``render_every`` 1 if it has clouds: a recorder sees every frame.
        seed: Of the episode and of the operator; equal seeds give equal demonstrations, bit for
            bit.
        level: Imperfection; 0 is the library's policy itself. Left out, it is drawn uniformly
            from the range of the task's table entry.

    Raises:
        ConfigError: If the level is negative or neither given nor in the table, or frames would be
            missing.
    """
    if env.has_cloud and env.render_every != 1:
        raise ConfigError(
            f"a demonstration needs every frame: expected render_every 1, got {env.render_every}"
        )
    rng = np.random.default_rng((seed, _STREAM))
    level = _level(env, rng) if level is None else level
    if level < 0.0:
        raise ConfigError(f"expected a level of imperfection of 0 or more, got {level}")
    hand = ImperfectHand(level, rng)
    observation, _ = env.reset(seed=seed)
    frames, actions, is_over = [observation], [], False
    while not is_over:
        # the dtype of the recording, so that it can be played back to the same bits
        action = hand.spoil(env.scene.expert_action()).astype(np.float32)
        observation, _, terminated, truncated, _ = env.step(action.astype(float))
        frames.append(observation)
        actions.append(action)
        is_over = terminated or truncated
    return Demonstration(
        id=f"{env.task.name}-{seed}",
        outcome="success" if terminated else "failure",
        visual=np.stack([frame["cloud"] for frame in frames]),
        proprio=np.stack([frame["proprio"] for frame in frames]),
        actions=np.stack(actions),
        stamps_ns=np.arange(len(frames)) * round(env.scene.period * _NS),
        seed=seed,
        level=level,
    )


def _level(env: MetaWorldEnv, rng: np.random.Generator) -> float:
    if env.task.level is None:
        raise ConfigError(
            f"no level of imperfection is known for {env.task.name!r}; give level to demonstrate "
            "or to MetaWorldTask"
        )
    return float(rng.uniform(*env.task.level))
