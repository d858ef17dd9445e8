# SPDX-License-Identifier: Apache-2.0
"""Writes a LeRobot dataset, episode by episode; its folder is there whole or not at all."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rl100_learner.lerobot.layout import (
    EPISODES_PATH,
    INDEX_FEATURES,
    INFO,
    STATS,
    TASKS,
    DatasetInfo,
    Feature,
    arrow_type,
    huggingface_types,
)
from rl100_learner.lerobot.statistics import (
    Statistics,
    as_lists,
    column_statistics,
    image_statistics,
    pooled,
)
from rl100_policy.core.errors import StorageError

_PARTIAL = ".partial"
Columns = Mapping[str, NDArray[Any] | Sequence[NDArray[np.uint8]]]
"""By feature: [T, ...] numbers, or T images [H, W, 3]."""


class DatasetWriter:
    """One dataset. ``close`` puts it in its place; ``abort`` leaves nothing."""

    def __init__(self, root: Path, info: DatasetInfo, description: str) -> None:
        """Begin in a folder beside the final one.

        Args:
            root: The final folder; must not exist, or be empty.
            info: Rate, robot and features, without those that every dataset has.
            description: What the data are, for people who find them.

        Raises:
            StorageError: If the folder is taken or cannot be made.
        """
        if root.exists() and any(root.iterdir()):
            raise StorageError(f"{root} is not empty; give a folder that is not there yet")
        self._root, self._work = root, root.with_name(root.name + _PARTIAL)
        features = {**info.features, **INDEX_FEATURES}
        self._info = info.model_copy(update={"features": features})
        self._description = description
        self._tasks: list[str] = []
        self._rows = 0
        self._episodes: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Statistics]] = []
        self._file, self._bytes = 0, 0
        self._writer: pq.ParquetWriter | None = None
        fields = [(name, arrow_type(feature)) for name, feature in features.items()]
        metadata = {b"huggingface": huggingface_types(features)}
        self._schema = pa.schema(fields, metadata=metadata)
        try:
            shutil.rmtree(self._work, ignore_errors=True)
            (self._work / INFO).parent.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._work}: {error}") from error

    @property
    def info(self) -> DatasetInfo:
        """Description of what is there so far."""
        total = len(self._episodes)
        return self._info.model_copy(
            update={
                "total_episodes": total,
                "total_frames": self._rows,
                "total_tasks": len(self._tasks),
                "splits": {"train": f"0:{total}"},
            }
        )

    def add(self, columns: Columns, task: str, **told: str) -> None:
        """Add an episode.

        Args:
            columns: Every feature but those that every dataset has, T rows each.
            task: Sentence that tells what is done.
            told: Further columns of the table of episodes.

        Raises:
            StorageError: If it cannot be written.
        """
        length = len(next(iter(columns.values())))
        if task not in self._tasks:
            self._tasks.append(task)
        steps = np.arange(length)
        whole: dict[str, Any] = {
            **columns,
            "timestamp": (steps / self._info.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, len(self._episodes)),
            "index": self._rows + steps,
            "task_index": np.full(length, self._tasks.index(task)),
        }
        chunk, file = self._write(whole, length)
        statistics = {
            name: image_statistics(whole[name])
            if feature.dtype == "image"
            else column_statistics(np.asarray(whole[name]))
            for name, feature in self._info.features.items()
        }
        self._statistics.append(statistics)
        self._episodes.append(
            {
                "episode_index": len(self._episodes),
                "tasks": [task],
                "length": length,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self._rows,
                "dataset_to_index": self._rows + length,
                **told,
            }
        )
        self._rows += length

    def _write(self, columns: Mapping[str, Any], length: int) -> tuple[int, int]:
        """Write rows; returns chunk and file."""
        arrays = [_column(columns[name], feature) for name, feature in self._info.features.items()]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        if self._writer is not None and self._bytes > self._info.data_files_size_in_mb * 2**20:
            self._writer.close()
            self._writer, self._bytes, self._file = None, 0, self._file + 1
        chunk, file = divmod(self._file, self._info.chunks_size)
        try:
            if self._writer is None:
                name = self._info.data_path.format(chunk_index=chunk, file_index=file)
                (self._work / name).parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(
                    self._work / name, self._schema, compression="snappy"
                )
            self._writer.write_table(table, row_group_size=length)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot write rows into {self._work}: {error}") from error
        self._bytes += table.nbytes
        return chunk, file

    def close(self) -> DatasetInfo:
        """Write what describes the rows, and put everything in its place.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            if self._writer is not None:
                self._writer.close()
            self._write_episodes()
            pq.write_table(_tasks_table(self._tasks), self._work / TASKS)
            everything = {
                name: pooled([each[name] for each in self._statistics])
                for name in self._info.features
            }
            _write_json(self._work / STATS, as_lists(everything))
            _write_json(self._work / INFO, self.info.to_json())
            (self._work / "README.md").write_text(self._description, encoding="utf-8")
            if self._root.exists():
                self._root.rmdir()
            self._work.rename(self._root)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"cannot write {self._root}: {error}") from error
        return self.info

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _write_episodes(self) -> None:
        rows = []
        for told, statistics in zip(self._episodes, self._statistics, strict=True):
            flat = {
                f"stats/{feature}/{name}": value
                for feature, each in as_lists(statistics).items()
                for name, value in each.items()
            }
            rows.append(
                told | flat | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            )
        path = self._work / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)


def _column(values: Any, feature: Feature) -> pa.Array:
    """One column of an episode."""
    kind = arrow_type(feature)
    if feature.dtype == "image":
        return pa.array([{"bytes": _png(each), "path": None} for each in values], kind)
    array = np.ascontiguousarray(values, dtype=feature.dtype)
    if feature.shape == (1,):
        return pa.array(array.reshape(-1), kind)
    found: pa.Array = pa.array(array.reshape(-1))
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(found, feature.shape[0])
    for size in reversed(feature.shape):
        offsets = pa.array(np.arange(0, len(found) + 1, size, dtype=np.int32))
        found = pa.ListArray.from_arrays(offsets, found)
    return found


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Sentences are the index of the table for those who read it with pandas."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    column = {"field_name": "task", "name": "task", "pandas_type": "unicode",
              "numpy_type": "object", "metadata": None}  # fmt: skip
    told = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"field_name": "task_index", "name": "task_index", "pandas_type": "int64",
             "numpy_type": "int64", "metadata": None},
            column,
        ],
        "pandas_version": "2.2.0",
    }  # fmt: skip
    return table.replace_schema_metadata({b"pandas": json.dumps(told).encode()})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
