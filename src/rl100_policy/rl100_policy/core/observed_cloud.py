# SPDX-License-Identifier: Apache-2.0
"""From one frame of a camera to the cloud that the policy sees.

The cloud node and the learner call this, so a policy is trained on the clouds it will see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig, PointObservation, WorkspaceBox
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.point_cloud import (
    Intrinsics,
    crop_to_box,
    depth_to_cloud,
    sample_cloud,
    transform,
)


@dataclass(frozen=True)
class CloudMaker:
    """Makes the clouds of one camera for one task."""

    camera: CameraConfig
    observation: PointObservation
    crop: WorkspaceBox
    base_frame: str

    @property
    def frame_id(self) -> str:
        """The robot base frame, in which the points are."""
        return self.base_frame

    def missing(
        self, frame: Any, intrinsics: Intrinsics | None, t_base_camera: NDArray[np.float64] | None
    ) -> str:
        """Topic without which this frame cannot be used yet; empty if nothing is missing."""
        if self.camera.kind == "depth" and intrinsics is None:
            return "CameraInfo"
        if frame.header.frame_id != self.base_frame and t_base_camera is None:
            return "camera/extrinsics"
        return ""

    def make(
        self, frame: Any, intrinsics: Intrinsics | None, t_base_camera: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """The cloud of one frame, [n_points, 3], m, base frame.

        Args:
            frame: sensor_msgs/Image of a depth camera; of a camera of kind ``points`` a
                sensor_msgs/PointCloud2 in the optical or the base frame.
            intrinsics: Of a depth camera.
            t_base_camera: Optical frame in the base frame, [4, 4]; not needed for points that are
                in the base frame already.

        Raises:
            ObservationError: If the frame is malformed, in another frame, does not fit its
                CameraInfo, or shows too little of the crop.
        """
        if missing := self.missing(frame, intrinsics, t_base_camera):
            raise ObservationError(f"no {missing} is known", reason=f"no {missing} yet")
        if self.camera.kind == "points":
            return self._of_points(frame, t_base_camera)
        assert intrinsics is not None
        messages.require_frame(frame, self.camera.optical_frame)
        assert t_base_camera is not None
        return self.of_depth(messages.depth_image(frame), intrinsics, t_base_camera)

    def of_depth(
        self,
        depth_m: NDArray[np.float32],
        intrinsics: Intrinsics,
        t_base_camera: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """The cloud of one depth image, [H, W], m, as :meth:`make` gives it.

        Raises:
            ObservationError: As :func:`~rl100_policy.core.point_cloud.depth_to_cloud`.
        """
        return depth_to_cloud(
            depth_m,
            intrinsics,
            t_base_camera,
            self.crop,
            self.observation.n_points,
            self.observation.min_points,
            depth_range_m=(self.camera.depth_min, self.camera.depth_max),
        )

    def _of_points(
        self, frame: Any, t_base_camera: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        points = messages.cloud_points(frame)
        if frame.header.frame_id != self.base_frame:
            messages.require_frame(frame, self.camera.optical_frame)
            assert t_base_camera is not None
            points = transform(points, t_base_camera)
        observation = self.observation
        return sample_cloud(
            crop_to_box(points, self.crop), observation.n_points, observation.min_points
        )
