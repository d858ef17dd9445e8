# SPDX-License-Identifier: Apache-2.0
"""Proximal improvement of the denoiser on recorded denoising chains, offline and online alike.

    loss = -mean over decisions and transitions of min(rho A, clip(rho, 1 - eps, 1 + eps) A)

All K transitions of a decision share its advantage and one encoding of its observation. The
encoder stays as it is, or learns along with a rate of its own: then every minibatch is encoded
anew from the clouds that the decisions were made on, since other points of the same scene would
change the ratios without anything having been learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.objectives.proximal import clipped_surrogate, ratio_statistics, standardise
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.sampler import transition_log_prob

ConditionOf = Callable[[Tensor], Tensor]
"""Conditions [R, d_c] of some decisions, given their rows [R] int64."""

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
    """Some epochs over decisions with their observations; encodes anew if the encoder learns.

    Arguments and result as in :func:`improve_chains`, with chains and observations in ``batch``.
    """
    policy = state.policy
    frozen = None if config.encoder_lr > 0 else encode_all(policy, batch)

    def condition_of(rows: Tensor) -> Tensor:
        if frozen is not None:
            return frozen[rows]
        return policy.encode(batch.cloud[rows], batch.proprio[rows])

    return improve_chains(
        state, condition_of, batch.latents, batch.log_probs, advantages, generator, config
    )


def improve_chains(
    state: ProximalState,
    condition_of: ConditionOf,
    latents: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    generator: torch.Generator,
    config: ProximalConfig,
) -> dict[str, float]:
    """Some epochs over denoising chains.

    Args:
        state: The policy and its optimiser.
        condition_of: Conditions of decisions by their rows.
        latents: Chains, [D, K + 1, n_c, d_a].
        log_probs: Log-densities of their transitions under the policy as it is now, [D, K], nat.
        advantages: A_d, [D]; standardised here.
        generator: Order of the minibatches.
        config: Settings.

    Returns:
        ``loss``, ``kl`` (mean of the last epoch, nat), ``clipped`` (share of the last epoch),
        ``ratio_error`` (largest |ratio - 1| of the first minibatch, before any step), ``epochs``.
    """
    standard = standardise(advantages, config.advantage_limit)
    metrics: dict[str, float] = {}
    for epoch in range(config.epochs):
        order = torch.randperm(len(standard), generator=generator)
        found = [
            _step(
                state, condition_of(rows), latents[rows], log_probs[rows], standard[rows], config
            )
            for rows in torch.split(order, config.minibatch)
        ]
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
    condition: Tensor,
    latents: Tensor,
    before: Tensor,
    advantages: Tensor,
    config: ProximalConfig,
) -> dict[str, float]:
    """One optimiser step on the K transitions of some decisions."""
    policy, steps = state.policy, before.shape[1]
    k = torch.arange(steps, device=before.device).repeat(len(before))
    denoise = partial(policy.epsilon, condition=condition.repeat_interleave(steps, dim=0))
    log_probs = transition_log_prob(
        denoise, policy.schedule, k, latents[:, :-1].flatten(0, 1), latents[:, 1:].flatten(0, 1)
    )
    old = before.flatten()
    advantage = advantages.repeat_interleave(steps)
    loss = clipped_surrogate(log_probs, old, advantage, config.clip)
    step(state, loss, config)
    moved = ratio_statistics(log_probs, old, config.clip)
    error = float(((log_probs.detach() - old).exp() - 1.0).abs().max())
    return {
        "loss": float(loss.detach()),
        "kl": moved.kl,
        "clipped": moved.clipped,
        "ratio_error": error,
    }


def step(state: ProximalState, loss: Tensor, config: ProximalConfig) -> None:
    """One optimiser step down a loss, with the gradient's norm bounded."""
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    for group in state.optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], config.gradient_norm)
    state.optimizer.step()
