# SPDX-License-Identifier: Apache-2.0
"""Reads a LeRobot dataset, episode by episode."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pa_dataset
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rl100_learner.lerobot.layout import INFO, DatasetInfo, Feature, read_info
from rl100_policy.core.errors import BagError


@dataclass(frozen=True)
class DatasetEpisode:
    """Rows of one episode."""

    index: int
    task: str
    """Sentence that tells what is done; empty if the dataset does not say."""
    columns: dict[str, NDArray[Any]]
    """By feature, [T, ...]; images are [T, H, W, 3] uint8."""


class LeRobotDataset:
    """A dataset on disk."""

    def __init__(self, root: Path) -> None:
        """Read what describes it.

        Raises:
            BagError: If the folder is no LeRobot dataset of the version we know.
        """
        self.root = root
        self.info: DatasetInfo = read_info(root)
        self._files = sorted((root / "data").glob("*/*.parquet"))
        if not self._files:
            raise BagError(f"{root} holds no rows: there is no data/*/*.parquet")

    def sha256(self) -> str:
        """Of its description and its rows."""
        sha = hashlib.sha256((self.root / INFO).read_bytes())
        for path in self._files:
            with path.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        return sha.hexdigest()

    def episodes(self, features: Collection[str]) -> Iterator[DatasetEpisode]:
        """Episodes in their order.

        Args:
            features: Those wanted.

        Raises:
            BagError: If a file cannot be read, or rows are not what the description says.
        """
        tasks = self._tasks()
        wanted = [*dict.fromkeys([*features, "episode_index", "frame_index", "task_index"])]
        try:
            rows = pa_dataset.dataset(self._files, format="parquet")
            for number in range(self.info.total_episodes):
                table = rows.to_table(
                    columns=wanted, filter=pa_dataset.field("episode_index") == number
                )
                if table.num_rows:
                    yield self._episode(number, table.sort_by("frame_index"), tasks, features)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise BagError(f"{self.root} cannot be read: {error}") from error

    def _episode(
        self, number: int, table: pa.Table, tasks: dict[int, str], features: Collection[str]
    ) -> DatasetEpisode:
        task = tasks.get(table["task_index"][0].as_py(), "")
        columns = {
            name: self._column(table[name].combine_chunks(), self.info.features[name], name)
            for name in features
        }
        return DatasetEpisode(number, task, columns)

    def _column(self, array: pa.Array, feature: Feature, name: str) -> NDArray[Any]:
        if feature.dtype == "image":
            return np.stack([self._image(each, name) for each in array.to_pylist()])
        while pa.types.is_nested(array.type):
            array = array.flatten()
        values = array.to_numpy(zero_copy_only=False).astype(feature.dtype)
        found: NDArray[Any] = values.reshape(-1, *feature.shape)
        return found

    def _image(self, stored: dict[str, Any], name: str) -> NDArray[np.uint8]:
        try:
            data = stored["bytes"] or (self.root / stored["path"]).read_bytes()
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except (OSError, TypeError, UnidentifiedImageError) as error:
            raise BagError(f"{self.root}: an image of {name} cannot be read: {error}") from error

    def _tasks(self) -> dict[int, str]:
        """Sentences by number; the column that is no number is called one thing or another."""
        path = self.root / "meta" / "tasks.parquet"
        try:
            table = pa_dataset.dataset(path, format="parquet").to_table()
        except (pa.ArrowException, OSError):
            return {}
        texts = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or not texts:
            return {}
        numbers = table["task_index"].to_pylist()
        return dict(zip(numbers, map(str, table[texts[0]].to_pylist()), strict=True))
