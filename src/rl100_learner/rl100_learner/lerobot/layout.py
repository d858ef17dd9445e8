# SPDX-License-Identifier: Apache-2.0
"""Files and columns of a LeRobot dataset, format v3.0.

``meta/info.json`` describes every column ("feature"); ``data/chunk-NNN/file-NNN.parquet`` holds
one row per frame, of many episodes after each other; ``meta/episodes/...`` one row per episode
with its range of rows and its statistics; ``meta/tasks.parquet`` the sentences that tasks are told
by; ``meta/stats.json`` the statistics of all rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from rl100_policy.core.config import FrozenModel, validation_problems
from rl100_policy.core.errors import BagError

VERSION = "v3.0"
INFO = Path("meta/info.json")
STATS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_FILES = 1000
"""Files per chunk."""
FILE_MB = 100
"""Size after which the next file begins [MB]."""
VIDEO_FILE_MB = 200

STATE = "observation.state"
POINTS = "observation.points"
IMAGES = "observation.images."
ACTION = "action"
REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"
INTERVENTION = "intervention"


class Feature(FrozenModel):
    """One column."""

    dtype: str
    """numpy's name of the element type, ``image``, or ``video``."""
    shape: tuple[int, ...]
    names: Any = None
    """Of the components: a list, or lists by group; None: they have none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @property
    def components(self) -> tuple[str, ...]:
        """Names in their order; empty where there are none."""
        if isinstance(self.names, Mapping):
            groups = [each for each in self.names.values() if isinstance(each, list)]
            return tuple(str(name) for group in groups for name in group)
        return tuple(map(str, self.names)) if isinstance(self.names, list | tuple) else ()


class DatasetInfo(BaseModel):
    """Content of ``meta/info.json``; keys that this version does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    codebase_version: str = VERSION
    robot_type: str | None = None
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = CHUNK_FILES
    data_files_size_in_mb: int = FILE_MB
    video_files_size_in_mb: int = VIDEO_FILE_MB
    fps: float
    """Frames per second; a whole number as LeRobot writes it."""
    splits: dict[str, str] = {}
    data_path: str = DATA_PATH
    video_path: str | None = None
    features: dict[str, Feature]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        told = self.model_dump(mode="json")
        told["fps"] = round(self.fps)
        return told


INDEX_FEATURES = {
    "timestamp": Feature(dtype="float32", shape=(1,)),
    "frame_index": Feature(dtype="int64", shape=(1,)),
    "episode_index": Feature(dtype="int64", shape=(1,)),
    "index": Feature(dtype="int64", shape=(1,)),
    "task_index": Feature(dtype="int64", shape=(1,)),
}
"""What every dataset has: time since the episode began [s], and numbers of frame, episode, row and
task."""


def read_info(root: Path) -> DatasetInfo:
    """Description of a dataset.

    Raises:
        BagError: If the folder is no LeRobot dataset of this version.
    """
    path = root / INFO
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("codebase_version")
        if version != VERSION:
            raise BagError(
                f"{root} is a LeRobot dataset of version {version}, expected {VERSION}; "
                "convert_dataset_v21_to_v30 of the lerobot package converts it"
            )
        return DatasetInfo.model_validate(content)
    except FileNotFoundError as error:
        raise BagError(f"{root} is no LeRobot dataset: there is no {INFO} in it") from error
    except (OSError, ValueError, AttributeError) as error:
        told = validation_problems(error) if isinstance(error, ValidationError) else str(error)
        raise BagError(f"{path} does not describe a LeRobot dataset: {told}") from error


def arrow_type(feature: Feature) -> pa.DataType:
    """Type of a column as LeRobot stores it.

    A single number is itself; a vector is a list of fixed length; a matrix a list of lists; an
    image its encoded bytes and a path that nobody needs.
    """
    if feature.dtype == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = pa.from_numpy_dtype(feature.dtype)
    if feature.shape == (1,):
        return found
    if len(feature.shape) == 1:
        return pa.list_(found, feature.shape[0])
    for _ in feature.shape:
        found = pa.list_(found)
    return found


def huggingface_types(features: Mapping[str, Feature]) -> bytes:
    """What the library ``datasets`` wants in the metadata of a table to decode images."""
    return json.dumps(
        {"info": {"features": {key: _hf_type(feature) for key, feature in features.items()}}}
    ).encode()


def _hf_type(feature: Feature) -> dict[str, Any]:
    if feature.dtype == "image":
        return {"_type": "Image"}
    value = {"dtype": feature.dtype, "_type": "Value"}
    if feature.shape == (1,):
        return value
    if len(feature.shape) == 1:
        return {"feature": value, "length": feature.shape[0], "_type": "Sequence"}
    shape = list(feature.shape)
    return {"shape": shape, "dtype": feature.dtype, "_type": f"Array{len(shape)}D"}
