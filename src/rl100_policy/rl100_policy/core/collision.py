# SPDX-License-Identifier: Apache-2.0
"""Distance of an arm's links from each other and from what stands around it.

By pinocchio and coal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import coal
import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from rl100_policy.core.arm_model import ArmModel
from rl100_policy.core.config import Obstacle, RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.shares import resolve_uri

Floats = NDArray[np.float64]

TOOL = "tool"
"""Name of the tool among the links."""
_LEAST_ADVANCE = 0.5
"""Shortest motion of any point of the arm between two looks, as a share of the margin."""
_ROUNDING = 1e-5
"""Of distances [m]."""


@dataclass(frozen=True)
class Clearance:
    """The two shapes that are nearest to each other, and how near."""

    distance: float
    """[m]; below zero they overlap."""
    between: tuple[str, str]
    """Names of the links or obstacles."""


class ArmCollision:
    """Shapes of an arm, its tool and the obstacles of its description.

    Meshes are taken as their convex hulls, which are never smaller. Not looked at are pairs that
    cannot move relative to each other, neighbours in the chain of joints, and what the description
    names in ``collision`` and ``touch``. Not thread-safe.
    """

    def __init__(self, arm: ArmModel, more: Sequence[Obstacle] = ()) -> None:
        """Read the shapes.

        Args:
            arm: The arm, with its description.
            more: Obstacles beside those of the description, wherever the arm is now.

        Raises:
            ConfigError: If a mesh or the SRDF cannot be read, or the arm at home is nearer to
                itself or to an obstacle of its description than the margin.
        """
        self._arm, robot = arm, arm.robot
        self.margin = robot.collision.margin
        self._shapes = arm.collision_shapes()
        for shape in self._shapes.geometryObjects:
            shape.geometry = _convex(shape.geometry)
        self._owner = [self._link_of(shape) for shape in self._shapes.geometryObjects]
        self.without_shape = self._links_without_shape()
        """Links that move, have no ``collision`` element and so are not looked at."""
        self._add_tool(robot)
        self._obstacles = (*robot.obstacles, *more)
        for obstacle in self._obstacles:
            self._add(obstacle.name, 0, self._arm.t_root_base * _pose(obstacle), _solid(obstacle))
        self.ignored = self._ignored(robot)
        self._pair_up()
        self._data, self._found = arm.model.createData(), self._shapes.createData()
        self._lever = self._levers()
        self._known: tuple[Floats, Floats] | None = None
        """Joint positions, [n], and the distances that were found there, [p]."""
        newly = {each.name for each in more}
        near = [
            each for each in self.too_near(np.array(robot.home)) if not newly & set(each.between)
        ]
        if near:
            told = ", ".join(
                f"{' and '.join(each.between)} ({each.distance:.3f} m)" for each in near
            )
            raise ConfigError(
                f"robot {robot.name!r} at home is nearer than collision.margin {self.margin} m to "
                f"itself or an obstacle: {told}; mend the home position, the tool or the "
                "obstacle, or name pairs that may touch in collision.ignore or touch"
            )

    # What there is

    def _link_of(self, shape: pin.GeometryObject) -> str:
        return str(self._arm.model.frames[shape.parentFrame].name)

    def _links_without_shape(self) -> tuple[str, ...]:
        """Also of links that are a frame only, such as a flange."""
        bodies = (f for f in self._arm.model.frames if f.type == pin.FrameType.BODY)
        with_shape = {shape.parentJoint for shape in self._shapes.geometryObjects}
        return tuple(
            str(body.name)
            for body in bodies
            if body.parentJoint and body.parentJoint not in with_shape
        )

    def _add(self, name: str, joint: int, placement: pin.SE3, solid: object) -> None:
        self._shapes.addGeometryObject(pin.GeometryObject(name, joint, placement, solid))
        self._owner.append(name)

    def _add_tool(self, robot: RobotConfig) -> None:
        """The cylinder that the arm holds."""
        tip = self._arm.model.frames[self._arm.tool]
        middle = tip.placement * pin.SE3(np.eye(3), np.array([0.0, 0.0, -robot.tool.length / 2]))
        solid = coal.Cylinder(robot.tool.radius, robot.tool.length)
        self._add(TOOL, tip.parentJoint, middle, solid)

    def _ignored(self, robot: RobotConfig) -> frozenset[frozenset[str]]:
        """Pairs that the description allows to touch; raises ConfigError for unknown names."""
        pairs = list(robot.collision.ignore)
        pairs += [(each.name, link) for each in robot.obstacles for link in each.touch]
        links = {str(frame.name) for frame in self._arm.model.frames}
        unknown = sorted({name for pair in pairs for name in pair} - set(self._owner) - links)
        if unknown:
            raise ConfigError(
                f"collision.ignore or touch of robot {robot.name!r} names {unknown}; there are "
                f"{sorted(set(self._owner))}"
            )
        return frozenset(map(frozenset, pairs))

    def _pair_up(self) -> None:
        """Choose the pairs of shapes to look at."""
        arm, shapes = self._arm, self._shapes
        obstacles = {each.name for each in self._obstacles}
        for pair in combinations(range(len(self._owner)), 2):
            upper, lower = sorted(shapes.geometryObjects[each].parentJoint for each in pair)
            names = frozenset(self._owner[each] for each in pair)
            neighbours = arm.model.parents[lower] == upper and not names & obstacles
            if upper != lower and not neighbours and names not in self.ignored:
                shapes.addCollisionPair(pin.CollisionPair(*pair))
        if arm.robot.collision.srdf is None:
            return
        path = str(resolve_uri(arm.robot.collision.srdf))
        try:
            pin.removeCollisionPairs(arm.model, shapes, path)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the SRDF {path} of robot {arm.robot.name!r} cannot be read: {error}"
            ) from error

    def _levers(self) -> Floats:
        """Farthest that the shapes of each pair come nearer per rad, or m, of each joint, [p, n].

        Only joints between the two shapes do that, and none moves a point by more than its
        distance along the links.
        """
        model, names = self._arm.model, self._arm.robot.joints
        places = {model.getJointId(name): place for place, name in enumerate(names)}
        levers = np.zeros((len(self._shapes.collisionPairs), len(names)))
        for row, pair in enumerate(self._shapes.collisionPairs):
            shapes = [self._shapes.geometryObjects[each] for each in (pair.first, pair.second)]
            supports = [set(model.supports[shape.parentJoint]) for shape in shapes]
            for shape, support in zip(shapes, supports, strict=True):
                far = _extent(shape)
                for joint in sorted(support, reverse=True):
                    if joint in places and joint not in supports[0] & supports[1]:
                        levers[row, places[joint]] = 1.0 if self._slide(joint) else far
                    far += float(np.linalg.norm(model.jointPlacements[joint].translation))
                    far += self._slide(joint)
        return levers

    def _slide(self, joint: int) -> float:
        """How far a prismatic joint lengthens the arm [m]; 0 of one that turns."""
        kind = self._arm.model.joints[joint]
        if not kind.shortname().startswith("JointModelP"):
            return 0.0
        limits = self._arm.model.lowerPositionLimit, self._arm.model.upperPositionLimit
        return float(max(abs(each[kind.idx_q]) for each in limits))

    # How near

    def clearance(self, q: Floats) -> Clearance:
        """The nearest pair at joint positions, [n] rad; infinitely far where there is no pair."""
        if not len(self._lever):
            return Clearance(np.inf, ("", ""))
        nearest = pin.computeDistances(
            self._arm.model, self._data, self._shapes, self._found, self._arm.configuration(q)
        )
        found = np.array([each.min_distance for each in self._found.distanceResults])
        self._known = np.array(q), found
        return Clearance(float(found[nearest]), self._names(nearest))

    def allowed(self, q: Floats, before: Floats | None = None) -> Floats:
        """How near the shapes of each pair may come after joint positions, [p], m.

        That is the margin; of a pair that is nearer it is how near it is, and of one that was
        nearer before the most that it has been since.

        Args:
            q: Joint positions, [n], rad.
            before: What was allowed before them, [p], m.
        """
        now = self.distances(q)
        return np.minimum(self.margin, now if before is None else np.maximum(before, now))

    def distances(self, q: Floats) -> Floats:
        """Of every pair at joint positions, [p], m."""
        if not len(self._lever):
            return np.zeros(0)
        self.clearance(q)
        assert self._known is not None, "just found"
        return self._known[1]

    def too_near(self, q: Floats) -> list[Clearance]:
        """Every pair of links or obstacles that is nearer than the margin, each once."""
        near: dict[tuple[str, str], float] = {}
        for index, distance in enumerate(self.distances(q)):
            if distance < self.margin:
                names = self._names(index)
                near[names] = min(near.get(names, np.inf), float(distance))
        return [Clearance(distance, names) for names, distance in near.items()]

    def _names(self, pair: int) -> tuple[str, str]:
        shapes = self._shapes.collisionPairs[pair]
        return self._owner[shapes.first], self._owner[shapes.second]

    def keeps(self, start: Floats, ends: Floats, least: Floats) -> bool:
        """Whether straight joint lines through some positions stay as far from everything.

        Two shapes come nearer by no more than the joints between them times their levers. So from
        a look that found their distance, the next one is due where that could have been used up;
        half a margin farther at the least, by which the distance between two looks may be a
        quarter of the margin less.

        Args:
            start: Joint positions where the lines begin, which are far enough, [n], rad.
            ends: Where each of them ends, [p, n], rad.
            least: Distances of the pairs, which are kept but for rounding, [p], m.
        """
        least = least - _ROUNDING
        return all(self._line_keeps(begin, end, least) for begin, end in pairwise([start, *ends]))

    def _line_keeps(self, begin: Floats, end: Floats, least: Floats) -> bool:
        way = end - begin
        lengths, gone = self._lever @ np.abs(way), 0.0
        if self._known is None:
            self.clearance(begin)
        while len(lengths):
            q, left = begin + gone * way, (1.0 - gone) * lengths
            if (self._kept(q) - least >= left).all():
                break
            self.clearance(q)
            room = self._kept(q) - least
            if (room >= left).all():
                break
            if (gone > 0.0 and (room < 0.0).any()) or not np.isfinite(room).all():
                return False
            step = np.maximum(room, _LEAST_ADVANCE * self.margin)
            gone += float((step / np.maximum(lengths, _ROUNDING)).min())
            gone = min(1.0, gone)
        return True

    def _kept(self, q: Floats) -> Floats:
        """Distances that the pairs have at joint positions for certain, [p], m."""
        assert self._known is not None, "a distance has been found before"
        known, found = self._known
        return np.asarray(found - self._lever @ np.abs(q - known))


def _extent(shape: pin.GeometryObject) -> float:
    """Farthest that a shape reaches from its joint [m]."""
    shape.geometry.computeLocalAABB()
    middle = shape.placement.act(shape.geometry.aabb_center)
    return float(np.linalg.norm(middle)) + float(shape.geometry.aabb_radius)


def _convex(solid: object) -> object:
    """The convex hull of a mesh; other solids are convex."""
    if not isinstance(solid, coal.BVHModelBase):
        return solid
    if not solid.buildConvexHull(True, "Qt"):
        raise ConfigError(f"no convex hull of a collision mesh with {solid.num_vertices} vertices")
    return solid.convex


def _pose(obstacle: Obstacle) -> pin.SE3:
    return pin.SE3(pose_from_xyz_rpy(obstacle.xyz, obstacle.rpy))


def _solid(obstacle: Obstacle) -> object:
    match obstacle.kind:
        case "box":
            return coal.Box(*obstacle.size)
        case "cylinder":
            return coal.Cylinder(*obstacle.size)
        case "sphere":
            return coal.Sphere(*obstacle.size)
