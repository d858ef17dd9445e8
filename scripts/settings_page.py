# SPDX-License-Identifier: Apache-2.0
"""The page of settings, from the dataclasses and models that declare them."""

from __future__ import annotations

import ast
import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from doc_tables import markdown, table
from environment import REPOSITORY

_ABOUT = """# Settings

Keys of the robot and task descriptions and of mapping files (YAML files), of training (`--set
key=value`, or `overrides` of the Train action), and of a policy. A misspelt key is an error. Where
a group of training settings occurs several times, a default that differs stands with its places.
`improve` knows the keys of *Online reinforcement learning alone*, whose `distillation.*` is
`online_distillation.*` elsewhere. A policy's networks are chosen by the training settings
`preset`, `n_chunk`, `network.*` and `diffusion.*` and by the task; they are written into its
version.
"""
_ALL_SETTINGS = "rl100_learner.training.algorithm_settings"
_SETTINGS_OF = {
    "Robot description": (
        "rl100_policy.core.config",
        ("RobotConfig", "ToolConfig", "CameraConfig"),
    ),
    "Task description": (
        "rl100_policy.core.config",
        (
            "TaskConfig",
            "WorkspaceBox",
            "ObservationConfig",
            "PointObservation",
            "ImageObservation",
            "StateObservation",
            "ActionConfig",
            "TeleopConfig",
        ),
    ),
    "Mapping file of imported recordings": (
        "rl100_policy.bags.foreign.mapping",
        (
            "ImportMapping",
            "JointStatesMapping",
            "CameraMapping",
            "ExtrinsicsMapping",
            "GateAction",
            "TrajectoryAction",
            "SampledAction",
            "PositionsAction",
            "LeaderAction",
            "MeasuredAction",
            "OutcomeMapping",
            "EpisodesMapping",
        ),
    ),
    "Mapping file of imported LeRobot datasets": (
        "rl100_learner.lerobot.mapping",
        ("LeRobotMapping", "StateMapping", "ActionMapping"),
    ),
    "Push-T, section `sim` of the task description": (
        "rl100_sim.tasks.push_t",
        ("PushTParameters",),
    ),
    "Training: where and how networks compute": (
        "rl100_learner.accelerator",
        ("AcceleratorSettings",),
    ),
    "Training: imitation": ("rl100_learner.training.settings", ("TrainSettings",)),
    "Training: all stages; the keys above, and": (
        "rl100_learner.training.algorithm_settings",
        ("AlgorithmSettings",),
    ),
    "Training: `diffusion.*` and `network.*`": (
        "rl100_policy.core.presets",
        ("DiffusionChoice", "NetworkChoice"),
    ),
    "Training: `imitation.*`": ("rl100_learner.algorithms.imitation", ("ImitationConfig",)),
    "Training: `distillation.*`, `candidate_distillation.*`, `online_distillation.*`": (
        "rl100_learner.algorithms.distillation",
        ("DistillationConfig", "FramesDistillationConfig"),
    ),
    "Training: `*.optimizer.*`": (
        "rl100_learner.algorithms.optimizers",
        ("OptimizerConfig",),
    ),
    "Offline reinforcement learning: `critics.*`": (
        "rl100_learner.algorithms.critics",
        ("CriticConfig", "QConfig"),
    ),
    "Offline reinforcement learning: `transition.*`": (
        "rl100_learner.algorithms.transition",
        ("TransitionConfig",),
    ),
    "Offline reinforcement learning: `offline.*` and `offline.gate.*`": (
        "rl100_learner.algorithms.offline",
        ("OfflineConfig", "GateConfig"),
    ),
    "Online reinforcement learning alone": (
        "rl100_learner.training.online_run",
        ("OnlineSettings",),
    ),
    "Online reinforcement learning: `online.*` and `online.replay.*`": (
        "rl100_learner.algorithms.online",
        ("OnlineConfig", "ReplayConfig"),
    ),
    "Reinforcement learning: `online.proximal.*` and `offline.proximal.*`": (
        "rl100_learner.algorithms.proximal",
        ("ChainsConfig",),
    ),
    "Online reinforcement learning: `online.proximal.*` alone": (
        "rl100_learner.algorithms.proximal",
        ("ProximalConfig",),
    ),
    "Online reinforcement learning: `online.proximal.auxiliary.*`": (
        "rl100_learner.algorithms.auxiliary",
        ("AuxiliaryWeights",),
    ),
    "Reinforcement learning: `online.value.*` and `critics.returns.*`": (
        "rl100_learner.algorithms.value",
        ("ValueConfig",),
    ),
    "Policy: the defaults are the preset `small`": (
        "rl100_policy.core.policy_config",
        (
            "PolicyConfig",
            "ObservationSize",
            "ActionSize",
            "PointEncoderConfig",
            "StateEncoderConfig",
            "ImageEncoderConfig",
            "ResNet18Config",
            "VitConfig",
            "ResidualMlpConfig",
            "UNet1dConfig",
            "SkipNetConfig",
            "DiffusionConfig",
        ),
    ),
}


def sections(settings: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted place of every section within settings, and the section; themselves first."""
    yield prefix, settings
    of_model: dict[str, Any] = getattr(type(settings), "model_fields", {})
    names = [each.name for each in fields(settings)] if is_dataclass(settings) else list(of_model)
    for name in names:
        value = getattr(settings, name)
        if is_dataclass(value) or isinstance(value, BaseModel):
            yield from sections(value, f"{prefix}{name}.")


def defaults_at(places: Mapping[str, object], key: str) -> str:
    """Default of a key wherever its section stands; nothing where it is a section itself."""
    values: dict[str, list[str]] = defaultdict(list)
    for prefix, section in places.items():
        value = getattr(section, key)
        if is_dataclass(value) or isinstance(value, BaseModel):
            return f"`{type(value).__name__}`"
        values[repr(float(f"{value:.6g}")) if isinstance(value, float) else repr(value)].append(
            prefix
        )
    if len(values) == 1:
        return f"`{next(iter(values))}`"
    return "<br>".join(
        f"`{value}`: " + ", ".join(f"`{prefix.rstrip('.')}`" for prefix in prefixes)
        for value, prefixes in values.items()
    )


_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
_BOUNDED = {
    "PositiveInt": "int > 0", "NonNegativeInt": "int >= 0",
    "PositiveFloat": "float > 0", "NonNegativeFloat": "float >= 0",
}  # fmt: skip


def type_of(annotation: ast.expr, known: Mapping[str, object]) -> str:
    """A type with its bounds, as a person would write them.

    Args:
        annotation: Of a field.
        known: What the names in the bounds are.
    """
    match annotation:
        case ast.Subscript(ast.Name("Annotated"), ast.Tuple([kind, ast.Call(keywords=bounds)])):
            told = [
                f"{_BOUNDS[each.arg]} {eval(ast.unparse(each.value), dict(known))}"
                for each in bounds
                if each.arg in _BOUNDS
            ]
            return " ".join([type_of(kind, known), ", ".join(told)]).strip()
    text = ast.unparse(annotation)
    return _BOUNDED.get(text, text)


def declared(
    source: str, class_name: str, places: Mapping[str, object], known: Mapping[str, object]
) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and docstring of each field of a class, from its source.

    Defaults are those of the sections at ``places``, where there are any; ``known`` are the names
    of its module.
    """
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (kind,) = [node for node in classes if node.name == class_name]
    for statement, following in zip(kind.body, [*kind.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or "ClassVar" in ast.unparse(
            statement.annotation
        ):
            continue
        documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        doc = markdown(str(following.value.value)) if documented else ""  # type: ignore[union-attr]
        default = f"`{ast.unparse(statement.value)}`" if statement.value else "required"
        name, kind_of = ast.unparse(statement.target), type_of(statement.annotation, known)
        if places:
            default = defaults_at(places, name)
        yield f"`{name}`", f"`{kind_of}`", default, doc


def bases(source: str, class_name: str) -> list[str]:
    """Classes of settings whose keys a class has too."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (kind,) = [node for node in nodes if node.name == class_name]
    names = [ast.unparse(base) for base in kind.bases]
    return [name for name in names if name not in ("FrozenModel", "BaseModel")]


def settings_section(module: str, names: Sequence[str]) -> str:
    """Tables of some classes of a module."""
    path = REPOSITORY / "src" / module.partition(".")[0] / f"{module.replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    everywhere = dict(sections(importlib.import_module(_ALL_SETTINGS).AlgorithmSettings()))
    parts = []
    for name in names:
        kind = getattr(importlib.import_module(module), name)
        places = {at: each for at, each in everywhere.items() if isinstance(each, kind)}
        inherited = ", ".join(f"`{base}`" for base in bases(source, name))
        more = f", with the keys of {inherited}" if inherited else ""
        parts += [f"### {name}\n", f"`{module}.{name}`{more}\n"]
        parts.append(
            table(
                ["key", "type", "default", ""],
                declared(source, name, places, vars(sys.modules[module])),
            )
        )
    return "\n".join(parts)


def settings_page(head: str) -> str:
    """The content of docs/settings.md, after a head."""
    parts = [head + _ABOUT]
    for title, (module, names) in _SETTINGS_OF.items():
        parts += [f"## {title}\n", settings_section(module, names)]
    return "\n".join(parts)
