# SPDX-License-Identifier: Apache-2.0
"""Optimisers of the suite: Muon for weight matrices inside a network, AdamW for everything else.

Muon here is float32 and treats equal shapes as one batch. ``torch.optim.Muon`` orthogonalises in
bfloat16, which takes 16 times longer than float32 on CPUs without bfloat16 units, and one matrix
at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.optim import Optimizer

OnStep = Callable[[int, Tensor], None]
"""Told of every optimiser step, from 1, and its loss."""


def ignored(step: int, loss: Tensor) -> None:  # an OnStep
    """Nobody is told."""


QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration X <- a X + (b G + c G^2) X with G = X X^T, steep at zero
singular values."""


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Push all singular values towards 1, keeping singular vectors. [n, r, c] -> [n, r, c].

    After four steps singular values of a matrix scaled to Frobenius norm 1 lie roughly within
    [0.7, 1.2] unless they started very small; the zero matrix stays zero.

    Source: Newton-Schulz iteration with the quintic of Jordan et al. 2024 (Muon).
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(Optimizer):
    """Nesterov momentum whose update is orthogonalised; for 2-D weights inside a network.

    W <- W - lr sqrt(max(1, rows / columns)) orthogonalise(g + m B),   B <- m B + g     (B:
    momentum, no weight decay)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        newton_schulz_steps: int = 4,
    ) -> None:
        """Take 2-D parameters only.

        Raises:
            ValueError: If a parameter is not 2-D.
        """
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "newton_schulz_steps": newton_schulz_steps}
        )
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(
                        f"Muon takes matrices, got shape {tuple(p.shape)}; give it to AdamW"
                    )

    @torch.no_grad()
    def step(  # type: ignore[override]  # one signature for the two overloads of the base class
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                self._update(params, shape, group)
        return loss

    def _update(self, params: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        gradients = [p.grad for p in params if p.grad is not None]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        nesterov = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        direction = orthogonalise(torch.stack(nesterov), group["newton_schulz_steps"])
        scale = math.sqrt(max(1.0, shape[0] / shape[1]))
        torch._foreach_add_(params, list(direction.unbind()), alpha=-group["lr"] * scale)


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates and schedule of the pair of optimisers."""

    muon_lr: NonNegativeFloat = 0.02
    """0 gives every parameter to AdamW."""
    adamw_lr: PositiveFloat = 1e-3
    adamw_betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: NonNegativeFloat = 1e-6
    """Of AdamW; Muon has none."""
    warmup_steps: NonNegativeInt = 100
    final_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """Learning rate at the end, as a share of the peak."""


class OptimizerPair:
    """Muon and AdamW stepped together on a common schedule."""

    def __init__(self, config: OptimizerConfig, networks: Iterable[nn.Module], steps: int) -> None:
        """Split the parameters of ``networks``, trained for ``steps`` steps in all."""
        self._config, self._steps = config, steps
        matrices, others = (
            split_parameters(networks) if config.muon_lr > 0 else ([], _parameters(networks))
        )
        adamw = torch.optim.AdamW(
            others,
            lr=config.adamw_lr,
            betas=config.adamw_betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._parts: list[tuple[Optimizer, float]] = [(adamw, config.adamw_lr)]
        if matrices:
            self._parts.append((Muon(matrices, lr=config.muon_lr), config.muon_lr))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer, _ in self._parts:
            optimizer.zero_grad(set_to_none=True)

    def step(self, step: int) -> float:
        """Update at 0-based ``step``; returns the share of the peak learning rate used."""
        share = learning_rate_share(
            step, self._steps, self._config.warmup_steps, self._config.final_share
        )
        for optimizer, peak in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
        return share

    def state_dict(self) -> dict[str, Any]:
        """State of both optimisers."""
        return {str(i): optimizer.state_dict() for i, (optimizer, _) in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both optimisers."""
        for i, (optimizer, _) in enumerate(self._parts):
            optimizer.load_state_dict(state[str(i)])


def learning_rate_share(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    """Linear warm-up to 1, then half a cosine down to ``final_share`` at the last step."""
    warmup = min(warmup_steps, max(1, steps // 5))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _parameters(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [p for network in networks for p in network.parameters()]


def split_parameters(networks: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices for Muon and the rest for AdamW.

    Muon gets every 2-D weight except those that read raw coordinates or write physical output:
    linear layers with fewer than 16 inputs or whose module is called "output". Convolutions,
    biases and norms go to AdamW.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for network in networks:
        for name, p in network.named_parameters():
            inner = p.dim() == 2 and p.shape[1] >= 16 and "output" not in name.split(".")
            (matrices if inner else others).append(p)
    return matrices, others
