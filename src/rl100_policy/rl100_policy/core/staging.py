# SPDX-License-Identifier: Apache-2.0
"""A policy version is made ready beside the one that drives, and looked at before it may."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import Rl100Error
from rl100_policy.core.observation import Frame
from rl100_policy.core.runner import Decided, PolicyRunner


@dataclass(frozen=True)
class Wanted:
    """What is to be made ready."""

    path: str
    """Folder of the version."""
    sampler: str
    stochastic: bool = False
    """Draw every denoising transition, whatever the node's parameter says."""


@dataclass(frozen=True)
class Staged:
    """What came of it."""

    wanted: Wanted
    runner: PolicyRunner | None
    """Warm; None if the version is refused."""
    told: str
    """Why it is refused, or how it differs from the one that drives, for people."""
    traceback: str = ""
    """Where that came from, if it is nothing that a version is refused for."""


@dataclass(frozen=True)
class Rehearsal:
    """The last decision of the version that drives, to be decided again by the next one."""

    frames: list[Frame]
    decided: Decided
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """Bounds of an action, [d_a], SI units."""
    largest: float = 0.0
    """Share of the bounds by which the next one may differ; 0: by any."""


def stage(
    wanted: Wanted, make: Callable[[Wanted], PolicyRunner], rehearsal: Rehearsal | None
) -> Staged:
    """Load, check and warm up a version, and let it decide what was decided last.

    Args:
        wanted: Which.
        make: Loads it; raises what :meth:`PolicyRunner.load` does.
        rehearsal: None if nothing was decided yet.

    Returns:
        The version ready to drive, or why it is refused. Nothing is raised for a version, whatever
        is in it.
    """
    try:
        runner = make(wanted)
        runner.warm_up()
        told = "" if rehearsal is None else _rehearse(runner, rehearsal)
    except Rl100Error as error:
        return Staged(wanted, None, f"refused: {error}")
    except Exception as error:  # of torch, of the operating system, of memory
        told = f"refused: {type(error).__name__}: {error}"
        return Staged(wanted, None, told, traceback.format_exc())
    return Staged(wanted, runner, told)


def _rehearse(runner: PolicyRunner, rehearsal: Rehearsal) -> str:
    """How far apart two versions decide about one observation.

    Raises:
        ValueError: If that is farther than it may be.
    """
    again = runner.decide(rehearsal.frames)
    before = rehearsal.decided
    actions = min(len(again.actions), len(before.actions))
    difference = np.abs(again.actions[:actions] - before.actions[:actions])
    share = float((difference / (rehearsal.high - rehearsal.low)).max())
    told = (
        f"on the last observation it decides up to {share:.0%} of an action's bounds away from "
        f"{before.version}"
    )
    if rehearsal.largest and share > rehearsal.largest:
        raise ValueError(f"{told}; at most {rehearsal.largest:.0%} are allowed (largest_change)")
    return told


class Stager:
    """Stages one version at a time on a thread of its own."""

    def __init__(
        self, make: Callable[[Wanted], PolicyRunner], step_aside: Callable[[], None]
    ) -> None:
        """Begin with nothing to stage.

        Args:
            make: As of :func:`stage`; called on the other thread.
            step_aside: The first that is called there: it is to keep nobody from deciding.
        """
        self._make, self._step_aside = make, step_aside
        self._thread: threading.Thread | None = None
        self._wanted: Wanted | None = None
        self._done: Staged | None = None
        self._turn = 0
        """Counts what was begun: what was abandoned may end later."""
        self._handing_over = threading.Lock()

    @property
    def wanted(self) -> Wanted | None:
        """What is being staged, or was and is not collected yet; None if nothing."""
        return self._wanted

    def begin(self, wanted: Wanted, rehearsal: Rehearsal | None) -> None:
        """Begin; only if nothing is being staged."""
        assert self._wanted is None, "one at a time"
        self._wanted, self._turn = wanted, self._turn + 1
        turn = self._turn

        def work() -> None:
            self._step_aside()
            done = stage(wanted, self._make, rehearsal)
            with self._handing_over:
                if turn == self._turn:
                    self._done = done

        self._thread = threading.Thread(target=work, name="staging", daemon=True)
        self._thread.start()

    def abandon(self, why: str) -> None:
        """Refuse what is being staged, if anything is, without waiting for its end."""
        if self._wanted is not None:
            with self._handing_over:
                self._turn += 1
                self._done = Staged(self._wanted, None, f"refused: {why}")

    def collect(self) -> Staged | None:
        """What came of it, once; None as long as it goes on, or nothing was begun."""
        with self._handing_over:
            done, self._done = self._done, None
        if done is not None:
            self._wanted = None
        return done
