# SPDX-License-Identifier: Apache-2.0
"""MoveIt's planning scene as obstacles; its messages are not on PyPI, so they are made up here."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace as Made

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose, Quaternion

from rl100_policy.core.errors import ConfigError
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.ros.planning_scene import SceneObstacles
from rl100_policy.ros.testing import isolated_ros

ADD, REMOVE, APPEND, MOVE = (bytes([code]) for code in range(4))


def at(x, y=0.0, z=0.0, about_z=0.0):
    turned = Quaternion(z=np.sin(about_z / 2), w=np.cos(about_z / 2))
    return Pose(position=Point(x=x, y=y, z=z), orientation=turned)


def thing(name, *solids, operation=ADD, frame="base", pose=None, **more):
    """A moveit_msgs/CollisionObject of (type, dimensions, pose)."""
    return Made(
        id=name,
        operation=operation,
        header=Made(frame_id=frame),
        pose=pose or at(0.0),
        primitives=[Made(type=kind, dimensions=size) for kind, size, _ in solids],
        **{
            "primitive_poses": [placed for *_, placed in solids],
            "meshes": [],
            "planes": [],
        }
        | more,
    )


def scene(*things, is_diff=True, octomap=b"", held=()):
    return Made(
        is_diff=is_diff,
        world=Made(collision_objects=things, octomap=Made(octomap=Made(data=octomap))),
        robot_state=Made(attached_collision_objects=[Made(object=each) for each in held]),
    )


BOX = (1, [0.1, 0.2, 0.3], at(1.0))
BALL = (2, [0.05], at(0.0, 0.5))
CAN = (3, [0.4, 0.06], at(0.0, 0.0, 0.2))


def test_boxes_spheres_and_cylinders_become_obstacles():
    found, told = SceneObstacles("base").take(scene(thing("crate", BOX, BALL, CAN)))
    assert not told
    assert [each.name for each in found] == ["crate[0]", "crate[1]", "crate[2]"]
    assert [each.kind for each in found] == ["box", "sphere", "cylinder"]
    assert [each.size for each in found] == [(0.1, 0.2, 0.3), (0.05,), (0.06, 0.4)]
    np.testing.assert_allclose([each.xyz for each in found], [[1, 0, 0], [0, 0.5, 0], [0, 0, 0.2]])


def test_a_part_is_placed_in_its_object():
    turned = at(0.0, 0.0, 1.0, about_z=np.pi / 2)
    (box,), _ = SceneObstacles("base").take(scene(thing("crate", BOX, pose=turned)))
    np.testing.assert_allclose(box.xyz, [0.0, 1.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(box.rpy, [0.0, 0.0, np.pi / 2], atol=1e-12)


def test_objects_are_added_appended_replaced_and_removed():
    world = SceneObstacles("base")
    world.take(scene(thing("a", BOX), thing("b", BALL)))
    found, _ = world.take(scene(thing("a", CAN, operation=APPEND)))
    assert [each.kind for each in found] == ["box", "cylinder", "sphere"]
    found, _ = world.take(scene(thing("a", BALL)))
    assert [each.kind for each in found] == ["sphere", "sphere"]
    found, _ = world.take(scene(thing("b", operation=REMOVE)))
    assert [each.name for each in found] == ["a[0]"]
    found, _ = world.take(scene(thing("c", BOX), is_diff=False))
    assert [each.name for each in found] == ["c[0]"]
    found, _ = world.take(scene(thing("", operation=REMOVE)))
    assert not found


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (scene(thing("far", BOX, frame="camera")), "in frame 'camera' instead of 'base'"),
        (scene(thing("cone", (4, [0.1, 0.1], at(0.0)))), "a solid of type 4"),
        (scene(thing("flat", (1, [0.1, 0.0, 0.1], at(0.0)))), "not positive"),
        (scene(thing("moved", operation=MOVE)), "the motion of 'moved'"),
        (scene(thing("part", BOX, meshes=["mesh"])), "meshes and planes of 'part'"),
        (scene(octomap=b"x"), "octomap"),
        (scene(held=[thing("cup", CAN)]), "'cup', which the arm holds"),
        (scene(thing("lost", (1, [0.1] * 3, at(float("nan"))))), "finite number"),
        (scene(thing("odd", BOX, primitive_poses=[])), "shorter"),
    ],
)
def test_what_is_not_kept_clear_of_is_told(message, said):
    world = SceneObstacles("base")
    world.take(scene(thing("kept", BOX)))
    found, told = world.take(message)
    assert len(told) == 1
    assert said in told[0]
    assert found[0].name == "kept[0]"


@pytest.mark.ros
@pytest.mark.skipif(find_spec("moveit_msgs") is not None, reason="moveit_msgs is installed")
def test_a_gate_that_is_to_listen_and_cannot_does_not_start():
    config = Path(__file__).parents[2] / "rl100_bringup" / "config"
    given = {
        "robot_config": config / "robots" / "panda.yaml",
        "task_config": config / "tasks" / "push_t.yaml",
        "planning_scene": "monitored_planning_scene",
    }
    with isolated_ros(**given):
        gate = CommandGateNode()
        with pytest.raises(ConfigError, match="moveit_msgs is not installed"):
            gate.start()
        gate.destroy_node()
