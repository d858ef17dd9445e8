# SPDX-License-Identifier: Apache-2.0
"""What MoveIt's planning scene knows around the arm, as obstacles of the command gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import Obstacle
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_quaternion
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.qos import EVENT

_BOX, _SPHERE, _CYLINDER = 1, 2, 3
"""Types of shape_msgs/SolidPrimitive."""
_ADD, _REMOVE, _APPEND, _MOVE = range(4)
"""Operations of moveit_msgs/CollisionObject."""


class SceneObstacles:
    """The world of a planning scene, kept up to date by its messages.

    Boxes, spheres and cylinders become obstacles. Meshes, cones, planes, octomaps and what is in
    another frame do not; they are told.
    """

    def __init__(self, base_frame: str) -> None:
        """Begin with an empty world.

        Args:
            base_frame: Frame that objects are given in.
        """
        self._base_frame = base_frame
        self._objects: dict[str, list[Obstacle]] = {}

    def take(self, scene: Any) -> tuple[Sequence[Obstacle], list[str]]:
        """Take a moveit_msgs/PlanningScene.

        Returns:
            All obstacles now, and what of the message is not kept clear of, for people.
        """
        told: list[str] = []
        if not scene.is_diff:
            self._objects.clear()
        for thing in scene.world.collision_objects:
            try:
                self._take_object(thing, told)
            except (ConfigError, ValueError) as error:  # of ours; of sizes that do not agree
                told.append(str(error))
        attached = getattr(scene.robot_state, "attached_collision_objects", ())
        told += [f"{each.object.id!r}, which the arm holds" for each in attached]
        if scene.world.octomap.octomap.data:
            told.append("the octomap")
        return [each for parts in self._objects.values() for each in parts], told

    def _take_object(self, thing: Any, told: list[str]) -> None:
        operation = _code(thing.operation)
        if operation == _REMOVE:
            if thing.id:
                self._objects.pop(thing.id, None)
            else:
                self._objects.clear()
            return
        if thing.header.frame_id != self._base_frame:
            raise ConfigError(
                f"{thing.id!r}, which is in frame {thing.header.frame_id!r} instead of "
                f"{self._base_frame!r}"
            )
        if operation == _MOVE:
            raise ConfigError(f"the motion of {thing.id!r}: send it as a new object")
        if thing.meshes or thing.planes:
            told.append(f"meshes and planes of {thing.id!r}")
        parts = self._parts(thing)
        before = self._objects.get(thing.id, []) if operation == _APPEND else []
        self._objects[thing.id] = [*before, *parts]

    def _parts(self, thing: Any) -> list[Obstacle]:
        placed = _matrix(thing.pose)
        parts = []
        for place, (solid, pose) in enumerate(
            zip(thing.primitives, thing.primitive_poses, strict=True)
        ):
            matrix = placed @ _matrix(pose)
            kind, size = _solid(thing.id, solid)
            parts.append(
                Obstacle(
                    name=f"{thing.id}[{place}]",
                    kind=kind,
                    size=size,
                    xyz=tuple(matrix[:3, 3].tolist()),
                    rpy=tuple(Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz").tolist()),
                )
            )
        return parts


def _code(operation: Any) -> int:
    """ROS has ``byte`` constants as bytes."""
    return operation[0] if isinstance(operation, bytes) else int(operation)


def _matrix(pose: Any) -> Any:
    at, turned = pose.position, pose.orientation
    quaternion = np.array([turned.x, turned.y, turned.z, turned.w])
    if not quaternion.any():  # ROS's way to say nothing
        quaternion = np.array([0.0, 0.0, 0.0, 1.0])
    return pose_from_xyz_quaternion([at.x, at.y, at.z], quaternion)


def _solid(name: str, solid: Any) -> tuple[Any, tuple[float, ...]]:
    size = tuple(map(float, solid.dimensions))
    if not all(edge > 0.0 for edge in size):
        raise ConfigError(f"{name!r}, whose size {size} is not positive")
    if solid.type == _BOX and len(size) == 3:
        return "box", size
    if solid.type == _SPHERE and len(size) == 1:
        return "sphere", size
    if solid.type == _CYLINDER and len(size) == 2:
        return "cylinder", (size[1], size[0])  # height first there
    raise ConfigError(f"{name!r}, a solid of type {solid.type} with dimensions {size}")


def subscribe_planning_scene(
    node: ManagedNode[Any],
    topic: str,
    base_frame: str,
    on_obstacles: Callable[[Sequence[Obstacle]], None],
) -> None:
    """Listen to MoveIt's planning scene, for example ``monitored_planning_scene``.

    What is there already is asked for once (``get_planning_scene``). Never run with MoveIt by us:
    its messages are not on PyPI.

    Args:
        node: Who listens.
        topic: Of moveit_msgs/PlanningScene.
        base_frame: Frame of the arm's base.
        on_obstacles: Gets all obstacles whenever they change.

    Raises:
        ConfigError: If moveit_msgs is not installed.
    """
    try:
        from moveit_msgs.msg import PlanningScene, PlanningSceneComponents
        from moveit_msgs.srv import GetPlanningScene
    except ImportError as error:
        raise ConfigError(
            f"planning_scene is {topic!r}, and moveit_msgs is not installed "
            "(apt: ros-jazzy-moveit-msgs)"
        ) from error
    scene = SceneObstacles(base_frame)
    known: list[Obstacle] = []

    def take(message: Any) -> None:
        obstacles, told = scene.take(message)
        for each in told:
            node.get_logger().warning(f"not kept clear of: {each}", throttle_duration_sec=5.0)
        if list(obstacles) != known:  # the arm's own state comes several times a second
            known[:] = obstacles
            on_obstacles(obstacles)

    node.create_subscription(PlanningScene, topic, take, EVENT, even_inactive=True)
    whole = node.create_client(GetPlanningScene, "get_planning_scene")

    def ask() -> None:
        """What was there before this node: messages tell changes only."""
        if not whole.service_is_ready():
            return
        asking.cancel()
        components = PlanningSceneComponents(
            components=PlanningSceneComponents.WORLD_OBJECT_NAMES
            | PlanningSceneComponents.WORLD_OBJECT_GEOMETRY
        )
        future = whole.call_async(GetPlanningScene.Request(components=components))
        future.add_done_callback(lambda done: take(done.result().scene))

    asking = node.create_timer(1.0, ask, even_inactive=True)
