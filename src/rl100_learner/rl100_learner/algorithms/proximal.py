# SPDX-License-Identifier: Apache-2.0
"""Proximal improvement of the denoiser on recorded denoising chains, offline and online alike.

    loss = -mean over decisions and transitions of min(rho A, clip(rho, 1 - eps, 1 + eps) A)

All K transitions of a decision share its advantage and one encoding of its observation. The
encoder stays as it is, or learns along with a rate of its own: then every minibatch is encoded
anew from the clouds that the decisions were made on, since other points of the same scene would
change the ratios without anything having been learned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rl100_learner.algorithms.auxiliary import AuxiliaryWeights, auxiliary_loss
from rl100_learner.algorithms.batches import ChainBatch, DecisionBatch
from rl100_learner.algorithms.imitation import ImitationConfig, auxiliary_weights
from rl100_learner.objectives.proximal import (
    clipped_surrogate,
    ratio_statistics,
    standardise,
    symmetric_gaussian_kl,
)
from rl100_policy.core.errors import LearningError
from rl100_policy.core.noise import normal
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.sampler import Chain, sample_chain, transition_log_prob, transition_mean

ConditionOf = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of some decisions, given their rows [R] int64: conditions [R, d_c], and a scalar to be added to
the loss because of them."""

_MEANS = ("loss", "auxiliary", "kl", "shift", "clipped")
"""Metrics of which the mean over an epoch is told."""
_ROWS_PER_PASS, _IMAGE_ROWS_PER_PASS = 512, 32
"""Observation windows encoded at a time where no gradient is needed; bounds memory."""


_TENTH = auxiliary_weights(ImitationConfig(), step=0).scaled(0.1)


@dataclass(frozen=True)
class ChainsConfig:
    """Settings of one proximal improvement on observations that stay encoded."""

    lr: PositiveFloat = 2e-4
    epochs: PositiveInt = 4
    minibatch: PositiveInt = 400
    """Decisions per optimiser step, each with its K transitions."""
    clip: PositiveFloat = 0.2
    """Half width eps of the clip range of the ratio."""
    advantage_limit: PositiveFloat = 3.0
    """Standardised advantages are clamped to +- this."""
    gradient_norm: PositiveFloat = 0.5
    kl_stop: PositiveFloat = 0.2
    """An improvement in which the transitions of a minibatch have shifted further is taken back,
    and tried again at a third of the rates, up to three times; then the policy stays as it was
    for this iteration [nat]."""
    kl_target: NonNegativeFloat = 0.05
    """After an improvement that shifted transitions further the rates shrink, and they grow again,
    at most to what they were, after a smaller one [nat]; 0: they change only where one is taken
    back."""


@dataclass(frozen=True)
class ProximalConfig(ChainsConfig):
    """Settings of one proximal improvement of denoiser and encoder."""

    encoder_lr: NonNegativeFloat = 0.0
    """0: the encoder is frozen."""
    auxiliary: AuxiliaryWeights = field(default_factory=lambda: _TENTH)
    """Of reconstruction and bottleneck, if the encoder learns: a tenth of imitation's, as in the
    paper; in a run of several stages of what these are set to. The decoders stay as they are, and
    so hold the features near what they were."""
    chamfer_points: PositiveInt = 48
    """Points of a cloud that the reconstruction is compared with."""


@dataclass
class ProximalState:
    """What changes while improving."""

    policy: DiffusionPolicy
    optimizer: torch.optim.Optimizer


def init(policy: DiffusionPolicy, config: ChainsConfig) -> ProximalState:
    """Start from ``policy``, which is changed in place: its denoiser, and its encoder if asked."""
    policy.requires_grad_(False)
    groups = [_group(list(policy.denoiser.parameters()), config.lr)]
    if isinstance(config, ProximalConfig) and config.encoder_lr > 0:
        groups.append(_group(policy.encoder.feature_parameters(), config.encoder_lr))
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return ProximalState(policy, torch.optim.AdamW(groups, weight_decay=0.0, fused=True))


def _group(parameters: list[nn.Parameter], rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "largest_lr": rate}


def slow_down(state: ProximalState, share: float) -> None:
    """Go on with a share of the rates, which will not grow beyond that share again."""
    for group in state.optimizer.param_groups:
        group["largest_lr"] *= share
        group["lr"] *= share


def improve(
    state: ProximalState,
    batch: ChainBatch | DecisionBatch,
    advantages: Tensor,
    generator: torch.Generator,
    config: ProximalConfig,
) -> dict[str, float]:
    """Some epochs over decisions with their observations; encodes anew if the encoder learns.

    Arguments and result as in :func:`improve_chains`, with chains and observations in ``batch``.
    """
    policy = state.policy
    chains = batch if isinstance(batch, ChainBatch) else batch.chains
    frozen = None
    if config.encoder_lr == 0:
        frozen = encode_windows(policy, chains.visual, chains.proprio)

    def condition_of(rows: Tensor) -> tuple[Tensor, Tensor]:
        if frozen is not None:
            return frozen[chains.observation[rows]], frozen.new_zeros(())
        # what several chains were drawn at is encoded once
        seen, place = torch.unique(chains.observation[rows], return_inverse=True)
        visual, proprio = chains.visual[seen], chains.proprio[seen]
        encoding = policy.encode_window(visual, proprio)
        auxiliary = auxiliary_loss(
            policy, encoding, visual, proprio, config.auxiliary, config.chamfer_points, generator
        )
        return encoding.condition[place], auxiliary.total

    return improve_chains(
        state, condition_of, chains.latents, chains.log_probs, advantages, generator, config,
        chains.observation,
    )  # fmt: skip


def improve_chains(
    state: ProximalState,
    condition_of: ConditionOf,
    latents: Tensor,
    log_probs: Tensor,
    advantages: Tensor,
    generator: torch.Generator,
    config: ChainsConfig,
    observation: Tensor | None = None,
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
        observation: What every chain was drawn at, [D] int64; those of one observation go into
            one minibatch. None: every chain on its own.

    Returns:
        ``loss`` and ``auxiliary`` (what was added to it), ``kl`` and ``shift`` (mean of the last
        epoch, nat), ``clipped`` (share of the last epoch), ``ratio_error`` (largest |ratio - 1| of
        the first minibatch, before any step), ``epochs`` (the last one may be cut), ``lr_share``
        (of the rates, for this improvement), ``taken_back`` (times that one went too far; after
        the last attempt the policy is what it was, and the numbers are of that attempt).
    """
    standard = standardise(advantages, config.advantage_limit)

    def step_on(rows: Tensor) -> dict[str, float]:
        condition, auxiliary = condition_of(rows)
        chains = latents[rows], log_probs[rows], standard[rows]
        return _step(state, condition, auxiliary, *chains, config)

    groups = torch.arange(len(standard)) if observation is None else observation.cpu()
    before = _copied(state)
    for taken_back in range(_ATTEMPTS):
        share = state.optimizer.param_groups[0]["lr"] / config.lr
        metrics, too_far = _epochs(step_on, groups, generator, config)
        metrics |= {"lr_share": share, "taken_back": float(taken_back)}
        if not too_far:
            _adapt(state, metrics["shift"], config.kl_target)
            return metrics
        _put_back(state, before, _SHRINK ** (taken_back + 1))
    return metrics | {"taken_back": float(_ATTEMPTS)}


def _epochs(
    step_on: Callable[[Tensor], dict[str, float]],
    groups: Tensor,
    generator: torch.Generator,
    config: ChainsConfig,
) -> tuple[dict[str, float], bool]:
    """One attempt at an improvement, and whether it went too far and was broken off."""
    metrics: dict[str, float] = {}
    for epoch in range(config.epochs):
        place = torch.randperm(int(groups.max()) + 1, generator=generator)
        order = torch.argsort(place[groups], stable=True)
        found: list[dict[str, float]] = []
        for rows in torch.split(order, config.minibatch):
            found.append(step_on(rows))
            if found[-1]["shift"] > config.kl_stop:
                break
        metrics = {
            "ratio_error": metrics.get("ratio_error", found[0]["ratio_error"]),
            "epochs": float(epoch + 1),
        } | {key: sum(each[key] for each in found) / len(found) for key in _MEANS}
        if found[-1]["shift"] > config.kl_stop:
            return metrics, True
    return metrics, False


@dataclass(frozen=True)
class _Copy:
    """Of everything that an improvement changes."""

    parameters: list[Tensor]
    optimizer: dict[str, Any]


def _parameters(state: ProximalState) -> list[Tensor]:
    return [each for group in state.optimizer.param_groups for each in group["params"]]


def _copied(state: ProximalState) -> _Copy:
    parameters = [each.detach().clone() for each in _parameters(state)]
    return _Copy(parameters, copy.deepcopy(state.optimizer.state_dict()))


@torch.no_grad()
def _put_back(state: ProximalState, before: _Copy, share: float) -> None:
    """Everything as it was, but with a share of the rates."""
    for now, was in zip(_parameters(state), before.parameters, strict=True):
        now.copy_(was)
    state.optimizer.load_state_dict(copy.deepcopy(before.optimizer))
    for group in state.optimizer.param_groups:
        group["lr"] *= share


_LEAST_SHARE, _SHRINK, _GROW = 0.03, 1.0 / 3.0, 1.5
"""Of the largest rate; and the most that a rate changes by after one improvement."""
_ATTEMPTS = 4
"""At one improvement; if the last one goes too far as well, the policy stays as it was."""


def _adapt(state: ProximalState, shift: float, target: float) -> None:
    """Rates for the next improvement: the shift grows with the square of the rate."""
    if target == 0.0:
        return
    factor = min(max(math.sqrt(target / max(shift, 1e-12)), _SHRINK), _GROW)
    for group in state.optimizer.param_groups:
        largest = group["largest_lr"]
        group["lr"] = min(max(group["lr"] * factor, _LEAST_SHARE * largest), largest)


@torch.no_grad()
def draw_chains(policy: DiffusionPolicy, condition: Tensor, generator: torch.Generator) -> Chain:
    """Decisions of the policy as it is now, every transition drawn. Conditions [D, d_c]."""
    size = policy.config.action
    noise = normal((len(condition), size.n_chunk, size.dim), generator, condition.device)
    return sample_chain(
        partial(policy.epsilon, condition=condition),
        policy.schedule,
        noise,
        generator=generator,
        deterministic=False,
    )


@torch.no_grad()
def ratio_errors(policy: DiffusionPolicy, chains: ChainBatch) -> Tensor:
    """Largest |ratio - 1| of each chain's transitions under the policy as it is, [D].

    Zero but for rounding where it drew them at these observations.
    """
    condition = encode_windows(policy, chains.visual, chains.proprio)[chains.observation]
    denoise = partial(policy.epsilon, condition=condition)
    errors = []
    for index in range(chains.log_probs.shape[1]):
        k = torch.full((len(chains),), index, device=condition.device)
        now = transition_log_prob(
            denoise, policy.schedule, k, chains.latents[:, index], chains.latents[:, index + 1]
        )
        errors.append(((now - chains.log_probs[:, index]).exp() - 1.0).abs())
    return torch.stack(errors).amax(dim=0)


@torch.no_grad()
def distance(
    policy: DiffusionPolicy, other: DiffusionPolicy, condition: Tensor, generator: torch.Generator
) -> float:
    """Symmetric KL between two policies with one encoder [nat].

    Of a transition; mean over the K of them, along chains that ``other`` draws at ``condition``
    [D, d_c].
    """
    chain, schedule = draw_chains(other, condition, generator), policy.schedule
    divergences = []
    for index, (step, t) in enumerate(zip(schedule.steps, schedule.timesteps, strict=True)):
        x = chain.latents[:, index]
        timestep = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        mean, other_mean = (
            transition_mean(step, schedule.clamp, x, each.epsilon(x, timestep, condition))
            for each in (policy, other)
        )
        divergences.append(symmetric_gaussian_kl(mean, other_mean, step.sigma).mean())
    return float(torch.stack(divergences).mean())


@torch.no_grad()
def encode_windows(policy: DiffusionPolicy, visual: Tensor, proprio: Tensor) -> Tensor:
    """Conditions of many windows on the policy's device, a bounded number at a time.

    Arguments as ``policy.encode``, on any device.
    """
    rows = _IMAGE_ROWS_PER_PASS if visual.dtype == torch.uint8 else _ROWS_PER_PASS
    parts = zip(torch.split(visual, rows), torch.split(proprio, rows), strict=True)
    return torch.cat([policy.encode(*(each.to(policy.device) for each in part)) for part in parts])


def _step(
    state: ProximalState,
    condition: Tensor,
    auxiliary: Tensor,
    latents: Tensor,
    before: Tensor,
    advantages: Tensor,
    config: ChainsConfig,
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
    step(state, loss + auxiliary, config)
    moved = ratio_statistics(log_probs, old, config.clip)
    error = float(((log_probs.detach() - old).exp() - 1.0).abs().max())
    return {
        "loss": float(loss.detach()),
        "auxiliary": float(auxiliary.detach()),
        "kl": moved.kl,
        "shift": moved.shift,
        "clipped": moved.clipped,
        "ratio_error": error,
    }


def step(state: ProximalState, loss: Tensor, config: ChainsConfig) -> None:
    """One optimiser step down a loss, with the gradient's norm bounded.

    Raises:
        LearningError: If the loss is not a number; the step is not taken then.
    """
    if not torch.isfinite(loss):
        raise LearningError(
            "the loss of a proximal step is not finite, and stepping would lose the policy; go on "
            "from the last version in another output folder with smaller rates "
            "(online.proximal.lr and online.proximal.encoder_lr, or offline.proximal.lr)"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    for group in state.optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], config.gradient_norm)
    state.optimizer.step()
