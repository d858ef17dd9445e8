# SPDX-License-Identifier: Apache-2.0
"""What a fixed depth camera sees of a Meta-World scene: the cloud a policy gets, without OpenGL.

The library renders with OpenGL only. Here the rays of :class:`rl100_sim.camera.DepthCamera` are
cast, and the image goes through the code that the robot's cloud node runs.
"""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import CameraConfig, WorkspaceBox
from rl100_policy.core.point_cloud import Intrinsics, depth_to_cloud
from rl100_sim.arm_model import GROUP_ARM, GROUP_OBJECT, GROUP_STATIC
from rl100_sim.camera import DepthCamera, depth_in_metres

CAMERA = CameraConfig(
    name="workspace",
    topic="camera/depth/image_rect_raw",
    optical_frame="workspace_optical",
    width=128,
    height=96,
    fx=135.0,
    fy=135.0,
    cx=63.5,
    cy=47.5,
    xyz=(0.75, 0.15, 0.70),
    rpy=(-2.1462, 0.0, 0.9592),
)
"""To the right of the robot and above it, looking over the table at (-0.02, 0.69, 0.09): sees the
handles, which are turned towards the robot, and the arm hides little. World frame."""
_CROP_LOW, _CROP_HIGH = (-0.45, 0.30, 0.010), (0.45, 0.95, 0.45)
"""World frame [m]: what the hand reaches, inside the walls around the table, and above its surface
by ten standard deviations of the depth noise."""
_MIN_POINTS = 16
"""The hand alone covers hundreds of pixels."""
_FIXED_BODIES = ("world", "tablelink", "RetainingWall")
_ARM_BODY = "base"
_LAST_VISIBLE_GROUP = 2
"""Geoms of higher groups are the library's collision shapes."""
_GROUP_HIDDEN = 5


class WorkspaceView:
    """Clouds of one scene."""

    def __init__(self, model: mujoco.MjModel, table_height: float, n_points: int) -> None:
        """Place the camera and cast the table, which never moves.

        Args:
            model: Of the scene.
            table_height: What lies below is cropped [m].
            n_points: Of a cloud.
        """
        self.crop = WorkspaceBox(
            low=(*_CROP_LOW[:2], _CROP_LOW[2] + table_height), high=_CROP_HIGH
        )
        self._n_points = n_points
        self._camera = DepthCamera(_visible_model(model), CAMERA)
        c = CAMERA
        self._intrinsics = Intrinsics(c.width, c.height, c.fx, c.fy, c.cx, c.cy)

    def cloud(self, data: mujoco.MjData, rng: np.random.Generator) -> NDArray[np.float32]:
        """What is seen now.

        Args:
            data: State of the model given at construction, kinematics up to date.
            rng: Of the sensor noise.

        Returns:
            [n_points, 3], world frame, m, inside the crop.

        Raises:
            ObservationError: If too few pixels see anything in the crop.
        """
        return depth_to_cloud(
            depth_in_metres(self._camera.render(data, rng)),
            self._intrinsics,
            self._camera.t_base_camera,
            self.crop,
            self._n_points,
            _MIN_POINTS,
            depth_range_m=(CAMERA.depth_min, CAMERA.depth_max),
        )


def _visible_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Copy of a model whose geom groups are those that the depth camera knows.

    Everything but the table and the foot of the arm counts as moving: a reset puts cabinets and
    boxes elsewhere although no joint moves them. The arm's links are ellipsoids of their size:
    the meshes, of up to thirteen thousand triangles, took most of a frame's time.
    """
    seen = copy.copy(model)
    body = seen.geom_bodyid
    material_alpha = np.append(seen.mat_rgba[:, 3], 0.0)[seen.geom_matid]
    alpha = np.where(seen.geom_matid >= 0, material_alpha, seen.geom_rgba[:, 3])
    is_visible = (seen.geom_group <= _LAST_VISIBLE_GROUP) & (alpha > 0.0)
    fixed = [index for index in range(seen.nbody) if seen.body(index).name in _FIXED_BODIES]
    is_arm = seen.body_rootid[body] == seen.body(_ARM_BODY).id
    is_static = np.isin(body, fixed) | (is_arm & (seen.body_weldid[body] == 0))
    moving = np.where(is_arm, GROUP_ARM, GROUP_OBJECT)
    seen.geom_group[:] = np.where(
        is_visible, np.where(is_static, GROUP_STATIC, moving), _GROUP_HIDDEN
    )
    is_link = is_arm & ~is_static & (seen.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    seen.geom_type[is_link] = mujoco.mjtGeom.mjGEOM_ELLIPSOID  # its size is that of the mesh
    seen.geom_aabb[is_link, :3], seen.geom_aabb[is_link, 3:] = 0.0, seen.geom_size[is_link]
    seen.geom_rbound[is_link] = np.linalg.norm(seen.geom_size[is_link], axis=1)
    return seen
