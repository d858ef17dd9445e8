# SPDX-License-Identifier: Apache-2.0
"""From one frame of a colour camera to the image that the policy sees.

The cloud node and the learner call this, so a policy is trained on the images it will see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig, ImageObservation
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.image import Pixels, fit_image
from rl100_policy.core.point_cloud import Intrinsics


@dataclass(frozen=True)
class ImageMaker:
    """Makes the images of one camera for one task.

    Raises:
        ConfigError: If the region that is to be seen is not inside the camera's image.
    """

    camera: CameraConfig
    observation: ImageObservation

    def __post_init__(self) -> None:
        """Check the region once, so that no frame has to."""
        region = self.observation.region
        if region is None:
            return
        u, v, width, height = region
        right, bottom = u + width, v + height
        if not (0 <= u < right <= self.camera.width and 0 <= v < bottom <= self.camera.height):
            raise ConfigError(
                f"observation.region {region} (u, v, width, height) should be inside the image of "
                f"camera {self.camera.name!r}, {self.camera.width}x{self.camera.height}"
            )

    @property
    def frame_id(self) -> str:
        """The camera's optical frame."""
        return self.camera.optical_frame

    def missing(
        self,
        frame: Any,  # noqa: ARG002
        intrinsics: Intrinsics | None,  # noqa: ARG002
        t_base_camera: NDArray[np.float64] | None,  # noqa: ARG002
    ) -> str:
        """Nothing: an image needs neither CameraInfo nor extrinsics."""
        return ""

    def make(
        self,
        frame: Any,
        intrinsics: Intrinsics | None,  # noqa: ARG002
        t_base_camera: NDArray[np.float64] | None,  # noqa: ARG002
    ) -> Pixels:
        """The image of one frame, [height, width, 3], red, green, blue.

        Args:
            frame: sensor_msgs/Image, rgb8 or bgr8.
            intrinsics: Not needed.
            t_base_camera: Not needed.

        Raises:
            ObservationError: If the frame is malformed, of another frame or encoding, or not of
                the size that the robot description says.
        """
        messages.require_frame(frame, self.camera.optical_frame)
        return self.of_pixels(messages.colour_image(frame))

    def of_pixels(self, pixels: Pixels) -> Pixels:
        """The image of a camera's whole image, [H, W, 3], as :meth:`make` gives it.

        Raises:
            ObservationError: If it is not of the size that the robot description says.
        """
        height, width = pixels.shape[:2]
        if (height, width) != (self.camera.height, self.camera.width):
            raise ObservationError(
                f"colour image is {width}x{height} but the robot description has "
                f"{self.camera.width}x{self.camera.height} for camera {self.camera.name!r}; set "
                "the driver or the description right",
                reason="size",
            )
        wanted = self.observation
        return fit_image(pixels, wanted.region, wanted.height, wanted.width)
