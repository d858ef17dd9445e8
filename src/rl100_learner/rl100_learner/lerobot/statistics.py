# SPDX-License-Identifier: Apache-2.0
"""Statistics of columns as LeRobot keeps them, of one episode and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistics = dict[str, NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, ``count`` and quantiles, each as long as the last dimension
of a column; of an image [3, 1, 1], pixels between 0 and 1."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def column_statistics(values: NDArray[Any]) -> Statistics:
    """Of the rows of one episode.

    Args:
        values: [T] or [T, d] or [T, ..., d]; all but the last dimension are samples.
    """
    rows = values.reshape(len(values), -1) if values.ndim == 1 else values
    samples = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    return _of(samples, len(values))


def image_statistics(frames: Sequence[NDArray[np.uint8]]) -> Statistics:
    """Of the pixels of one episode, by channel, [3, 1, 1].

    Args:
        frames: [H, W, 3] each.
    """
    # of 256 values a table of counts tells everything
    counts = np.zeros((3, 256), dtype=np.int64)
    for frame in frames:
        for channel in range(3):
            counts[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    found = {
        "min": levels[(counts > 0).argmax(axis=1)],
        "max": levels[255 - (counts[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0.0)),
    }
    reached = shares.cumsum(axis=1)
    for name, share in QUANTILES.items():
        found[name] = levels[(reached >= share).argmax(axis=1)]
    shaped = {name: value.reshape(3, 1, 1) for name, value in found.items()}
    return shaped | {"count": np.array([len(frames)])}


def _of(samples: NDArray[np.float64], count: int) -> Statistics:
    found = {
        "min": samples.min(axis=0),
        "max": samples.max(axis=0),
        "mean": samples.mean(axis=0),
        "std": samples.std(axis=0),
        "count": np.array([count]),
    }
    for name, share in QUANTILES.items():
        found[name] = np.quantile(samples, share, axis=0)
    return found


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Of all episodes from those of each.

    Minimum, maximum, mean and standard deviation are exact; quantiles are the mean of those of the
    episodes, weighted by their rows, as LeRobot has them.
    """
    counts = np.array([int(each["count"][0]) for each in parts])
    weights = counts / counts.sum()

    def weighted(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(np.tensordot(weights, np.stack(values), axes=1))

    mean = weighted([each["mean"] for each in parts])
    spread = weighted([each["std"] ** 2 + (each["mean"] - mean) ** 2 for each in parts])
    found = {
        "min": np.min([each["min"] for each in parts], axis=0),
        "max": np.max([each["max"] for each in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(spread),
        "count": np.array([counts.sum()]),
    }
    return found | {name: weighted([each[name] for each in parts]) for name in QUANTILES}


def as_lists(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
    """For JSON."""
    return {
        feature: {name: value.tolist() for name, value in each.items()}
        for feature, each in statistics.items()
    }
