# SPDX-License-Identifier: Apache-2.0
"""What bfloat16 inside the networks does to what is computed from them.

The ratio of likelihoods of the same transitions, drawn by networks in bfloat16 and judged by the
same networks in float32, should be one; it is set beside the clip range of proximal learning. The
chunk of the teacher in both precisions is what a student would be distilled from.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rl100_learner.algorithms.proximal import ProximalConfig
from rl100_policy.core.policy import Decision, DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import load_version
from rl100_policy.core.precision import networks_in
from rl100_policy.core.presets import preset
from rl100_policy.core.sampler import transition_log_prob

_DECISIONS = 2000


def fresh() -> DiffusionPolicy:
    """An untrained policy of the demo's sizes."""
    torch.manual_seed(0)
    size = ObservationSize(n_obs=2, n_points=128, proprio_dim=3)
    return DiffusionPolicy(preset("small", size, ActionSize(n_chunk=8, dim=2)))


def observations(policy: DiffusionPolicy) -> tuple[Tensor, Tensor]:
    """Random ones within what the policy was fitted to."""
    size, limits = policy.config.observation, policy.normalizer
    cloud = torch.rand((_DECISIONS, size.n_obs, size.n_points, 3)) * 2 - 1
    proprio = torch.rand((_DECISIONS, size.n_obs, size.proprio_dim)) * 2 - 1
    return limits.cloud.inverse(cloud), limits.proprio.inverse(proprio)


def decide(policy: DiffusionPolicy, condition: Tensor, *, deterministic: bool) -> Decision:
    """By the K-step sampler, with the same noise every time."""
    return policy.decide_encoded(
        condition, sampler="ddim", noise_seed=0, deterministic=deterministic
    )


@torch.no_grad()
def ratios(policy: DiffusionPolicy, condition: Tensor) -> Tensor:
    """Likelihood in float32 over likelihood in bfloat16, of transitions drawn in bfloat16."""
    with networks_in(torch.bfloat16):
        made = decide(policy, condition, deterministic=False)
    steps = made.log_probs.shape[1]
    found = transition_log_prob(
        partial(policy.epsilon, condition=condition.repeat_interleave(steps, dim=0)),
        policy.schedule,
        torch.arange(steps).repeat(len(condition)),
        made.latents[:, :-1].flatten(0, 1),
        made.latents[:, 1:].flatten(0, 1),
    )
    return (found - made.log_probs.flatten()).exp()


def main(
    version: Annotated[
        Path | None, typer.Argument(help="policy version of clouds; an untrained one without it")
    ] = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    policy = fresh() if version is None else load_version(version)[0]
    condition = policy.encode(*observations(policy))
    deviation = (ratios(policy, condition) - 1).abs()
    exact = decide(policy, condition, deterministic=True).actions_normalised
    with networks_in(torch.bfloat16):
        rounded = decide(policy, condition, deterministic=True).actions_normalised
    clip = ProximalConfig().clip
    table = Table(
        "", "mean", "99 %", "largest", title=f"{_DECISIONS} decisions, clip range {clip}"
    )
    for name, each in (
        ("|ratio - 1|", deviation),
        ("teacher's chunk, normalised units", (exact - rounded).abs().flatten()),
    ):
        numbers = each.mean(), torch.quantile(each, 0.99), each.max()
        table.add_row(name, *(f"{float(number):.4f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
