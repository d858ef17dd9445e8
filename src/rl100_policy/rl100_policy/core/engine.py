# SPDX-License-Identifier: Apache-2.0
"""A policy made ready to drive: it decides about one window at a time, with little between layers.

A frame is encoded once, when it comes, and what came of it is kept as long as a window may hold
it: a decision waits for the newest frame's encoding alone. The networks are traced for the one
shape they are given here, which leaves out what Python does between two layers; each layer
computes what it computed before. What cannot be traced is run as it is.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl100_policy.core.observation import Frame
from rl100_policy.core.policy import Decision, DiffusionPolicy, Networks, Sampler

_KEPT = 64
"""Encoded frames: more than a window holds of a camera ten times as fast as the control rate."""
_RUNS_BEFORE_FAST = 3
"""A traced network looks at its first runs before it settles how to run."""
_APART = 1e-5
"""Largest difference between traced and plain networks, in units of their outputs."""

Network = Callable[..., Any]


class _FrameEncoder(nn.Module):
    """[1, ...] and [1, d_q] to [1, frame_dim]."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, visual: Tensor, proprio: Tensor) -> Tensor:
        return self.policy.encode_frames(visual, proprio)


class _Student(nn.Module):
    """As :meth:`DiffusionPolicy.act_at_once`."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x_start: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.policy.act_at_once(x_start, condition)


class _Teacher(nn.Module):
    """As :meth:`DiffusionPolicy.epsilon`."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        return self.policy.epsilon(x, timestep, condition)


class Engine:
    """One policy and one sampler. Not thread-safe: called from one worker thread.

    Attributes:
        plain: Why networks are run as they are, for people; empty if they are traced.
    """

    @torch.no_grad()
    def __init__(self, policy: DiffusionPolicy, sampler: Sampler, *, traced: bool = True) -> None:
        """Trace what this sampler needs.

        Args:
            policy: In evaluation mode, on the CPU.
            sampler: How it is going to decide.
            traced: False runs every network as it is, which is the reference.
        """
        self._policy, self._sampler = policy, sampler
        self._kept: OrderedDict[int, tuple[Frame, Tensor]] = OrderedDict()
        size = policy.config
        blank = torch.from_numpy(size.observation.blank())[None]
        self._seen = blank.shape
        proprio = torch.zeros(1, size.observation.proprio_dim)
        x = torch.zeros(1, size.action.n_chunk, size.action.dim)
        condition = torch.zeros(1, policy.condition_dim)
        self.plain = "" if traced else "not asked for"
        self._encode = self._made(_FrameEncoder(policy), blank, proprio)
        self._networks = Networks(policy.epsilon, policy.act_at_once)
        if sampler == "one_step":
            student = self._made(_Student(policy), x, condition)
            self._networks = Networks(policy.epsilon, student)
        else:
            first = torch.full((1,), policy.schedule.timesteps[0])
            teacher = self._made(_Teacher(policy), x, first, condition)
            self._networks = Networks(teacher, policy.act_at_once)

    def _made(self, network: nn.Module, *example: Tensor) -> Network:
        """A network traced, or as it is where that cannot be."""
        if self.plain:
            return network
        try:
            return _traced(network, *example)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            self.plain = f"{type(network).__name__.strip('_')} cannot be traced: {reason}"
            return network

    @torch.no_grad()
    def encode(self, frame: Frame) -> Tensor:
        """One frame after the encoder, [1, frame_dim]; kept for the windows that hold it.

        Raises:
            ObservationError: If its shape or type is not the policy's, or a value is not finite.
        """
        kept = self._kept.get(id(frame))
        if kept is not None:
            return kept[1]
        visual = torch.from_numpy(frame.visual)[None]
        proprio = torch.from_numpy(frame.proprio)[None]
        self._policy.check_frames(visual, proprio)
        as_traced = visual.shape == self._seen
        features = (self._encode if as_traced else self._policy.encode_frames)(visual, proprio)
        self._kept[id(frame)] = frame, features  # the frame, too, so that nothing takes its id
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return features

    @torch.no_grad()
    def condition(self, frames: Sequence[Frame]) -> Tensor:
        """Condition vector of a window, oldest frame first, [1, d_c]; raises as :meth:`encode`."""
        return torch.cat([self.encode(frame) for frame in frames], dim=1)

    @torch.no_grad()
    def decide(self, condition: Tensor, *, noise_seed: int, deterministic: bool) -> Decision:
        """As :meth:`DiffusionPolicy.decide_encoded`, of one window."""
        return self._policy.decide_encoded(
            condition,
            sampler=self._sampler,
            noise_seed=noise_seed,
            deterministic=deterministic,
            networks=self._networks,
        )


def _traced(network: nn.Module, *example: Tensor) -> Network:
    """A network as a graph without its Python, for inputs shaped like these.

    Raises:
        ValueError: If the graph gives something else than the network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation, and of shapes that become constants
        script: Any = torch.jit.trace(  # type: ignore[no-untyped-call]  # torch leaves it so
            network.eval(), example, check_trace=False
        )
        graph: Any = torch.jit.freeze(script)
    other = [each + 0.1 if each.is_floating_point() else each for each in example]
    for _ in range(_RUNS_BEFORE_FAST):
        pairs = zip(_tensors(graph(*other)), _tensors(network(*other)), strict=True)
        apart = max(float((found - expected).abs().max()) for found, expected in pairs)
        if not apart <= _APART:
            raise ValueError(f"its graph differs from it by {apart:.2g}")
    return graph  # type: ignore[no-any-return]


def _tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result
