# SPDX-License-Identifier: Apache-2.0
"""Policy versions on disk: a folder with weights, configuration and a manifest of its origin.

    <folder>/weights.safetensors   parameters and the normaliser
    <folder>/config.json           PolicyConfig
    <folder>/manifest.json         Manifest; holds the SHA-256 of the other two and of itself

A version is written once, under a temporary name, and renamed when complete. Loading checks
everything and executes
nothing: no pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import FiniteFloat, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rl100_policy.core.config import (
    AnyTask,
    BenchmarkTask,
    FrozenModel,
    ImageObservation,
    RobotConfig,
    TaskConfig,
)
from rl100_policy.core.errors import ConfigError, PolicyVersionError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import PolicyConfig
from rl100_policy.core.sight import observation_size, sight_camera

WEIGHTS, CONFIG, MANIFEST = "weights.safetensors", "config.json", "manifest.json"
_LARGEST_MANIFEST, _LARGEST_FILE = 2**24, 2**33
"""More is no manifest, and no version [B]."""
_BEYOND = 3.0
"""Decided actions may reach this many times what the task allows."""
_VIEW = {"width", "height", "fx", "fy", "cx", "cy", "xyz", "rpy"}
"""Of a camera: what decides where things are in its images."""


class BagReference(FrozenModel):
    """An episode that this version learned from."""

    id: str
    sha256: str
    """Hash of the bag, or of the episode's arrays if it never was in a bag."""


class FileRecord(FrozenModel):
    """A file of the version."""

    sha256: str
    size: int
    """Length [byte]."""


class Manifest(FrozenModel):
    """What a policy version is, what it was made for and what it was made from."""

    format: Literal[2] = 2
    """1 had another activation in the residual MLP."""
    name: str
    family: str
    """Generative family, as in the configuration; versions of different families are never
    mixed."""
    created: str
    """UTC, ISO 8601."""
    task: AnyTask
    robot: RobotConfig | None
    """None of a benchmark."""
    parents: tuple[str, ...]
    """The versions that this one was trained from, by name and digest as in ``reference``; one
    that acts in an iteration of online learning names its stage's by name alone."""
    bags: tuple[BagReference, ...]
    metrics: dict[str, FiniteFloat]
    training: dict[str, Any]
    """Resolved training settings."""
    files: dict[str, FileRecord]
    digest: str = ""
    """SHA-256 of this manifest with an empty digest, as canonical JSON."""

    @property
    def reference(self) -> str:
        """Name and the beginning of the digest: no other version has it, whatever its name."""
        return f"{self.name}@{self.digest[:8]}"

    def computed_digest(self) -> str:
        """What ``digest`` must be."""
        plain = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()


def write_version(
    folder: Path,
    policy: DiffusionPolicy,
    *,
    task: AnyTask,
    robot: RobotConfig | None,
    parents: Sequence[str],
    bags: Sequence[BagReference],
    metrics: Mapping[str, float],
    training: Mapping[str, Any],
) -> Manifest:
    """Write a version; its name is the folder's name.

    The folder appears complete or not at all. Blocks until the data is on disk.

    Raises:
        PolicyVersionError: If the folder exists (versions never change) or a weight is not finite.
    """
    folder = Path(folder)
    if folder.exists():
        raise PolicyVersionError(
            f"{folder} exists already and versions never change; choose another folder"
        )
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in policy.state_dict().items()
    }
    _require_finite(tensors, str(folder))
    payload = {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: policy.config.model_dump_json(indent=2).encode(),
    }
    manifest = Manifest(
        name=folder.name,
        family=policy.config.family,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=task,
        robot=robot,
        parents=tuple(parents),
        bags=tuple(bags),
        metrics=dict(metrics),
        training=dict(training),
        files={
            name: FileRecord(sha256=_sha256(data), size=len(data))
            for name, data in payload.items()
        },
    )
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    payload[MANIFEST] = manifest.model_dump_json(indent=2).encode()
    _write_folder(folder, payload)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest alone, without weights.

    Raises:
        PolicyVersionError: If it is missing, truncated, altered or from another format.
    """
    data = _read(Path(folder), MANIFEST)
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise PolicyVersionError(
            f"{folder}/{MANIFEST} is damaged or of another format; copy it again: {error}"
        ) from error
    if manifest.digest != manifest.computed_digest():
        raise PolicyVersionError(
            f"{folder}/{MANIFEST} was altered: its digest does not match; copy the version again"
        )
    return manifest


def load_version(folder: Path) -> tuple[DiffusionPolicy, Manifest]:
    """Load a version, in eval mode on the CPU, after checking every byte of it.

    Raises:
        PolicyVersionError: If a file is missing, truncated or altered, a weight is missing,
            unknown, misshapen or not finite, family and configuration disagree, or its networks
            cannot be built on this machine.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if set(manifest.files) != {WEIGHTS, CONFIG}:
        raise PolicyVersionError(
            f"{folder}/{MANIFEST} should list {WEIGHTS} and {CONFIG}, found "
            f"{sorted(manifest.files)}"
        )
    data = {name: _verified(folder, name, record) for name, record in manifest.files.items()}
    try:
        config = PolicyConfig.model_validate_json(data[CONFIG])
    except ValidationError as error:
        raise PolicyVersionError(
            f"{folder}/{CONFIG} is not a usable policy configuration: {error}"
        ) from error
    if config.family != manifest.family:
        raise PolicyVersionError(
            f"{folder}: manifest says family {manifest.family!r}, {CONFIG} says "
            f"{config.family!r}; train the version again"
        )
    try:
        tensors = _tensors(data[WEIGHTS])
    except SafetensorError as error:
        raise PolicyVersionError(
            f"{folder}/{WEIGHTS} is not a safetensors file: {error}"
        ) from error
    _require_finite(tensors, str(folder))
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes the configuration names
            skeleton = DiffusionPolicy(config, pretrained=False)
        _require_same(skeleton.state_dict(), tensors, folder)
        policy = DiffusionPolicy(config, pretrained=False)
    except ConfigError as error:
        raise PolicyVersionError(f"cannot build the networks of {folder}: {error}") from error
    policy.load_state_dict(dict(tensors), strict=True)
    return policy.eval(), manifest


def check_sizes(config: PolicyConfig, task: TaskConfig, robot: RobotConfig, name: str) -> None:
    """Refuse networks that see or decide something else than the task and robot say.

    Raises:
        PolicyVersionError: Naming what disagrees.
    """
    seen = observation_size(task, robot)
    if config.observation != seen:
        raise PolicyVersionError(
            f"version {name!r} observes {config.observation}, this system {seen}; load a version "
            "made for it or train one"
        )
    if config.action.dim != task.action.dim:
        raise PolicyVersionError(
            f"version {name!r} decides {config.action.dim} numbers per action, the task has "
            f"{task.action.dim}; load a version made for it or train one"
        )


def check_scale(policy: DiffusionPolicy, task: TaskConfig, name: str) -> None:
    """Refuse actions whose scale is far beyond what the task allows.

    Raises:
        PolicyVersionError: Naming what was expected and what came.
    """
    scale = policy.normalizer.action
    centre, half = scale.centre.abs().numpy(), scale.half_range.abs().numpy()
    bound = np.maximum(np.abs(task.action.low), np.abs(task.action.high))
    varies = half != 1.0  # what never changed has a half range of 1
    if ((centre + np.where(varies, half, 0.0)) > _BEYOND * bound).any():
        raise PolicyVersionError(
            f"version {name!r} decides actions of up to {(centre + half).tolist()}, the task "
            f"allows {bound.tolist()}; was it trained with these units?"
        )


def check_fits(manifest: Manifest, task: TaskConfig, robot: RobotConfig) -> None:
    """Refuse a version made for other observations or actions, or for another arm.

    Compared are name, observation, action and crop of the task, and name and
    :attr:`RobotConfig.setup` of the robot. Of a task that observes images, also what decides where
    things are in them: size, intrinsics and pose of the camera.

    Raises:
        PolicyVersionError: Naming the first thing that disagrees.
    """
    made = manifest.task
    if isinstance(made, BenchmarkTask) or manifest.robot is None:
        raise PolicyVersionError(
            f"version {manifest.name!r} was trained for {made.name!r} of a benchmark, this system "
            f"is a robot ({robot.name!r}); load a version made for it or train one"
        )
    pairs: dict[str, tuple[object, object]] = {
        "task": (made.name, task.name),
        "robot": (manifest.robot.name, robot.name),
        "task.observation": (made.observation, task.observation),
        "task.action": (made.action, task.action),
        "task.crop": (made.crop, task.crop),
    }
    of_version = manifest.robot.setup
    pairs |= {f"robot.{key}": (of_version[key], value) for key, value in robot.setup.items()}
    if isinstance(task.observation, ImageObservation) and made.observation == task.observation:
        views = (_view(made, manifest.robot), _view(task, robot))
        pairs |= {f"camera.{key}": (views[0].get(key), views[1].get(key)) for key in sorted(_VIEW)}
    for key, (made_for, running) in pairs.items():
        if made_for != running:
            raise PolicyVersionError(
                f"version {manifest.name!r} was trained with {key} = {made_for}, this system has "
                f"{running}; load a version made for it or train one"
            )


def _view(task: TaskConfig, robot: RobotConfig) -> dict[str, Any]:
    try:
        camera = sight_camera(task, robot)
    except ConfigError as error:
        raise PolicyVersionError(f"{error}, and {task.name!r} is seen with it") from error
    return camera.model_dump(include=_VIEW) if camera else {}


def _require_same(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    missing, extra = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    if missing or extra:
        raise PolicyVersionError(
            f"{folder}/{WEIGHTS} does not match {CONFIG}: missing {missing}, unknown {extra}"
        )
    for key, value in expected.items():
        if tensors[key].shape != value.shape or tensors[key].dtype != value.dtype:
            raise PolicyVersionError(
                f"{folder}/{WEIGHTS}: {key} should be {value.dtype} {tuple(value.shape)}, "
                f"found {tensors[key].dtype} {tuple(tensors[key].shape)}; weights and {CONFIG} "
                "are from two versions"
            )


def _require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise PolicyVersionError(
            f"{where}: weights should be finite, {bad[0]} is not; go back to an earlier version"
        )


def _tensors(data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, one by one: all at once holds up other threads for long.

    Raises:
        SafetensorError: If it is none.
    """
    with os.fdopen(os.memfd_create("weights"), "wb") as file:
        file.write(data)
        file.flush()
        with safe_open(f"/proc/self/fd/{file.fileno()}", framework="pt") as tensors:
            names = tensors.keys()
            return {name: tensors.get_tensor(name) for name in names}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path, name: str, most: int = _LARGEST_MANIFEST) -> bytes:
    """A plain file of at most so many bytes: a pipe or a device might never end."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise PolicyVersionError(
                    f"{folder / name} should be a plain file of at most {most} bytes, has "
                    f"{found.st_size} bytes and mode {stat.filemode(found.st_mode)}; copy the "
                    "version again"
                )
            return file.read(found.st_size + 1)  # of one that grows meanwhile, more than told
    except OSError as error:
        raise PolicyVersionError(
            f"cannot read {folder / name}: {error.strerror}; is this a policy version?"
            f"{_versions_within(folder)}"
        ) from error


def _versions_within(folder: Path) -> str:
    """Names versions that are in a folder which is none, such as that of a run; or nothing."""
    found = [each.parent for depth in ("*", "*/*") for each in folder.glob(f"{depth}/{MANIFEST}")]
    return f" There are {', '.join(map(str, sorted(found)[:_MOST]))}" if found else ""


_MOST = 4
"""Versions that are named."""


def _verified(folder: Path, name: str, record: FileRecord) -> bytes:
    if record.size > _LARGEST_FILE:
        raise PolicyVersionError(
            f"{folder / name} should be {record.size} bytes; at most {_LARGEST_FILE} are loaded"
        )
    data = _read(folder, name, _LARGEST_FILE)
    if len(data) != record.size or _sha256(data) != record.sha256:
        raise PolicyVersionError(
            f"{folder / name} should be {record.size} bytes with SHA-256 {record.sha256[:12]}..., "
            f"found {len(data)} bytes with {_sha256(data)[:12]}...; it was truncated or altered, "
            "copy the version again"
        )
    return data


def _write_folder(folder: Path, payload: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
    )
    try:
        for name, data in payload.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PolicyVersionError(
            f"cannot write version {folder}: {error.strerror}; free space or choose another"
        ) from error
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
