# SPDX-License-Identifier: Apache-2.0
"""Time of a control period of the simulated Push-T, part by part, and of a pool of environments.

With ``--against`` a second checkout plays the same episodes in turns with this one, and it is
compared bit by bit what the two did in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from rl100_policy.core.command import CommandGate
from rl100_sim.env import PushTEnv
from rl100_sim.rollouts import Windows, rollout_pool
from rl100_sim.world import ArmWorld

N_OBS, N_CHUNK = 2, 8
_PARTS: dict[str, tuple[type, str]] = {
    "gate": (CommandGate, "step"),
    "physics": (ArmWorld, "advance"),
    "sight": (PushTEnv, "_update_visual"),
}
"""Timed methods; none calls another of them."""
_HERE = Path(__file__).parents[1]


def chunk_of(seed: int, decision: int) -> np.ndarray:
    """A chunk like those of a policy that is not trained: one velocity and some noise."""
    rng = np.random.default_rng([seed, decision])
    return rng.uniform(-0.25, 0.25, 2) + 0.03 * rng.standard_normal((N_CHUNK, 2))


def decide(windows: Windows) -> tuple[np.ndarray, list[None]]:
    """Chunks for all environments that run."""
    pairs = zip(windows.seeds, windows.decisions, strict=True)
    return np.stack([chunk_of(*pair) for pair in pairs]), [None] * len(windows.seeds)


class PartTimes:
    """Seconds spent in the methods of ``_PARTS``, since they were last taken."""

    def __init__(self) -> None:
        """Wrap the methods."""
        self._seconds = dict.fromkeys(_PARTS, 0.0)
        for name, (owner, method) in _PARTS.items():
            if hasattr(owner, method):  # the other checkout may not have it
                setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._seconds[name] += time.perf_counter() - begun

        return wrapped

    def take(self) -> dict[str, float]:
        """What was spent in each; begins anew."""
        taken, self._seconds = self._seconds, dict.fromkeys(_PARTS, 0.0)
        return taken


def play_one(env: PushTEnv, parts: PartTimes, seed: int) -> dict[str, Any]:
    """One episode: milliseconds per control period, and a digest of all that happened."""
    digest = hashlib.sha256()
    observation, info = env.reset(seed=seed)
    parts.take()
    periods, spent, over = 0, 0.0, False
    while not over:
        action = chunk_of(seed, periods // N_CHUNK)[periods % N_CHUNK]
        begun = time.perf_counter()
        observation, reward, terminated, truncated, info = env.step(action)
        spent += time.perf_counter() - begun
        for array in (*observation.values(), info["executed"], info["object_pose"]):
            digest.update(array.tobytes())
        digest.update(f"{reward} {terminated} {truncated} {info['flags']}".encode())
        over, periods = terminated or truncated, periods + 1
    times = {name: seconds / periods for name, seconds in parts.take().items()}
    times |= {"rest": spent / periods - sum(times.values()), "step": spent / periods}
    return {
        "ms": {name: 1e3 * seconds for name, seconds in times.items()},
        "digest": digest.hexdigest(),
    }


def play_pool(processes: int, envs: int, episodes: int) -> dict[str, Any]:
    """A pool that plays some episodes after it has been warmed up: control periods per second."""
    digest = hashlib.sha256()
    make_env = partial(PushTEnv, render_every=N_CHUNK)
    shape = {"n_obs": N_OBS, "n_chunk": N_CHUNK}
    with rollout_pool(make_env, envs=envs, processes=processes, **shape) as pool:
        list(pool.run(range(envs), decide))
        begun, periods = time.perf_counter(), 0
        for rollout in pool.run(range(1000, 1000 + episodes), decide):
            periods += rollout.steps
            # "clouds" in checkouts from before there were images
            visual = rollout.visual if hasattr(rollout, "visual") else rollout.clouds
            digest.update(visual.tobytes() + rollout.executed.tobytes())
        seconds = time.perf_counter() - begun
    return {
        "periods_per_s": periods / seconds,
        "episodes_per_s": episodes / seconds,
        "digest": digest.hexdigest(),
    }


def serve() -> None:
    """Answer the requests of :class:`Side`, a line of JSON each."""
    parts, env = PartTimes(), PushTEnv(render_every=N_CHUNK)
    for line in sys.stdin:
        request = json.loads(line)
        answer = (
            play_one(env, parts, request["seed"]) if "seed" in request else play_pool(**request)
        )
        print(json.dumps(answer), flush=True)


class Side:
    """A process in which the packages of one checkout play."""

    def __init__(self, checkout: Path) -> None:
        """Start it."""
        paths = [str(path) for path in sorted((checkout / "src").iterdir()) if path.is_dir()]
        variables = os.environ | {
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: int) -> dict[str, Any]:
        """Let it play; the answer of ``play_one`` or ``play_pool``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(
    against: Annotated[
        Path | None, typer.Option(help="another checkout to take turns with")
    ] = None,
    episodes: Annotated[int, typer.Option(help="single episodes of each side")] = 30,
    processes: Annotated[int, typer.Option(help="processes of the pool")] = 2,
    envs: Annotated[int, typer.Option(help="environments of the pool")] = 8,
    pools: Annotated[int, typer.Option(help="times that a pool plays, of each side")] = 3,
) -> None:
    """Measure and print."""
    checkouts = {"here": _HERE} | ({"other": against.resolve()} if against else {})
    sides = {name: Side(checkout) for name, checkout in checkouts.items()}
    singles: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    pooled: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for side in sides.values():
        side.ask(seed=0)  # to warm up
    for seed in range(1, episodes + 1):
        for name in sorted(sides, reverse=bool(seed % 2)):
            singles[name].append(sides[name].ask(seed=seed))
    for turn in range(pools):
        for name in sorted(sides, reverse=bool(turn % 2)):
            pooled[name].append(sides[name].ask(processes=processes, envs=envs, episodes=4 * envs))
    for side in sides.values():
        side.close()
    console = Console()
    console.print(_single_table(singles))
    if pools:
        console.print(_pool_table(pooled, f"Pool of {envs} on {processes} processes"))
    if against:
        played = [[answer["digest"] for answer in singles[name] + pooled[name]] for name in sides]
        equal = sum(here == other for here, other in zip(*played, strict=True))
        console.print(f"equal bit for bit: {equal} of {len(played[0])}")


def _single_table(answers: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table(
        "part", *answers, "share", "other / here", title="Median of a control period [ms]"
    )
    for part in (*_PARTS, "rest", "step"):
        times = {
            name: np.array([answer["ms"][part] for answer in each])
            for name, each in answers.items()
        }
        whole = np.median([answer["ms"]["step"] for answer in answers["here"]])
        table.add_row(
            part,
            *(f"{np.median(each):.3f}" for each in times.values()),
            f"{100 * np.median(times['here']) / whole:.0f} %",
            f"{np.median(times['other'] / times['here']):.2f}" if "other" in times else "",
        )
    return table


def _pool_table(answers: dict[str, list[dict[str, Any]]], title: str) -> Table:
    table = Table("median of", *answers, "here / other", title=title)
    for key in ("periods_per_s", "episodes_per_s"):
        rates = {
            name: np.array([answer[key] for answer in each]) for name, each in answers.items()
        }
        table.add_row(
            key.replace("_per_s", " / s"),
            *(f"{np.median(each):.1f}" for each in rates.values()),
            f"{np.median(rates['here'] / rates['other']):.2f}" if "other" in rates else "",
        )
    return table


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        typer.run(main)
