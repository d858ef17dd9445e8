# SPDX-License-Identifier: Apache-2.0
"""A model of what is seen after a decision, in the feature space of a frozen encoder.

    s' = s + scale (mu_m(s, a) + sigma_m(s, a) eps),   member m drawn per row among the elites

Fitted by the likelihood of the data; the elites are the members with the lowest error on episodes
that were held out. What leaves the range of the data is clamped to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rl100_learner.accelerator import place, reduced_precision
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.optimizers import OnStep, ignored
from rl100_learner.networks.critics import TransitionNetwork
from rl100_learner.objectives.transition import ensemble_nll
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.noise import normal


@dataclass(frozen=True)
class TransitionConfig:
    """Settings of the transition model."""

    widths: tuple[PositiveInt, ...] = (192, 192)
    members: PositiveInt = 5
    elites: PositiveInt = 3
    steps: PositiveInt = 1500
    minibatch: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the episodes whose decisions choose the elites: neighbours in time share frames."""
    margin: NonNegativeFloat = 0.25
    """Predictions are clamped to the range of the data, widened by this share of it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be chosen; raises ValueError."""
        if self.elites > self.members:
            raise ValueError(
                f"expected no more elites than members, got elites={self.elites} of "
                f"members={self.members}; set one of them"
            )


@dataclass
class TransitionModel:
    """A fitted model."""

    network: TransitionNetwork
    elites: Tensor
    """Members that are asked, [E] int64."""

    @torch.no_grad()
    def step(self, condition: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of what is seen next. [B, d_c], [B, n_c, d_a] -> [B, d_c]."""
        mean, log_variance = self.network(condition, action)
        pick = self.elites[torch.randint(len(self.elites), (len(condition),), generator=generator)]
        row = torch.arange(len(condition), device=condition.device)
        noise = normal(condition.shape, generator, condition.device)
        change = mean[pick, row] + torch.exp(0.5 * log_variance[pick, row]) * noise
        following = condition + change * self.network.scale
        return torch.maximum(torch.minimum(following, self.network.high), self.network.low)


@reduced_precision()
def fit(
    data: EncodedDecisions,
    seed: int,
    generator: torch.Generator,
    config: TransitionConfig,
    on_step: OnStep = ignored,
) -> tuple[TransitionModel, dict[str, float]]:
    """Fit a model from nothing.

    Args:
        data: All decisions that there are.
        seed: Of the initial weights.
        generator: Held-out episodes and order of the minibatches.
        config: Settings.
        on_step: Called after every one of ``config.steps``.

    Returns:
        The model, and ``loss`` (per member, last tenth of the steps), ``explained_variance`` of
        the held-out changes by the elites (1: all of it).

    Raises:
        ConfigError: If there are fewer than 2 episodes or 20 decisions.
    """
    episode = data.starts.cpu().long().cumsum(0) - 1
    episodes = int(episode[-1]) + 1
    if len(data) < _FEWEST or episodes < 2:
        raise ConfigError(
            f"a transition model needs {_FEWEST} decisions of 2 episodes, got {len(data)} of "
            f"{episodes}; collect more roll-outs"
        )
    change = data.next_condition - data.condition
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers initialise themselves from the global generator
        network = place(
            TransitionNetwork(
                data.condition.shape[1], data.action[0].numel(), config.widths, config.members
            )
        )
    network.scale.copy_(change.std(dim=0, unbiased=False).clamp_min(1e-3))
    seen = torch.cat((data.condition, data.next_condition))
    room = config.margin * (seen.amax(dim=0) - seen.amin(dim=0))
    network.low.copy_(seen.amin(dim=0) - room)
    network.high.copy_(seen.amax(dim=0) + room)
    target = change / network.scale
    count = min(max(1, round(config.held_out * episodes)), episodes - 1)
    chosen = torch.zeros(episodes, dtype=torch.bool)
    chosen[torch.randperm(episodes, generator=generator)[:count]] = True
    held, kept = (which.nonzero().flatten() for which in (chosen[episode], ~chosen[episode]))
    loss = _learn(network, data, target, kept, generator, config, on_step)
    with torch.no_grad():
        mean, _ = network(data.condition[held], data.action[held])
    errors = ((mean - target[held]) ** 2).mean(dim=(1, 2))
    elites = errors.argsort()[: config.elites]
    spread = target[held].var(dim=0, unbiased=False).mean().clamp_min(1e-12)
    left = ((mean[elites].mean(dim=0) - target[held]) ** 2).mean()
    model = TransitionModel(network.requires_grad_(False), elites)
    return model, {"loss": loss, "explained_variance": float(1.0 - left / spread)}


_FEWEST = 20


def _learn(
    network: TransitionNetwork,
    data: EncodedDecisions,
    target: Tensor,
    kept: Tensor,
    generator: torch.Generator,
    config: TransitionConfig,
    on_step: OnStep,
) -> float:
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    tail: list[float] = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1.0 - step / config.steps)
        pick = torch.randint(len(kept), (config.members, config.minibatch), generator=generator)
        rows = kept[pick]
        mean, log_variance = network(data.condition[rows], data.action[rows])
        bounds = 0.01 * (network.most.sum() - network.least.sum())
        loss = ensemble_nll(mean, log_variance, target[rows])
        optimizer.zero_grad(set_to_none=True)
        (loss + bounds).backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
        if step >= int(0.9 * config.steps):
            tail.append(float(loss.detach()) / config.members)
        on_step(step + 1, loss.detach() / config.members)
    return sum(tail) / len(tail)
