# SPDX-License-Identifier: Apache-2.0
"""Networks as graphs without their Python, one for every version of the same configuration.

A graph takes the weights as inputs, so that it is traced once and the next version brings its own.
A graph for each version would stay in the process for good, with its weights: torch keeps what
was traced from a module (torch 2.13: 4.5 MB a version of the small preset).
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_RUNS_BEFORE_FAST = 3
"""A graph looks at its first runs before it settles how to run."""
_APART = 1e-5
"""Largest difference between graph and network, in units of their outputs."""

Network = Callable[..., Any]

_graphs: dict[Hashable, Any] = {}
"""As many as there are configurations, for as long as the process lives."""
_tracing = threading.Lock()


@torch.no_grad()
def trace(network: nn.Module, *example: Tensor, kind: Hashable) -> Network:
    """A network as a graph, for inputs shaped like the examples.

    Args:
        network: In evaluation mode; its weights are used, not copied.
        example: Its inputs.
        kind: Equal for networks that do the same with other weights.

    Raises:
        ValueError: If the graph gives something else than the network.
        RuntimeError: If it cannot be traced; torch raises TypeError and NotImplementedError, too.
    """
    weights = _weights(network)
    with _tracing:
        if kind not in _graphs:
            _graphs[kind] = _graph(network, list(weights), example)
        graph = _graphs[kind]
    values = tuple(value.detach() for value in weights.values())
    other = [each + 0.1 if each.is_floating_point() else each for each in example]
    for _ in range(_RUNS_BEFORE_FAST):
        pairs = zip(_tensors(graph(*other, *values)), _tensors(network(*other)), strict=True)
        apart = max(float((found - expected).abs().max()) for found, expected in pairs)
        if not apart <= _APART:
            raise ValueError(f"its graph differs from it by {apart:.2g}")
    return lambda *inputs: graph(*inputs, *values)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tensor of two names is there twice."""
    named = chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    )
    return dict(named)


def _graph(network: nn.Module, names: Sequence[str], example: tuple[Tensor, ...]) -> Any:
    """Trace a twin of the network whose weights are inputs after its own."""
    twin, own = copy.deepcopy(network), len(example)
    slots = []
    for name in names:
        place, _, leaf = name.rpartition(".")
        owner = twin.get_submodule(place)
        owner._parameters.pop(leaf, None)
        owner._buffers.pop(leaf, None)
        slots.append((owner, leaf))

    def run(*inputs: Tensor) -> Any:
        for (owner, leaf), value in zip(slots, inputs[own:], strict=True):
            owner.__dict__[leaf] = value
        return twin(*inputs[:own])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation, and of shapes that become constants
        graph: Any = torch.jit.trace(  # type: ignore[no-untyped-call]  # torch leaves it so
            run, (*example, *_weights(network).values()), check_trace=False
        )
    for owner, leaf in slots:  # the graph keeps what it was traced from
        owner.__dict__.pop(leaf)
    return graph


def _tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result
