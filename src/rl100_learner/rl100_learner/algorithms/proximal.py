# SPDX-License-Identifier: Apache-2.0
"""Proximal improvement of the denoiser on recorded denoising chains, offline and online alike.

    loss = -mean over decisions and transitions of min(rho A, clip(rho, 1 - eps, 1 + eps) A)

All K transitions of a decision share its advantage and one encoding of its observation. The
encoder stays as it is, or learns along with a rate of its own: then every minibatch is encoded
anew from the clouds that the decisions were made on, since other points of the same scene would
change the ratios without anything having been learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.objectives.proximal import clipped_surrogate, ratio_statistics, standardise
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.sampler import transition_log_prob

_ROWS_PER_PASS = 512
"""Observation windows encoded at a time where no gradient is needed; bounds memory."""


@dataclass(frozen=True)
class ProximalConfig:
    """Settings of one proximal improvement."""

    lr: PositiveFloat = 2e-4
    encoder_lr: NonNegativeFloat = 0.0
    """0: the encoder is frozen."""
    epochs: PositiveInt = 4
    minibatch: PositiveInt = 400
    """Decisions per optimiser step, each with its K transitions."""
    clip: PositiveFloat = 0.2
    """Half width eps of the clip range of the ratio."""
    advantage_limit: PositiveFloat = 4.0
    """Standardised advantages are clamped to +- this."""
    gradient_norm: PositiveFloat = 0.5
    kl_stop: PositiveFloat = 0.2
    """An epoch that ends with a larger mean KL of a transition is the last one [nat]."""


@dataclass
class ProximalState:
    """What changes while improving."""

    policy: DiffusionPolicy
    optimizer: torch.optim.Optimizer


def init(policy: DiffusionPolicy, config: ProximalConfig) -> ProximalState:
    """Start from ``policy``, which is changed in place: its denoiser, and its encoder if asked."""
    policy.requires_grad_(False)
    groups = [{"params": list(policy.denoiser.parameters()), "lr": config.lr}]
    if config.encoder_lr > 0:
        encoder = policy.encoder.feature_parameters()
        groups.append({"params": encoder, "lr": config.encoder_lr})
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            parameter.requires_grad_(True)
    return ProximalState(policy, torch.optim.AdamW(groups, weight_decay=0.0, fused=True))


def improve(
    state: ProximalState,
    batch: DecisionBatch,
    advantages: Tensor,
    generator: torch.Generator,
    config: ProximalConfig,
) -> dict[str, float]:
    """Some epochs over a batch of decisions.

    Args:
        state: The policy and its optimiser.
        batch: Decisions whose ``log_probs`` are those of the policy as it is now.
        advantages: A_d, [D]; standardised here.
        generator: Order of the minibatches.
        config: Settings.

    Returns:
        ``loss``, ``kl`` (mean of the last epoch, nat), ``clipped`` (share of the last epoch),
        ``ratio_error`` (largest |ratio - 1| of the first minibatch, before any step), ``epochs``.
    """
    standard = standardise(advantages, config.advantage_limit)
    frozen = None if config.encoder_lr > 0 else encode_all(state.policy, batch)
    metrics: dict[str, float] = {}
    for epoch in range(config.epochs):
        rows = torch.split(torch.randperm(len(batch), generator=generator), config.minibatch)
        found = [_step(state, batch, standard, part, frozen, config) for part in rows]
        metrics = {
            "ratio_error": metrics.get("ratio_error", found[0]["ratio_error"]),
            "epochs": float(epoch + 1),
        } | {
            key: sum(each[key] for each in found) / len(found) for key in ("loss", "kl", "clipped")
        }
        if metrics["kl"] > config.kl_stop:
            break
    return metrics


@torch.no_grad()
def encode_all(policy: DiffusionPolicy, batch: DecisionBatch) -> Tensor:
    """Conditions of all observation windows of a batch, [D, d_c], without a gradient."""
    return encode_windows(policy, batch.cloud, batch.proprio)


@torch.no_grad()
def encode_windows(policy: DiffusionPolicy, cloud: Tensor, proprio: Tensor) -> Tensor:
    """Conditions of many windows, a bounded number at a time. Arguments as ``policy.encode``."""
    parts = zip(
        torch.split(cloud, _ROWS_PER_PASS), torch.split(proprio, _ROWS_PER_PASS), strict=True
    )
    return torch.cat([policy.encode(*part) for part in parts])


def _step(
    state: ProximalState,
    batch: DecisionBatch,
    advantages: Tensor,
    rows: Tensor,
    frozen: Tensor | None,
    config: ProximalConfig,
) -> dict[str, float]:
    """One optimiser step on the K transitions of some decisions."""
    policy, steps = state.policy, batch.log_probs.shape[1]
    condition = (
        policy.encode(batch.cloud[rows], batch.proprio[rows]) if frozen is None else frozen[rows]
    )
    row = rows.repeat_interleave(steps)
    k = torch.arange(steps, device=rows.device).repeat(len(rows))
    denoise = partial(policy.epsilon, condition=condition.repeat_interleave(steps, dim=0))
    log_probs = transition_log_prob(
        denoise, policy.schedule, k, batch.latents[row, k], batch.latents[row, k + 1]
    )
    old = batch.log_probs[row, k]
    loss = clipped_surrogate(log_probs, old, advantages[row], config.clip)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    for group in state.optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], config.gradient_norm)
    state.optimizer.step()
    moved = ratio_statistics(log_probs, old, config.clip)
    error = float(((log_probs.detach() - old).exp() - 1.0).abs().max())
    return {
        "loss": float(loss.detach()),
        "kl": moved.kl,
        "clipped": moved.clipped,
        "ratio_error": error,
    }
