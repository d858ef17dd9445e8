# SPDX-License-Identifier: Apache-2.0
"""A policy made ready to drive: it decides about one window at a time, with little between layers.

A frame is encoded once, when it comes, and what came of it is kept as long as a window may hold
it: a decision waits for the newest frame's encoding alone. The networks are graphs for the one
shape they are given here (:mod:`rl100_policy.core.traced`), which leaves out what Python does
between two layers; each layer computes what it computed before. What cannot be traced is run as it
is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl100_policy.core.observation import Frame
from rl100_policy.core.policy import Decision, DiffusionPolicy, Networks, Sampler
from rl100_policy.core.traced import Network, trace

_KEPT = 64
"""Encoded frames: more than a window holds of a camera ten times as fast as the control rate."""


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
            kind = type(network), self._policy.config.model_dump_json()
            return trace(network.eval(), *example, kind=kind)
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
