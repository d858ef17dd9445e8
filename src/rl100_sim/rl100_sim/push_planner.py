# SPDX-License-Identifier: Apache-2.0
"""Where to push a planar object: contacts on its outline, what a push does, the way there.

Everything is expressed in the object frame, where outline and pushes are constant. Poses are (x,
y, yaw), m and rad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_sim.planar_object import PlanarObject, rotation, to_base, wrap_angle

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

CONTACT_SPACING = 0.01
"""Distance of neighbouring contacts along an edge [m]."""
STANDOFF = 0.014
"""Gap between tool and object while walking around it [m]."""
LEAST_GAP = 0.004
"""Gap below which a straight way counts as blocked [m]."""
ENGAGED_LATERAL = 0.008
"""A tool off a contact by less than this along the edge, within the standoff, pushes [m]."""
_CORNER_MARGIN = 0.007
_CONE_SHARES = (-0.7, 0.0, 0.7)
"""Directions of the pushing force within the friction cone."""
_PUSH_LENGTHS = np.concatenate([np.arange(0.004, 0.04, 0.004), np.arange(0.04, 0.26, 0.01)])
_LEAST_PROGRESS = 0.001
"""A push that brings the object less far is not worth being made [m]."""
_USELESS = 10.0
"""Cost of making it all the same [s]."""
_OUT_OF_REACH = 3.0
"""Weight of a metre out of reach against a metre of distance."""
_RING_POINTS = 48
_SEGMENT_SAMPLES = 12


@dataclass(frozen=True)
class Contacts:
    """C places where the tool can touch the outline, object frame."""

    tool: Floats
    """Tool centre when it touches, [C, 2], m."""
    outward: Floats
    """Outward normal of the edge, [C, 2]."""
    velocity: Floats
    """Unit tool velocity of each push that sticks, [C, D, 2]."""
    displacement: Floats
    """Motion of the object's origin after pushing over each length, [C, D, S, 2], m."""
    turn: Floats
    """Its rotation, [C, D, S], rad."""

    def __len__(self) -> int:
        return len(self.tool)

    @property
    def approach(self) -> Floats:
        """Tool centre in front of each contact at the standoff, [C, 2], m."""
        return self.tool + STANDOFF * self.outward


def find_contacts(item: PlanarObject, tool_radius: float) -> Contacts:
    """Contacts along all edges that a disc of the tool's radius can touch, and the pushes there.

    A force f at the point r moves the object with the planar twist (f, r x f / L^2) (ellipsoidal
    limit surface). Pushing at a fixed place in a fixed direction of the object frame therefore
    moves it along a circular arc.
    """
    points, outward = _outline(item)
    tool = points + tool_radius * outward
    free = item.distance(np.zeros(3), tool) > tool_radius - 1e-4
    points, outward, tool = points[free], outward[free], tool[free]
    cone = np.arctan(item.tool_friction)
    forces = np.stack([-outward @ rotation(share * cone).T for share in _CONE_SHARES], axis=1)
    spin = (
        points[:, None, 0] * forces[..., 1] - points[:, None, 1] * forces[..., 0]
    ) / item.friction_radius**2
    velocity = forces + spin[..., None] * np.stack([-points[:, 1], points[:, 0]], axis=-1)[:, None]
    speed = np.linalg.norm(velocity, axis=-1)
    displacement, turn = _arcs(forces / speed[..., None], spin / speed)
    return Contacts(tool, outward, velocity / speed[..., None], displacement, turn)


def _outline(item: PlanarObject) -> tuple[Floats, Floats]:
    """Points on the edges of all rectangles and their outward normals, [P, 2] each."""
    points, normals = [], []
    for r in item.rectangles:
        for normal, half, reach in (((1, 0), r.half_x, r.half_y), ((0, 1), r.half_y, r.half_x)):
            n_points = max(2, round(2.0 * (reach - _CORNER_MARGIN) / CONTACT_SPACING) + 1)
            along = np.linspace(-(reach - _CORNER_MARGIN), reach - _CORNER_MARGIN, n_points)
            for sign in (-1.0, 1.0):
                axis = sign * np.array(normal, dtype=float)
                tangent = np.array([-axis[1], axis[0]])
                points.append((r.x, r.y) + half * axis + along[:, None] * tangent)
                normals.append(np.broadcast_to(axis, (n_points, 2)))
    return np.concatenate(points), np.concatenate(normals)


def _arcs(velocity: Floats, spin: Floats) -> tuple[Floats, Floats]:
    """Displacement [C, D, S, 2] and rotation [C, D, S] after moving with a constant body twist."""
    turn = spin[..., None] * _PUSH_LENGTHS
    small = np.abs(turn) < 1e-9
    safe = np.where(small, 1.0, turn)
    along = np.where(small, 1.0, np.sin(safe) / safe) * _PUSH_LENGTHS
    across = np.where(small, 0.0, (1.0 - np.cos(safe)) / safe) * _PUSH_LENGTHS
    vx, vy = velocity[..., None, 0], velocity[..., None, 1]
    return np.stack([vx * along - vy * across, vx * across + vy * along], axis=-1), turn


class Route:
    """Shortest ways for the tool around one object.

    A visibility graph of a ring around the object and the approach points of the contacts.
    """

    def __init__(self, item: PlanarObject, tool_radius: float, contacts: Contacts) -> None:
        """Build the graph; in the object frame it never changes."""
        self._item, self._radius, self._contacts = item, tool_radius, contacts
        corners = item.corners(np.zeros(3))
        angles = 2.0 * np.pi * np.arange(_RING_POINTS) / _RING_POINTS
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        ring = (
            corners[np.argmax(directions @ corners.T, axis=1)]
            + (tool_radius + STANDOFF) * directions
        )
        self._nodes: Floats = np.concatenate([ring, contacts.approach])
        clear = np.array([self.is_clear(node, self._nodes) for node in self._nodes])
        gaps = np.linalg.norm(self._nodes[:, None] - self._nodes, axis=-1)
        self._edges: Floats = np.where(clear & clear.T, gaps, np.inf)

    def is_clear(self, start: Floats, ends: Floats) -> NDArray[np.bool_]:
        """Whether the tool can go straight from start [2] to each end [E, 2] clear of the object.

        A tool that stands nearer than the least gap may only go where the gap widens.
        """
        share = np.arange(1, _SEGMENT_SAMPLES + 1)[:, None, None] / _SEGMENT_SAMPLES
        points = start + share * (ends - start)
        gap = self._item.distance(np.zeros(3), points) - self._radius
        here = float(self._item.distance(np.zeros(3), start)) - self._radius
        walked = np.linalg.norm(points - start, axis=-1)
        clear: NDArray[np.bool_] = gap >= np.minimum(LEAST_GAP, here + 0.3 * walked - 1e-6)
        return np.all(clear, axis=0)

    def ways(
        self, tool: Floats, object_pose: Floats, low: Floats, high: Floats
    ) -> tuple[Floats, Floats]:
        """Shortest way from the tool to the approach point of every contact.

        Args:
            tool: Tool centre in the object frame, [2], m.
            object_pose: (x, y, yaw), only for the box.
            low: Lower corner of the box in the base frame that the tool may not leave, [2], m.
            high: Upper corner.

        Returns:
            Length [C], m, infinite when there is no way; and the point to go to first, [C, 2],
            object frame.
        """
        nodes = to_base(object_pose, self._nodes)
        allowed: NDArray[np.bool_] = np.all((nodes >= low) & (nodes <= high), axis=1)
        direct = np.linalg.norm(self._nodes - tool, axis=1)
        direct[~(allowed & self.is_clear(tool, self._nodes))] = np.inf
        edges = np.where(allowed[:, None] & allowed, self._edges, np.inf)
        length, first = direct, np.arange(len(direct))
        while True:
            through = length[:, None] + edges
            best = np.argmin(through, axis=0)
            shorter = through[best, np.arange(len(best))]
            better = shorter < length - 1e-9
            if not better.any():
                break
            length, first = np.where(better, shorter, length), np.where(better, first[best], first)
        return length[_RING_POINTS:], self._nodes[first[_RING_POINTS:]]

    def offsets(self, tool: Floats) -> tuple[Floats, Floats]:
        """Position of the tool relative to every contact, [C] each, m.

        Along the edge (positive to the left of outward), and outwards.
        """
        relative = tool - self._contacts.tool
        outward = self._contacts.outward
        return outward[:, 0] * relative[:, 1] - outward[:, 1] * relative[:, 0], np.sum(
            outward * relative, axis=1
        )


def is_engaged(lateral: Floats, gap: Floats) -> NDArray[np.bool_]:
    """Whether a tool at these offsets from a contact is in front of it, ready to push."""
    return (np.abs(lateral) < ENGAGED_LATERAL) & (gap < STANDOFF + 0.005) & (gap > -0.006)


@dataclass(frozen=True)
class Preferences:
    """What a plan costs, in seconds."""

    walking_speed: float
    """[m/s]."""
    pushing_speed: float
    """[m/s]."""
    position_aim: float
    """Distance from the goal that is aimed at [m]."""
    yaw_aim: float
    """[rad]."""
    yaw_length: float = 0.08
    """What one radian of error counts in metres."""
    detour: float = 2.0
    """How much longer than the remaining error the pushes are that correct it."""
    another_push: float = 3.0
    """Cost of having to push once more [s]."""


def push_costs(
    contacts: Contacts,
    object_pose: Floats,
    goal_pose: Floats,
    low: Floats,
    high: Floats,
    wish: Preferences,
) -> tuple[Floats, Indices]:
    """Cost of the best push at every contact: its duration, plus what it leaves to do.

    Args:
        contacts: C places to push at.
        object_pose: (x, y, yaw) in the base frame.
        goal_pose: The same of the goal.
        low: Lower corner of the box in the base frame that the object's origin should not leave,
            [2], m.
        high: Upper corner.
        wish: Weights.

    Returns:
        Cost [C], s, and the index of the best direction [C].
    """
    yaw = wrap_angle(float(object_pose[2] - goal_pose[2]))
    position = object_pose[:2] + contacts.displacement @ rotation(object_pose[2]).T
    left = _work_left(position, yaw + contacts.turn, goal_pose, low, high, wish)
    now = _work_left(object_pose[:2], yaw, goal_pose, low, high, wish)
    cost = (_PUSH_LENGTHS + wish.detour * left) / wish.pushing_speed + wish.another_push * (
        left > 0.0
    )
    cost = np.where(left < now - _LEAST_PROGRESS, cost, cost + _USELESS)
    per_direction = cost.min(axis=2)
    return per_direction.min(axis=1), per_direction.argmin(axis=1)


def _work_left(
    position: Floats,
    yaw: Floats | float,
    goal_pose: Floats,
    low: Floats,
    high: Floats,
    wish: Preferences,
) -> Floats:
    """Distance to what is aimed at, m; zero when it is reached.

    Errors of yaw and positions out of reach are included.
    """
    offset = position - goal_pose[:2]
    distance = np.maximum(np.hypot(offset[..., 0], offset[..., 1]) - wish.position_aim, 0.0)
    turn = np.maximum(np.abs(yaw) - wish.yaw_aim, 0.0)
    outside = (np.maximum(low - position, 0.0) + np.maximum(position - high, 0.0)).sum(axis=-1)
    return distance + wish.yaw_length * turn + _OUT_OF_REACH * outside
