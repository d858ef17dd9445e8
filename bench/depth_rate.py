# SPDX-License-Identifier: Apache-2.0
"""One depth image of 640x480 to 1024 points: this suite's way and the straightforward one.

The straightforward one is Open3D's: a cloud of the whole image, cropped, farthest points of the
rest. Both see the same real Kinect frames (shifted copies of one), take turns, and are judged by
how well the points cover what is in the box: the farthest and the mean distance from any cropped
point to the nearest chosen one. Open3D is not part of the environment; `--open3d FOLDER` says
where its site-packages are (``pip install --target FOLDER open3d``).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.spatial import KDTree

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.point_cloud import Intrinsics, crop_to_box, deproject, depth_to_cloud

Floats = NDArray[np.float32]

_KINECT = Path(__file__).parents[1] / "tests" / "data" / "rgbd" / "tum_depth.png"
_INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
_BOXES = {
    "a part": WorkspaceBox(low=(-1.0, -1.0, 0.4), high=(1.0, 1.0, 2.0)),
    "all": WorkspaceBox(low=(-3.0, -3.0, 0.2), high=(3.0, 3.0, 3.0)),
}
"""What is cropped to: part of what the frames show, or nearly all of it."""
_N_POINTS, _RATE_HZ = 1024, 30.0
_RANGE_M = 0.15, 3.0


def ours(depth_m: Floats, box: WorkspaceBox) -> Floats:
    """As the cloud node does it."""
    return depth_to_cloud(
        depth_m, _INTRINSICS, np.eye(4), box, _N_POINTS, _N_POINTS, depth_range_m=_RANGE_M
    )


def open3d_way(o3d: Any, depth_m: Floats, crop: WorkspaceBox) -> Floats:
    """Open3D's functions one after the other."""
    camera = o3d.camera.PinholeCameraIntrinsic(640, 480, 525.0, 525.0, 319.5, 239.5)
    image = o3d.geometry.Image(np.ascontiguousarray(depth_m))
    cloud = o3d.geometry.PointCloud.create_from_depth_image(
        image, camera, depth_scale=1.0, depth_trunc=_RANGE_M[1]
    )
    box = o3d.geometry.AxisAlignedBoundingBox(np.array(crop.low), np.array(crop.high))
    chosen = cloud.crop(box).farthest_point_down_sample(_N_POINTS)
    return np.asarray(chosen.points, dtype=np.float32)


def coverage(points: Floats, depth_m: Floats, box: WorkspaceBox) -> tuple[float, float]:
    """Farthest and mean distance [m] from a point in the box to the nearest chosen one."""
    there = deproject(depth_m, _INTRINSICS)
    there = crop_to_box(there[(there[:, 2] > _RANGE_M[0]) & (there[:, 2] < _RANGE_M[1])], box)
    away, _ = KDTree(points).query(there)
    return float(away.max()), float(away.mean())


def main(
    frames: Annotated[int, typer.Option(help="of each way")] = 60,
    open3d: Annotated[Path | None, typer.Option(help="site-packages that hold Open3D")] = None,
) -> None:
    """Measure and print."""
    kinect = np.asarray(Image.open(_KINECT)).astype(np.float32) / np.float32(5000.0)
    ways: dict[str, Any] = {"this suite": ours}
    if open3d is not None:
        sys.path.append(str(open3d))
        import open3d as o3d

        ways[f"Open3D {o3d.__version__}"] = lambda depth, box: open3d_way(o3d, depth, box)
    for name, box in _BOXES.items():
        compare(name, box, kinect, ways, frames)


def compare(
    what: str, box: WorkspaceBox, kinect: Floats, ways: dict[str, Any], frames: int
) -> None:
    """All ways in turns on the same frames."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    covered: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(frames):
        depth = np.roll(kinect, 7 * turn, axis=1)
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            points = way(depth, box)
            took[name].append((time.perf_counter() - wall, time.process_time() - processor))
            if turn % 10 == 0:
                covered[name].append(coverage(points, depth, box))
    title = f"640x480 to {_N_POINTS} points, {what} of the view, {frames} frames in turns"
    table = Table("way", "median", "p99", "share of a core at 30 Hz", "farthest, mean [mm]",
                  title=title)  # fmt: skip
    for name in ways:
        wall, processor = np.array(took[name])[3:].T
        far, mean = 1e3 * np.mean(covered[name], axis=0)
        table.add_row(
            name, f"{1e3 * np.median(wall):.2f} ms", f"{1e3 * np.percentile(wall, 99):.2f} ms",
            f"{np.median(processor) * _RATE_HZ:.0%}", f"{far:.1f}, {mean:.1f}",
        )  # fmt: skip
    Console().print(table)
    if len(ways) > 1:
        mine, theirs = (np.array(took[name])[3:, 0] for name in ways)
        ratios = theirs / mine
        print(
            f"Open3D takes {np.median(ratios):.1f} times as long "
            f"({np.percentile(ratios, 5):.1f} to {np.percentile(ratios, 95):.1f})"
        )


if __name__ == "__main__":
    typer.run(main)
