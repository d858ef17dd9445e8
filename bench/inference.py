# SPDX-License-Identifier: Apache-2.0
"""Time of one decision at batch 1: the one-step student against the diffusion teacher.

The teacher runs with 5 and with 10 steps; the three are interleaved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from rl100_bringup.report import Report, latency, tables
from rl100_policy.core.observation import Frame
from rl100_policy.core.policy import DiffusionPolicy, Sampler
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset
from rl100_policy.core.runner import PolicyRunner


def runner(steps: int, sampler: Sampler, points: int) -> PolicyRunner:
    """Untrained networks of the small preset: their time does not depend on the weights."""
    config = preset(
        "small",
        ObservationSize(n_obs=2, n_points=points, proprio_dim=3),
        ActionSize(n_chunk=8, dim=2),
    )
    diffusion = config.diffusion.model_copy(update={"n_steps": steps})
    torch.manual_seed(0)
    policy = DiffusionPolicy(config.model_copy(update={"diffusion": diffusion})).eval()
    return PolicyRunner(policy, "untrained", sampler=sampler, deterministic=True, noise_seed=0)


def main(
    repeats: Annotated[int, typer.Option(help="decisions of each kind")] = 500,
    points: Annotated[int, typer.Option(help="points per cloud")] = 128,
    output: Annotated[Path | None, typer.Option(help="folder for report.json")] = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    kinds = {
        "one_step": runner(5, "one_step", points),
        "ddim K=5": runner(5, "ddim", points),
        "ddim K=10": runner(10, "ddim", points),
    }
    for kind in kinds.values():
        kind.warm_up()
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for stamp in range(repeats):
        window = [
            Frame(stamp, rng.normal(size=(points, 3)).astype(np.float32), np.zeros(3, np.float32))
            for _ in range(2)
        ]
        for name, kind in kinds.items():
            times[name].append(kind.decide(window).inference_s)
    console = Console()
    report = Report(
        command="bench inference",
        latency_ms={name: latency(values) for name, values in times.items()},
    )
    for table in tables(report):
        console.print(table)
    for name in ("ddim K=5", "ddim K=10"):
        ratio = np.median(np.divide(times[name], times["one_step"]))
        console.print(f"median of {name} / one_step, pair by pair: {ratio:.1f}")
    if output is not None:
        console.print(f"report: {report.write(output)}")


if __name__ == "__main__":
    typer.run(main)
