# SPDX-License-Identifier: Apache-2.0
"""Optimiser steps per second of every stage of learning.

Where the encoder stands still, the stage runs on features that were computed once; the plain way,
which encodes every window whenever it is used, takes turns with it on the same rows. Numbers are
random: time does not depend on what is learned.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from rl100_learner.accelerator import (
    AcceleratorSettings,
    DeviceChoice,
    Precision,
    accelerated,
    moved,
    place,
    reduced_precision,
)
from rl100_learner.algorithms import (
    critics,
    distillation,
    imitation,
    offline,
    online,
    proximal,
    transition,
)
from rl100_learner.algorithms.batches import DecisionBatch, EncodedDecisions, WindowBatch
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.offline import OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig
from rl100_learner.algorithms.proximal import encode_windows
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

PresetName = Literal["small", "paper", "paper_single"]
_CRITIC_STEPS, _MODEL_STEPS = 20, 20


class Problem:
    """Random decisions of a size, and an untrained policy."""

    def __init__(self, points: int, decisions: int, network: PresetName = "small") -> None:
        """Draw everything."""
        torch.manual_seed(0)
        size = ObservationSize(n_obs=2, n_points=points, proprio_dim=3)
        config = preset(network, size, ActionSize(n_chunk=8, dim=2))
        self.policy = place(DiffusionPolicy(config))
        device = self.policy.device
        self.cloud = torch.rand((decisions, 2, points, 3))
        self.proprio = torch.rand((decisions, 2, 3))
        self.action = torch.rand((decisions, 8, 2)) * 2 - 1
        condition = encode_windows(self.policy, self.cloud, self.proprio)
        every = torch.arange(decisions) % 10
        decided = EncodedDecisions(
            condition, self.action, condition.roll(-1, 0), torch.rand(decisions),
            torch.full((decisions,), 0.9), every == 9, every == 0,
        )  # fmt: skip
        self.data = moved(decided, device)

    def encode(self, count: int) -> None:
        """What the plain way does before a step: encode some windows."""
        rows = torch.randint(len(self.cloud), (count,))
        encode_windows(self.policy, self.cloud[rows], self.proprio[rows])


def offline_stages(problem: Problem) -> dict[str, tuple[int, Callable[[], None], int]]:
    """By name: steps per call, the call on cached features, windows that a step reads."""
    critic = CriticConfig(steps=_CRITIC_STEPS)
    model = TransitionConfig(steps=_MODEL_STEPS)
    phase = OfflineConfig(iterations=1)
    data = problem.data
    generator = torch.Generator().manual_seed(0)
    quick = replace(critic, steps=1, returns=replace(critic.returns, epochs=1))
    fitted, _ = critics.fit(data, data, 0, generator, quick)
    state = proximal.init(problem.policy, phase.proximal)
    chains = phase.states * phase.draws
    steps = phase.proximal.epochs * -(-chains // phase.proximal.minibatch)

    def fit_critics() -> None:
        with reduced_precision():
            critics.regress(fitted.q.requires_grad_(True), data, data.rewards, generator, critic)

    def fit_model() -> None:
        transition.fit(data, 0, generator, model)

    def improve() -> None:
        offline.iterate(state, fitted, data.condition, generator, phase)

    # a critic step reads s and s' for every member; the targets of the plain way are not kept
    return {
        "critics": (_CRITIC_STEPS, fit_critics, 2 * critic.members * critic.minibatch),
        "transition model": (_MODEL_STEPS, fit_model, 2 * model.members * model.minibatch),
        "proximal": (steps, improve, phase.proximal.minibatch),
    }


def other_stages(problem: Problem) -> dict[str, tuple[int, Callable[[], None]]]:
    """Stages in which the encoder learns, or that are plain anyway."""
    generator = torch.Generator().manual_seed(0)
    imitating = ImitationConfig()
    learner = imitation.init(problem.policy.requires_grad_(True), imitating)
    pick = torch.arange(imitating.windows)
    device = problem.policy.device
    batch = WindowBatch(
        problem.cloud[pick][:, :, : imitating.points], problem.proprio[pick], problem.action[pick]
    )
    batch = moved(batch, device)
    student = distillation.init(problem.policy, DistillationConfig())
    rows = problem.data.condition[:256]
    config = OnlineConfig(proximal=replace(OnlineConfig().proximal, epochs=1))
    made = problem.policy.decide(
        problem.cloud[:400].to(device), problem.proprio[:400].to(device), sampler="ddim",
        noise_seed=0, deterministic=False,
    )  # fmt: skip
    decided = DecisionBatch(
        problem.cloud[:400], problem.proprio[:400], problem.cloud[:400], problem.proprio[:400],
        made.latents, made.log_probs, torch.rand(400), torch.full((400,), 0.9),
        torch.arange(400) % 10 == 9,
    )  # fmt: skip
    decided, advantages = moved(decided, device), torch.randn(400).to(device)

    def online_step() -> None:
        state = online.init(problem.policy, config, 0)
        proximal.improve(state.proximal, decided, advantages, generator, config.proximal)

    return {
        "imitation": (1, lambda: imitation.update(learner, batch, generator, imitating) and None),
        "distillation": (
            1,
            lambda: distillation.update(student, rows, generator, DistillationConfig()) and None,
        ),
        "online, encoder learns": (1, online_step),
    }


def seconds(call: Callable[[], None]) -> float:
    """Wall time of a call, with everything that it left to a GPU."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(
    points: Annotated[int, typer.Option(help="points per cloud")] = 512,
    decisions: Annotated[int, typer.Option(help="decisions of the data")] = 4000,
    repeats: Annotated[int, typer.Option(help="measurements of each, in turns")] = 7,
    network: Annotated[PresetName, typer.Option(help="sizes of the networks")] = "small",
    device: Annotated[DeviceChoice, typer.Option(help="where networks learn")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="of regressions")] = "float32",
    compiled: Annotated[bool, typer.Option(help="compile the networks")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    settings = AcceleratorSettings(device=device, precision=precision, compile=compiled)
    with accelerated(settings) as accelerator:
        how = f"{accelerator.device.type}, {precision}{', compiled' if compiled else ''}"
        measure(Problem(points, decisions, network), repeats, f"{points} points, {network}, {how}")


def measure(problem: Problem, repeats: int, how: str) -> None:
    """Measure every stage and print a table."""
    decisions = len(problem.data)
    table = Table("stage", "cached", "plain", "ratio", title=f"Steps per second, {how}")
    total = {"cached": 0.0, "plain": 0.0}
    default = {
        "critics": CriticConfig().steps,
        "transition model": TransitionConfig().steps,
        "proximal": 0,
    }
    for name, (steps, call, windows) in offline_stages(problem).items():
        default[name] = default[name] or steps * OfflineConfig().iterations
        call()
        cached, encoding = [], []
        for _ in range(repeats):
            cached.append(seconds(call) / steps)
            encoding.append(seconds(lambda count=windows: problem.encode(count)))  # type: ignore[misc]
        mine, plain = median(cached), median(cached) + median(encoding)
        total["cached"] += default[name] * mine
        total["plain"] += default[name] * plain
        table.add_row(name, f"{1 / mine:.0f}", f"{1 / plain:.1f}", f"{plain / mine:.0f}")
    once = seconds(lambda: problem.encode(decisions))
    total["cached"] += once
    table.add_row(
        "offline stage, seconds", f"{total['cached']:.0f}", f"{total['plain']:.0f}",
        f"{total['plain'] / total['cached']:.0f}",
    )  # fmt: skip
    for name, (steps, call) in other_stages(problem).items():
        call()
        mine = median(seconds(call) / steps for _ in range(repeats))
        table.add_row(name, "", f"{1 / mine:.0f}", "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.caption = (
        f"offline stage: default steps on {decisions} decisions, encoded once in {once:.1f} s; "
        f"peak memory {peak:.1f} GiB"
    )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
