# SPDX-License-Identifier: Apache-2.0
"""Time from one depth image to a cloud, part by part.

On an image of the simulated camera's size and on a real Kinect frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.point_cloud import (
    Intrinsics,
    crop_to_box,
    deproject,
    farthest_point_sample,
    transform,
)

_KINECT = Path(__file__).parents[1] / "tests" / "data" / "rgbd" / "tum_depth.png"
_BOX = WorkspaceBox(low=(-1.0, -1.0, 0.4), high=(1.0, 1.0, 2.0))


def main(repeats: Annotated[int, typer.Option(help="frames of each kind")] = 50) -> None:
    """Measure and print."""
    kinect = np.asarray(Image.open(_KINECT)).astype(np.float32) / np.float32(5000.0)
    small = kinect[::5, ::5]
    cases = {
        "128x96, 128 points": (small, Intrinsics(128, 96, 105.0, 105.0, 63.5, 47.5), 128),
        "640x480, 512 points": (kinect, Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5), 512),
        "640x480, 1024 points": (kinect, Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5), 1024),
    }
    table = Table(
        "case",
        "deproject",
        "transform",
        "crop",
        "sample",
        "together",
        title="Median of one frame [ms]",
    )
    parts: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, (depth, intrinsics, count) in cases.items():
            parts[name].append(_frame(depth, intrinsics, count))
    for name, rows in parts.items():
        median = np.median(np.array(rows), axis=0) * 1e3
        table.add_row(
            name,
            *(f"{value:.2f}" for value in median),
            f"{np.median(np.sum(rows, axis=1)) * 1e3:.2f}",
        )
    Console().print(table)


def _frame(depth: np.ndarray, intrinsics: Intrinsics, count: int) -> list[float]:
    """Seconds of each part for one frame."""
    times: list[float] = []

    def timed(part: Callable[[], np.ndarray]) -> np.ndarray:
        begun = time.perf_counter()
        result = part()
        times.append(time.perf_counter() - begun)
        return result

    points = timed(lambda: deproject(depth, intrinsics))
    valid = points[points[:, 2] > 0.15]
    moved = timed(lambda: transform(valid, np.eye(4)))
    cropped = timed(lambda: crop_to_box(moved, _BOX))
    timed(lambda: farthest_point_sample(cropped, count))
    return times


if __name__ == "__main__":
    typer.run(main)
