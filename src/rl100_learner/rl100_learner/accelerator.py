# SPDX-License-Identifier: Apache-2.0
"""Where and how networks compute while they learn: device, precision, compilation.

Frames stay in host memory and minibatches move; networks, encoded features and optimisers are on
the device. Random numbers come from CPU generators everywhere (``rl100_policy.core.noise``), and
what is written to disk is written from the CPU.

Regressions (imitation, distillation, offline critics, transition model) may compute in bfloat16.
Proximal steps, the critics online, the estimate J and acting do not: a rounded mean, divided by
the small deviation of a transition, moves the likelihood ratio by as much as the clip range allows
(``bench/precision.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from rl100_policy.core.config import FrozenModel
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.precision import networks_in

DeviceChoice = Literal["cpu", "cuda", "auto"]
Precision = Literal["float32", "bf16"]
_CPU = torch.device("cpu")
_Network = TypeVar("_Network", bound=nn.Module)
_Batch = TypeVar("_Batch")


class AcceleratorSettings(FrozenModel):
    """Where and how networks compute; runs with the defaults are repeatable bit for bit."""

    device: DeviceChoice = "cpu"
    """Where networks learn: ``cpu``, ``cuda``, or ``auto``, which is the GPU if there is one. A
    policy that acts in the simulation while it learns online acts there too."""
    precision: Precision = "float32"
    """What networks compute in, ``float32`` or ``bf16``, while they are fitted to targets:
    imitation, distillation, offline critics, transition model. Weights, losses, likelihoods and
    everything else stay float32."""
    compile: bool = False
    """Compile denoiser, student, critics and model with torch.compile: slower to begin, faster per
    step where networks are large. Needs a C++ compiler."""

    @property
    def acceleration(self) -> dict[str, Any]:
        """These keys with their values, for other settings that have them too."""
        return {key: getattr(self, key) for key in AcceleratorSettings.model_fields}


@dataclass(frozen=True)
class Accelerator:
    """Resolved settings.

    Attributes:
        device: With its index, if it is a GPU.
        precision: Of regressions.
        compile: Whether networks are compiled.
    """

    device: torch.device = _CPU
    precision: Precision = "float32"
    compile: bool = False


_CURRENT: ContextVar[Accelerator | None] = ContextVar("accelerator", default=None)


def current() -> Accelerator:
    """The accelerator of the running stage; the CPU outside of any."""
    return _CURRENT.get() or Accelerator()


@contextmanager
def accelerated(settings: AcceleratorSettings, local_rank: int = 0) -> Iterator[Accelerator]:
    """Learn on what the settings ask for, for as long as the context lasts.

    Args:
        settings: What is asked for.
        local_rank: Which of the machine's GPUs.

    Raises:
        ConfigError: If there is no such GPU, or nothing can be compiled here.
    """
    device = choose_device(settings.device, local_rank)
    if settings.compile:
        _require_compiler(device)
    token = _CURRENT.set(Accelerator(device, settings.precision, settings.compile))
    try:
        with _exact_float32():
            yield current()
    finally:
        _CURRENT.reset(token)


def choose_device(choice: DeviceChoice, local_rank: int = 0) -> torch.device:
    """The device that a setting means on this machine.

    Raises:
        ConfigError: If it is a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "cpu" or (choice == "auto" and count == 0):
        return torch.device("cpu")
    if local_rank >= count:
        made_for = torch.version.cuda or "the CPU only"
        raise ConfigError(
            f"device={choice} needs GPU number {local_rank}, found {count} GPUs; torch "
            f"{torch.__version__} is made for {made_for}: install a torch for CUDA, start fewer "
            "processes, or set device=cpu"
        )
    return torch.device("cuda", local_rank)


def place(network: _Network) -> _Network:
    """Bring a network to the current device, compiled if asked; in place, before its optimiser.

    Of a policy denoiser and student are compiled; the number of points that its encoder computes
    on differs from batch to batch. A copy of a compiled network is not compiled.
    """
    accelerator = current()
    network.to(accelerator.device)
    if accelerator.compile:
        parts: tuple[nn.Module, ...] = (network,)
        if isinstance(network, DiffusionPolicy):
            parts = network.denoiser, network.student
        for part in parts:
            part.compile()
    return network


@contextmanager
def reduced_precision() -> Iterator[None]:
    """In its context, networks compute in the precision that regressions are allowed."""
    with networks_in(torch.bfloat16 if current().precision == "bf16" else None):
        yield


def moved(batch: _Batch, device: torch.device) -> _Batch:
    """A dataclass of tensors on another device; itself where it is there already."""
    parts: dict[str, Any] = {each.name: getattr(batch, each.name) for each in fields(batch)}  # type: ignore[arg-type]
    if all(part.device == device for part in parts.values() if isinstance(part, Tensor)):
        return batch
    there = {
        name: part.to(device) if isinstance(part, Tensor) else part for name, part in parts.items()
    }
    return replace(batch, **there)  # type: ignore[type-var]


@contextmanager
def _exact_float32() -> Iterator[None]:
    """float32 is float32 on GPUs too, not TF32: ratios of likelihoods are read from it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _require_compiler(device: torch.device) -> None:
    probe = torch.compile(lambda x: torch.sin(x) + 1.0, fullgraph=True)
    try:
        probe(torch.zeros(8, device=device))
    except Exception as error:  # whatever compiler, linker or driver raise
        raise ConfigError(
            f"compile=true needs what torch.compile needs on {device.type}: a C++ compiler (g++, "
            f"or the one that CXX names) and, on a GPU, triton; it failed here with "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]}; install it, or set "
            "compile=false"
        ) from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Threads per tensor operation for as long as the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
