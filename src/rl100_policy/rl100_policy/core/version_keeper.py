# SPDX-License-Identifier: Apache-2.0
"""The policy version that drives, those that may come back, and the one that is being made ready.

Used by two threads: the one that decides takes :attr:`VersionKeeper.runner` before every decision
and tells what came of it; everything else is the other one's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rl100_policy.core.runner import PolicyRunner
from rl100_policy.core.staging import Rehearsal, Staged, Stager, Wanted, stage
from rl100_policy.core.succession import Succession, SuccessionRules

_OUTCOMES = 1000
"""Decisions whose outcome is remembered until it is looked at."""


@dataclass(frozen=True)
class Change:
    """What became of the versions."""

    told: str
    """For people."""
    staged: Staged | None = None
    """What was staged; None where the version before came back."""

    @property
    def drives(self) -> bool:
        """Whether another version drives now."""
        return self.staged is None or self.staged.runner is not None


class VersionKeeper:
    """Stages versions, swaps them in, and brings the one before back."""

    def __init__(
        self,
        make: Callable[[Wanted], PolicyRunner],
        rules: SuccessionRules,
        step_aside: Callable[[], None],
    ) -> None:
        """Begin without a version.

        Args:
            make: As of :func:`rl100_policy.core.staging.stage`.
            rules: When the version before comes back.
            step_aside: As of :class:`rl100_policy.core.staging.Stager`.
        """
        self._make = make
        self._stager = Stager(make, step_aside)
        self._succession = Succession(rules)
        self._ready: dict[str, PolicyRunner] = {}
        self._outcomes: deque[tuple[str, bool | None]] = deque(maxlen=_OUTCOMES)
        self._drove, self._judged = ("", ""), ""
        """Newest episode with who drove it; newest episode that was judged."""
        self.runner: PolicyRunner | None = None
        """Who decides from the next decision on; None: nobody yet."""
        self.rehearsal: Rehearsal | None = None
        """The last decision."""

    @property
    def wanted(self) -> Wanted | None:
        """What is being made ready; None if nothing."""
        return self._stager.wanted

    def load(self, wanted: Wanted) -> Change:
        """Make a version ready and swap it in, here and now: while nothing drives."""
        return self._swap_in(stage(wanted, self._make, None))

    def begin(self, wanted: Wanted) -> None:
        """Begin to make a version ready; only if nothing is."""
        self._stager.begin(wanted, self.rehearsal)

    def abandon(self, why: str) -> None:
        """Refuse what is being made ready, if anything is; :meth:`look` tells it at once."""
        self._stager.abandon(why)

    def look(self) -> list[Change]:
        """Swap in what is ready, and bring the version before back if that is due."""
        staged = self._stager.collect()
        changes = [self._swap_in(staged)] if staged is not None else []
        while self._outcomes:
            who, in_time = self._outcomes.popleft()
            if who != self._succession.current:
                continue  # it was at its last decision when another took over
            if in_time is None:
                self._succession.failed()
            else:
                self._succession.decided(in_time=in_time)
        if why := self._succession.why_back():
            changes.append(self.go_back(why))
        return changes

    def go_back(self, why: str) -> Change:
        """Let the version before drive again, and forget the present one.

        Raises:
            LookupError: If there is none.
        """
        left = self._succession.current
        name = self._succession.go_back()
        self.runner = self._ready[name]
        self._ready.pop(left, None)
        return Change(f"back to {name} from {left}: {why}")

    def _swap_in(self, staged: Staged) -> Change:
        runner = staged.runner
        if runner is None:
            return Change(staged.told, staged)
        self.runner = runner
        self._succession.take_over(runner.name)
        self._ready[runner.name] = runner
        self._ready = {name: self._ready[name] for name in self._succession.kept if name}
        notes = [f"{runner.name} is in use", staged.told]
        if runner.plain:
            notes.append(f"it is slower than it could be: {runner.plain}")
        return Change("; ".join(filter(None, notes)), staged)

    # What came of it

    def decided(self, who: PolicyRunner, *, in_time: bool) -> None:
        """A version has decided; from the thread that decides."""
        self._outcomes.append((who.name, in_time))

    def failed(self, who: PolicyRunner) -> None:
        """A version could not decide; from the thread that decides."""
        self._outcomes.append((who.name, None))

    def drives(self, episode_id: str) -> None:
        """The policy is in command of an episode that is being recorded; told again and again."""
        current = self._succession.current
        if self._drove[0] != episode_id:
            self._drove = (episode_id, current)
        elif self._drove[1] != current:
            self._drove = (episode_id, "")  # several did

    def judged(self, episode_id: str, *, success: bool) -> None:
        """An episode was judged; the first judgement of it counts, if one version drove it all."""
        if episode_id == self._judged:
            return
        self._judged = episode_id
        if self._drove == (episode_id, self._succession.current):
            self._succession.judged(success=success)
