# SPDX-License-Identifier: Apache-2.0
"""Seeds of start states: every purpose of every run has a block of its own.

Seeds below that of the first block are a person's, who plays or evaluates by hand. What settings
were chosen on is never what they are judged on, and runs of several seeds share no start state.
"""

from __future__ import annotations

from enum import IntEnum

from rl100_policy.core.errors import ConfigError

_PURPOSE, BLOCK, _RUNS = 100_000_000, 100_000, 1000


class Purpose(IntEnum):
    """What episodes are played for."""

    ONLINE = 1
    ROLLOUTS = 2
    TRIALS = 3
    WATCH = 4
    EVALUATION = 5
    DEMONSTRATIONS = 6


def episode_seeds(purpose: Purpose, run: int, first: int, count: int) -> range:
    """Seeds of some episodes, all below 2^31.

    Args:
        purpose: What they are played for.
        run: Seed of the run; those that are equal modulo 1000 share their blocks.
        first: Episodes that the run has played for it before.
        count: How many there will be.

    Raises:
        ConfigError: If the block is too small for them.
    """
    if first + count > BLOCK:
        raise ConfigError(
            f"a run has {BLOCK} start states for {purpose.name.lower()}, and episode "
            f"{first + count} was asked for; begin another run, with another seed"
        )
    start = purpose * _PURPOSE + run % _RUNS * BLOCK + first
    return range(start, start + count)
