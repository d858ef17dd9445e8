# SPDX-License-Identifier: Apache-2.0
"""The pose of a foreign camera: through the frames of its recording, or from the description."""

from pathlib import Path

import numpy as np
import pytest

from rl100_policy.bags.factory import MessageFactory
from rl100_policy.bags.foreign.findings import Status
from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.view import camera_pose
from rl100_policy.core.config import load_robot
from rl100_policy.core.geometry import pose_from_xyz_rpy, quaternion_from_pose

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml")
CAMERA = ROBOT.camera()
DESCRIBED = pose_from_xyz_rpy(CAMERA.xyz, CAMERA.rpy)
FACTORY = MessageFactory()


def transform(parent: str, child: str, pose: np.ndarray):
    x, y, z = map(float, pose[:3, 3])
    qx, qy, qz, qw = map(float, quaternion_from_pose(pose))
    make = FACTORY.make
    return make(
        "geometry_msgs/msg/TransformStamped",
        header=FACTORY.header(0, parent),
        child_frame_id=child,
        transform=make(
            "geometry_msgs/msg/Transform",
            translation=make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        ),
    )


def mapping(**extrinsics) -> ImportMapping:
    return ImportMapping.model_validate(
        {
            "joint_states": {"topic": "/joint_states"},
            "cameras": {"camera": {"topic": "/image", "frame": "optical"}},
            "action": {"source": "measured"},
            "extrinsics": extrinsics,
        }
    )


BY_TOPIC = mapping(source="topic", base_frame="base")


def found(*transforms, by=BY_TOPIC):
    return camera_pose(transforms, by, ROBOT, CAMERA)


def test_frames_are_joined_from_the_base_to_the_optical_frame():
    mount = pose_from_xyz_rpy((0.9, 0.1, 0.6), (0.0, 0.4, 3.0))
    rest = np.linalg.inv(mount) @ DESCRIBED
    pose, finding = found(
        transform("mount", "optical", rest), transform("base", "mount", mount),
        transform("base", "elsewhere", np.eye(4)),
    )  # fmt: skip
    np.testing.assert_allclose(pose, DESCRIBED, atol=1e-9)
    assert finding.status is Status.OK


def test_a_pose_far_from_the_description_is_used_and_told():
    moved = pose_from_xyz_rpy((0.5, 0.0, 0.5), CAMERA.rpy)
    pose, finding = found(transform("base", "optical", moved))
    np.testing.assert_allclose(pose, moved, atol=1e-9)
    assert finding.status is Status.WARNING


@pytest.mark.parametrize(
    ("transforms", "told"),
    [
        ([], "optical has none"),
        ([("arm", "optical", 0.1)], "arm has none"),
        ([("base", "optical", 0.1), ("base", "optical", 0.2)], "changes"),
        ([("a", "optical", 0.1), ("optical", "a", 0.1)], "circle"),
    ],
)
def test_a_camera_whose_pose_is_not_fixed_and_known_does_not_fit(transforms, told):
    made = [
        transform(parent, child, pose_from_xyz_rpy((0.0, 0.0, z), (0.0, 0.0, 0.0)))
        for parent, child, z in transforms
    ]
    pose, finding = found(*made)
    assert pose is None
    assert finding.status is Status.NOT_OK
    assert told in finding.found


def test_without_a_topic_the_description_tells_the_pose():
    pose, finding = found(by=mapping(source="robot"))
    np.testing.assert_array_equal(pose, DESCRIBED)
    assert finding.status is Status.OK
