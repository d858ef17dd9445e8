# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run, drawn from what was recorded.

The scene with its cloud, an episode's path, success by stage, the gate, the loss curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from rl100_bringup.learning_pictures import learning_figures, save_figures
from rl100_bringup.report import Report
from rl100_learner.data.streams import arm_positions
from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_messages
from rl100_policy.core import messages
from rl100_policy.core.config import (
    CameraConfig,
    PointObservation,
    RobotConfig,
    TaskConfig,
    WorkspaceBox,
)
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.observed_cloud import CloudMaker
from rl100_policy.core.point_cloud import Intrinsics, crop_to_box, deproject, transform
from rl100_sim.episode import SIMULATED_TASKS
from rl100_sim.tasks.push_t import goal_pose

Floats = NDArray[np.float32]

_SNAPSHOTS = 4
"""Clouds drawn along an episode's path."""
_OUTLINE_STEP = 0.001
"""Grid on which the outline of the block is drawn [m]."""


@dataclass(frozen=True)
class RecordedEpisode:
    """What the pictures need of one bag."""

    depth_m: list[Floats]
    """Images, [H, W], m."""
    intrinsics: Intrinsics
    t_base_camera: NDArray[np.float64]
    tool_path: NDArray[np.float64]
    """Tool tip per joint state, [T, 3], m, base frame."""
    camera: CameraConfig
    base_frame: str
    title: str

    @classmethod
    def read(cls, folder: Path, metadata: EpisodeMetadata, robot: RobotConfig) -> RecordedEpisode:
        """Read a closed episode.

        Raises:
            BagError: If the bag lacks depth images, camera info or extrinsics.
        """
        camera = next((each for each in robot.cameras if each.kind == "depth"), None)
        if camera is None:
            raise BagError("pictures are drawn from depth images; this robot has no depth camera")
        topic, info = camera.topic, camera.info_topic
        found = read_messages(folder, [topic, info, "camera/extrinsics", "joint_states"])
        missing = [name for name, values in found.items() if not values]
        if missing:
            raise BagError(f"{folder} has no messages on {missing}; nothing can be drawn")
        arm = ArmKinematics(robot)
        joints, _ = arm_positions(found["joint_states"], robot.joints, end_ns=0)
        return cls(
            depth_m=[messages.depth_image(m.value) for m in found[topic]],
            intrinsics=messages.intrinsics(found[info][0].value, camera.optical_frame),
            t_base_camera=messages.transform_matrix(found["camera/extrinsics"][0].value.transform),
            tool_path=np.array([arm.tool_position(q) for q in joints.values()]),
            camera=camera,
            base_frame=robot.base_frame,
            title=_title(metadata),
        )

    def policy_cloud(self, index: int, task: TaskConfig) -> Floats:
        """The policy's cloud of one frame, [N, 3], m, base frame."""
        if not isinstance(task.observation, PointObservation):
            raise ConfigError(
                f"clouds are drawn; task {task.name!r} observes {task.observation.kind}"
            )
        maker = CloudMaker(self.camera, task.observation, _crop(task), self.base_frame)
        return maker.of_depth(self.depth_m[index], self.intrinsics, self.t_base_camera)


def _crop(task: TaskConfig) -> WorkspaceBox:
    """Box that is drawn: what the policy sees, or where the tool may be if that is no box."""
    return task.crop or task.tool_workspace


def _title(metadata: EpisodeMetadata) -> str:
    """Who drove, how it ended, and which episode it is."""
    sampler = metadata.tags.get("sampler", "")
    version = f"{metadata.policy_version} {sampler}".strip()
    driver = f"policy {version}" if metadata.policy_version else metadata.operator
    return f"{driver}: {metadata.outcome.value}\n{metadata.episode_id}"


def draw_all(
    folder: Path,
    bags: Path,
    episodes: Sequence[IndexEntry],
    training: Path,
    report: Report,
    robot: RobotConfig,
    task: TaskConfig,
) -> tuple[list[Path], dict[str, str]]:
    """Draw the pictures of a run.

    Args:
        folder: Where they go.
        bags: Folder of bags.
        episodes: Episodes to choose from; a success is preferred.
        training: Folder of the training run.
        report: What was measured.
        robot: The arm they were recorded on.
        task: The task.

    Returns:
        Files written; and, by file name, why one could not be drawn.
    """

    @cache
    def chosen() -> RecordedEpisode:
        return _choose(bags, episodes, robot)

    figures = {
        "scene.png": lambda: scene_figure(chosen(), task),
        "episode_path.png": lambda: path_figure(chosen(), task),
    } | learning_figures(training, report)
    return save_figures(folder, figures)


def _choose(bags: Path, episodes: Sequence[IndexEntry], robot: RobotConfig) -> RecordedEpisode:
    """The longest success, or the longest episode if there is none."""
    if not episodes:
        raise BagError(
            f"there is no episode in {bags} to draw; look into the log folder beside it"
        )
    entry = min(
        episodes, key=lambda each: (each.metadata.outcome is not Outcome.SUCCESS, -each.seconds)
    )
    return RecordedEpisode.read(bags / entry.folder, entry.metadata, robot)


def scene_figure(episode: RecordedEpisode, task: TaskConfig) -> Figure:
    """First frame of an episode: the depth image, and the scene in the base frame.

    The scene shows the cropped cloud and its box.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    image = figure.add_subplot(1, 2, 1)
    depth = np.where(episode.depth_m[0] > 0, episode.depth_m[0], np.nan)
    shown = image.imshow(depth, cmap="viridis_r", vmax=np.nanpercentile(depth, 97))
    figure.colorbar(shown, ax=image, label="depth [m]", shrink=0.8)
    image.set(
        title="depth image as recorded (white: no reading)", xlabel="u [px]", ylabel="v [px]"
    )
    space = figure.add_subplot(1, 2, 2, projection="3d")
    everything = transform(
        deproject(episode.depth_m[0], episode.intrinsics), episode.t_base_camera
    )
    near = crop_to_box(everything, WorkspaceBox(low=(0.2, -0.4, -0.05), high=(0.8, 0.4, 0.4)))
    space.scatter(*near[::3].T, s=1, c="0.75", depthshade=False)
    cloud = episode.policy_cloud(0, task)
    space.scatter(*cloud.T, s=14, c=cloud[:, 2], cmap="plasma", depthshade=False)
    _draw_box(space, _crop(task))
    space.view_init(elev=32, azim=-35)
    limits = (space.get_xlim(), space.get_ylim(), space.get_zlim())
    space.set_box_aspect(np.ptp(limits, axis=1), zoom=0.9)  # equal scales, room for the labels
    space.set(
        title=f"{len(cloud)} points the policy sees, in the crop box",
        xlabel="x [m]",
        ylabel="y [m]",
        zlabel="z [m]",
        zticks=np.round([0.0, _crop(task).high[2]], 2),
    )
    space.locator_params(axis="x", nbins=5)
    space.locator_params(axis="y", nbins=5)
    return figure


def path_figure(episode: RecordedEpisode, task: TaskConfig) -> Figure:
    """An episode from above: tool path over time and the cloud at some moments."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    colours = mpl.colormaps["viridis"]
    last = len(episode.depth_m) - 1
    for step in range(_SNAPSHOTS):
        share = step / (_SNAPSHOTS - 1)
        cloud = episode.policy_cloud(round(share * last), task)
        axes.scatter(
            cloud[:, 1],
            cloud[:, 0],
            s=9,
            color=colours(share),
            alpha=0.25 + 0.6 * share,
            label=f"cloud at {share:.0%} of the episode",
        )
    path = episode.tool_path
    axes.plot(path[:, 1], path[:, 0], "-", color="crimson", lw=1.4, label="tool path")
    axes.plot(path[0, 1], path[0, 0], "o", color="crimson", ms=7, label="tool at the start")
    _draw_goal(axes, task)
    _draw_goal_outline(axes, task)
    low, high = _crop(task).low, _crop(task).high
    axes.set(
        xlim=(high[1], low[1]),
        ylim=(low[0], high[0]),
        xlabel="y [m]",
        ylabel="x [m]",
        aspect="equal",
    )
    axes.set_title(episode.title, fontsize=9)
    figure.legend(fontsize=8, loc="outside right center", frameon=False)
    return figure


def _draw_box(axes: Axes, box: WorkspaceBox) -> None:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    corners = np.array(box.low) + corners * (np.array(box.high) - np.array(box.low))
    for a in range(8):
        for b in (a ^ 1, a ^ 2, a ^ 4):
            if a < b:
                axes.plot(*corners[[a, b]].T, color="tab:green", lw=0.8)


def _draw_goal(axes: Axes, task: TaskConfig) -> None:
    """Tolerance around the goal, where the task names one."""
    x, y = task.sim.get("goal_x"), task.sim.get("goal_y")
    if x is not None and y is not None:
        radius = task.sim.get("position_tolerance", 0.02)
        axes.add_patch(Circle((y, x), radius, fill=False, color="k", lw=1.2))
        told = f"success: the block's centre ends within {100 * radius:.0f} cm"
        if turn := task.sim.get("yaw_tolerance"):
            told += f",\nturned by less than {np.degrees(turn):.0f} degrees"
        axes.plot([], [], "o", mfc="none", mec="k", ms=12, label=told)
        axes.plot(y, x, "k+", ms=12, label="goal of the block's centre")


def _draw_goal_outline(axes: Axes, task: TaskConfig) -> None:
    """The block as it lies at its goal, where the task is simulated and so has a shape."""
    if task.name not in SIMULATED_TASKS:
        return
    low, high = _crop(task).low, _crop(task).high
    x = np.arange(low[0], high[0], _OUTLINE_STEP)
    y = np.arange(low[1], high[1], _OUTLINE_STEP)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    gap = SIMULATED_TASKS[task.name].item.distance(goal_pose(task), points)
    # A line one step off the block, because inside the distance is zero also where its parts meet.
    axes.contour(y, x, gap, [_OUTLINE_STEP], colors="k", linewidths=0.8, linestyles="dashed")
    axes.plot([], [], "k--", lw=0.8, label="outline of the block at its goal")
