# SPDX-License-Identifier: Apache-2.0
"""Many episodes at once: environments in processes, stepped by whole decisions.

A policy decides for all running environments in one batch, every environment then executes its
chunk, and the next batch is decided when all are done. Which process an environment lives in has
no influence on what happens in it.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import Rl100Error
from rl100_policy.core.observation import Visual
from rl100_sim.sight import seen

Floats = NDArray[np.float32]
Extra = TypeVar("Extra")
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]
"""Makes one environment whose observations are ``proprio`` [d_q] and ``cloud`` [N, 3] or ``image``
[H, W, 3]; picklable.

``reset`` takes the option ``render_every``, see ``rl100_sim.env.PushTEnv``."""


@dataclass(frozen=True)
class Windows:
    """What is decided on, for every environment that runs.

    Attributes:
        visual: What is seen, [A, n_obs, ...], as ``DiffusionPolicy`` takes it, oldest first.
        proprio: [A, n_obs, d_q], SI units.
        seeds: Seed of each environment's episode, length A.
        decisions: Decisions of that episode so far, length A.
    """

    visual: Visual
    proprio: Floats
    seeds: tuple[int, ...]
    decisions: tuple[int, ...]


Decide = Callable[[Windows], tuple[NDArray[np.float64], Sequence[Extra]]]
"""Chunks [A, n_c, d_a] in SI units, and whatever is to be kept with each decision."""


@dataclass(frozen=True)
class Frames:
    """Observations of every control period of an episode.

    Attributes:
        visual: What was seen, [T + 1, ...].
        proprio: [T + 1, d_q], SI units.
    """

    visual: Visual
    proprio: Floats


@dataclass
class Rollout(Generic[Extra]):
    """One episode, by decision.

    Attributes:
        seed: What it was reset with.
        visual: What was seen in the observation windows, [D + 1, n_obs, ...]; the last one is
            after the last decision.
        proprio: [D + 1, n_obs, d_q], SI units.
        actions: Chunks as asked for, [D, n_c, d_a], SI units.
        executed: Actions as the arm made them, like actions; zero beyond ``periods``.
        rewards: Of each control period, [D, n_c]; zero beyond ``periods``.
        periods: Control periods that each decision lasted, [D].
        extras: What the policy wanted kept, length D.
        success: What the task says.
        terminated: The task ended the episode.
        truncated: The time limit ended it.
    """

    seed: int
    visual: Visual
    proprio: Floats
    actions: NDArray[np.float64]
    executed: NDArray[np.float64]
    rewards: Floats
    periods: NDArray[np.int64]
    extras: list[Extra]
    success: bool
    terminated: bool
    truncated: bool
    frames: Frames | None = None
    """Every observation, if it was asked for."""

    @property
    def steps(self) -> int:
        """Control periods of the episode."""
        return int(self.periods.sum())


@dataclass(frozen=True)
class _Step:
    """What one environment did with one chunk."""

    window: tuple[Visual, Floats]
    frames: list[dict[str, Any]]
    """Of every control period; empty unless asked for."""
    executed: NDArray[np.float64]
    rewards: Floats
    periods: int
    terminated: bool
    truncated: bool
    success: bool


@dataclass
class _Running(Generic[Extra]):
    """An episode that is not over."""

    seed: int
    windows: list[tuple[Visual, Floats]]
    every_frame: bool
    chunks: list[NDArray[np.float64]] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)


class RolloutPool:
    """Environments of one task in some processes; made by :func:`rollout_pool`."""

    def __init__(self, workers: Sequence[_Worker], slots: int) -> None:
        """Take over started workers."""
        self._workers, self._slots = workers, slots

    def run(
        self, seeds: Sequence[int], decide: Decide[Extra], *, every_frame: bool = False
    ) -> Iterator[Rollout[Extra]]:
        """Play one episode per seed.

        Args:
            seeds: Of the episodes.
            decide: Chooses the chunks.
            every_frame: Observe every control period, not only what is decided on, and keep it.

        Yields:
            Episodes as they end; those that end together in the order of their environments. Equal
            seeds and decisions give equal episodes, and equal order, whatever the processes are.
        """
        waiting = list(reversed(seeds))
        running: dict[int, _Running[Extra]] = {}
        while waiting or running:
            free = [slot for slot in range(self._slots) if slot not in running]
            started = {slot: (waiting.pop(), every_frame) for slot in free[: len(waiting)]}
            for slot, window in self._ask("reset", started).items():
                running[slot] = _Running(started[slot][0], [window], every_frame)
            slots = sorted(running)
            chunks, extras = decide(_windows([running[slot] for slot in slots]))
            asked = dict(zip(slots, chunks, strict=True))
            for slot, step in self._ask("step", asked).items():
                episode = running[slot]
                episode.windows.append(step.window)
                episode.chunks.append(asked[slot])
                episode.steps.append(step)
            for slot, extra in zip(slots, extras, strict=True):
                running[slot].extras.append(extra)
            for slot in slots:
                last = running[slot].steps[-1]
                if last.terminated or last.truncated:
                    yield _finished(running.pop(slot))

    def _ask(self, what: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Let every worker do something with its slots at the same time."""
        busy = []
        for worker in self._workers:
            mine = {slot: arguments[slot] for slot in worker.slots if slot in arguments}
            if mine:
                worker.send((what, mine))
                busy.append(worker)
        answers: dict[int, Any] = {}
        for worker in busy:
            answers |= worker.receive()
        return dict(sorted(answers.items()))


@contextmanager
def rollout_pool(
    make_env: MakeEnv, *, envs: int, processes: int, n_obs: int, n_chunk: int
) -> Iterator[RolloutPool]:
    """Environments for as long as the context lasts.

    Args:
        make_env: Makes one environment.
        envs: How many run at the same time.
        processes: How many processes they are spread over.
        n_obs: Frames of an observation window.
        n_chunk: Control periods of a decision.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch
    workers = []
    try:
        for index in range(processes):
            slots = tuple(range(index, envs, processes))
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, make_env, slots, n_obs, n_chunk), daemon=True
            )
            with _uninterrupted():
                process.start()
            theirs.close()
            workers.append(_Worker(process, mine, slots))
        yield RolloutPool(workers, envs)
    finally:
        for worker in workers:
            worker.connection.close()  # which ends it
        for worker in workers:
            worker.process.join(_END_LIMIT_S)
            worker.process.kill()


_END_LIMIT_S = 5.0


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C: they end with the connection."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SimulationError(Rl100Error):
    """A process of environments is gone."""


@dataclass(frozen=True)
class _Worker:
    process: Any
    connection: Connection
    slots: tuple[int, ...]

    def send(self, message: tuple[str, dict[int, Any]]) -> None:
        with self._alive():
            self.connection.send(message)

    def receive(self) -> dict[int, Any]:
        with self._alive():
            answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        found: dict[int, Any] = answer
        return found

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise SimulationError(
                f"process {self.process.pid} of environments has ended unasked; what it printed "
                "says why (out of memory, if nothing): the same command goes on, with fewer "
                "--processes if it must"
            ) from error


def _work(
    connection: Connection, make_env: MakeEnv, slots: Sequence[int], n_obs: int, n_chunk: int
) -> None:
    """Serve some environments until the other end is closed."""
    envs = {slot: _ChunkEnv(make_env(), n_obs, n_chunk) for slot in slots}
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = {slot: getattr(envs[slot], what)(arguments[slot]) for slot in arguments}
        except Exception as error:  # is raised on the other side
            answer = error
        connection.send(answer)


class _ChunkEnv:
    """One environment, stepped by decisions."""

    def __init__(self, env: gymnasium.Env[Any, Any], n_obs: int, n_chunk: int) -> None:
        self._env, self._n_obs, self._n_chunk = env, n_obs, n_chunk
        self._frames: list[dict[str, Any]] = []
        self._every_frame = False

    def reset(self, asked: tuple[int, bool]) -> tuple[Visual, Floats]:
        seed, self._every_frame = asked
        render_every = 1 if self._every_frame else self._n_chunk
        observation, _ = self._env.reset(seed=seed, options={"render_every": render_every})
        self._frames = [observation] * self._n_obs
        return self._window()

    def step(self, chunk: NDArray[np.float64]) -> _Step:
        rewards = np.zeros(self._n_chunk, np.float32)
        executed = np.zeros(chunk.shape)
        frames = []
        for period, action in enumerate(chunk):
            observation, reward, terminated, truncated, info = self._env.step(action)
            self._frames = [*self._frames[1:], observation]
            if self._every_frame:
                frames.append(observation)
            rewards[period], executed[period] = reward, info["executed"]
            if terminated or truncated:
                break
        return _Step(
            window=self._window(),
            frames=frames,
            executed=executed,
            rewards=rewards,
            periods=period + 1,
            terminated=bool(terminated),
            truncated=bool(truncated),
            success=bool(info["success"]),
        )

    def _window(self) -> tuple[Visual, Floats]:
        return (
            np.stack([seen(frame) for frame in self._frames]),
            np.stack([frame["proprio"] for frame in self._frames]),
        )


def _windows(episodes: Sequence[_Running[Any]]) -> Windows:
    newest = [episode.windows[-1] for episode in episodes]
    return Windows(
        np.stack([visual for visual, _ in newest]),
        np.stack([proprio for _, proprio in newest]),
        tuple(episode.seed for episode in episodes),
        tuple(len(episode.steps) for episode in episodes),
    )


def _finished(episode: _Running[Extra]) -> Rollout[Extra]:
    steps = episode.steps
    return Rollout(
        seed=episode.seed,
        visual=np.stack([visual for visual, _ in episode.windows]),
        proprio=np.stack([proprio for _, proprio in episode.windows]),
        actions=np.stack(episode.chunks),
        executed=np.stack([step.executed for step in steps]),
        rewards=np.stack([step.rewards for step in steps]),
        periods=np.array([step.periods for step in steps]),
        extras=episode.extras,
        success=steps[-1].success,
        terminated=steps[-1].terminated,
        truncated=steps[-1].truncated,
        frames=_frames(episode) if episode.every_frame else None,
    )


def _frames(episode: _Running[Any]) -> Frames:
    visual, proprio = episode.windows[0]
    later = [frame for step in episode.steps for frame in step.frames]
    return Frames(
        np.stack([visual[-1], *(seen(frame) for frame in later)]),
        np.stack([proprio[-1], *(frame["proprio"] for frame in later)]),
    )
