# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run, and ``key=value`` changes to them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from rl100_learner.accelerator import AcceleratorSettings
from rl100_learner.algorithms.distillation import FramesDistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_policy.core.config import FrozenModel, validation_problems
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.presets import DiffusionChoice, NetworkChoice


class TrainSettings(AcceleratorSettings):
    """Everything that decides the weights, besides the episodes; durations are in steps.

    Equal settings, episodes, machine type and thread count give equal weights, with the defaults
    of :class:`AcceleratorSettings` bit for bit.
    """

    seed: int = 0
    preset: Literal["small", "paper", "paper_single"] = "small"
    """Sizes of the networks; where critics and a model are learned too, of these as well."""
    n_chunk: Annotated[int, Field(ge=1)] = 8
    """Actions per decision."""
    episodes: Literal["all", "success"] = "success"
    """Which episodes to imitate: those labelled a success, or all of them."""
    accept_other_setup: bool = False
    """Also use bags recorded with another tool, base frame, joints, locked joints or control
    period than the robot description says, as if they had been recorded with it."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads per tensor operation; part of what makes a run repeatable bit for bit."""
    diffusion: DiffusionChoice = DiffusionChoice()
    network: NetworkChoice = NetworkChoice()
    imitation: ImitationConfig = ImitationConfig()
    distillation: FramesDistillationConfig = FramesDistillationConfig()
    log_every: Annotated[int, Field(ge=1)] = 25
    """Steps between two rows of metrics; a row is the mean over them."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] = 10.0
    """Most work lost by a kill [s], or that of ``log_every`` steps where these take longer."""


_Settings = TypeVar("_Settings", bound=FrozenModel)


def with_overrides(settings: _Settings, overrides: Sequence[str]) -> _Settings:
    """Settings with changes such as ``seed=3`` or ``imitation.optimizer.muon_lr=0.01`` applied.

    A change may imply others, such as that of the preset the sizes of what learns beside the
    policy; what is said of these in another change holds.

    Raises:
        ConfigError: If an entry is not ``key=value``, or a key or value is not valid.
    """
    tree: dict[str, Any] = settings.model_dump(mode="json")
    implied: Callable[[Mapping[str, str]], Sequence[str]] = getattr(settings, "implied", _nothing)
    said = {key.strip(): text.strip() for key, _, text in (e.partition("=") for e in overrides)}
    for entry in (*implied(said), *overrides):
        key, separator, text = entry.partition("=")
        if not separator:
            raise ConfigError(
                f"expected a setting as key=value, for example imitation.steps=500, got {entry!r}"
            )
        *path, leaf = key.strip().split(".")
        node: Any = tree
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise ConfigError(_no_such_key(key.strip(), tree))
        try:
            node[leaf] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"setting {entry!r}: value is not valid YAML: {error}") from error
    try:
        return type(settings).model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"invalid settings: {validation_problems(error)}") from error


def _nothing(_: Mapping[str, str]) -> Sequence[str]:
    """What changes imply where the settings do not say."""
    return ()


def _no_such_key(key: str, tree: dict[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(flattened(tree)), n=3)
    meant = f"did you mean {', '.join(near)}? All" if near else "all"
    return f"there is no setting {key!r}; {meant} are in docs/settings.md"


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested settings by their dotted keys, as :func:`with_overrides` takes them."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
