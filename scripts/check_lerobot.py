#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a dataset with the library lerobot itself, every frame of it, and says what was found.

Run by a Python that has lerobot, which this project does not install: it brings a torch of its
own choice. See docs/how-to/bring-your-own-data.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """Check the dataset in the folder that is given; 0 if everything is right."""
    if len(arguments) != 1:
        sys.stderr.write("usage: check_lerobot.py DATASET\n")
        return 2
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = Path(arguments[0])
    described = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    dataset = LeRobotDataset("local/check", root=root)
    frames = [dataset[index] for index in range(len(dataset))]
    episodes = by_episode(frames)
    problems = [
        *wrong_shapes(frames[0], dataset.features),
        *wrong_rows(episodes, dataset.fps),
        *wrong_statistics(frames, dataset),
    ]
    print(f"lerobot {lerobot.__version__}, format {described['codebase_version']}")
    print(f"{len(frames)} frames of {len(episodes)} episodes at {dataset.fps} Hz were read")
    for key, value in frames[0].items():
        kind = f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else repr(value)
        print(f"  {key}: {kind}")
    for problem in problems:
        print(f"wrong: {problem}")
    print("something is wrong" if problems else "everything is right")
    return 1 if problems else 0


def by_episode(frames: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Frames of each episode in their order."""
    found: dict[int, list[dict[str, Any]]] = {}
    for frame in frames:
        found.setdefault(int(frame["episode_index"]), []).append(frame)
    return [found[number] for number in sorted(found)]


def wrong_shapes(frame: dict[str, Any], features: dict[str, dict[str, Any]]) -> list[str]:
    """Features whose values are not as they are described."""
    problems = []
    for key, feature in features.items():
        shape, found = tuple(feature["shape"]), tuple(frame[key].shape)
        if feature["dtype"] == "image":
            shape = (shape[2], *shape[:2])  # channels first, as the library gives them
        if found != (() if shape == (1,) else shape):
            problems.append(f"{key} has shape {found}, described as {shape}")
    return problems


def wrong_rows(episodes: list[list[dict[str, Any]]], fps: float) -> list[str]:
    """Episodes whose frames are not numbered and timed one after the other."""
    problems = []
    for number, frames in enumerate(episodes):
        for row, frame in enumerate(frames):
            late = abs(float(frame["timestamp"]) - row / fps)
            if int(frame["frame_index"]) != row or late > 1e-4:
                problems.append(f"episode {number}, row {row}: frame_index or timestamp")
        if not bool(frames[-1]["next.done"]) or any(bool(f["next.done"]) for f in frames[:-1]):
            problems.append(f"episode {number}: next.done is not of the last frame alone")
    return problems


def wrong_statistics(frames: list[dict[str, Any]], dataset: Any) -> list[str]:
    """Features whose statistics are not those that the library computes from the frames."""
    import numpy as np
    from lerobot.datasets.compute_stats import get_feature_stats

    problems = []
    for key, feature in dataset.features.items():
        values = np.stack([np.asarray(frame[key]) for frame in frames]).astype(np.float64)
        image = feature["dtype"] == "image"
        axis = (0, 2, 3) if image else 0
        expected = get_feature_stats(values, axis=axis, keepdims=image or values.ndim == 1)
        for name in ("min", "max", "mean", "std"):
            wanted = np.squeeze(expected[name], axis=0) if image else expected[name]
            if not np.allclose(dataset.meta.stats[key][name], wanted, atol=1e-4):
                problems.append(f"{name} of {key}: {dataset.meta.stats[key][name]}, not {wanted}")
    return problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
