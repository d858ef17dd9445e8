# SPDX-License-Identifier: Apache-2.0
"""Starts the graph described by rl100_bringup.graph.

`ros2 launch rl100_bringup robot.launch.py --show-args` lists the arguments.
"""

from dataclasses import Field, fields

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from rl100_bringup.graph import GraphArguments, describe
from rl100_policy.ros.latch import forget_stops


def _nodes(context: LaunchContext) -> list[Node]:
    forget_stops()
    given = {
        item.name: LaunchConfiguration(item.name).perform(context)
        for item in fields(GraphArguments)
    }
    return [
        Node(
            package=node.package,
            executable=node.executable,
            name=node.name,
            parameters=[node.parameters, *node.params_files],
            arguments=list(node.arguments),
            output="screen",
            respawn=node.package != "rviz2",
            respawn_delay=1.0,
            respawn_max_retries=10,
        )
        for node in describe(GraphArguments.from_strings(given))
    ]


def _default(item: Field) -> str | LaunchConfiguration:
    if item.metadata["follows"]:
        return LaunchConfiguration(item.metadata["follows"])
    return str(item.default).lower() if isinstance(item.default, bool) else str(item.default)


def generate_launch_description() -> LaunchDescription:
    """One launch argument per field of GraphArguments, then its nodes."""
    arguments = [
        DeclareLaunchArgument(
            item.name,
            default_value=_default(item),
            description=item.metadata["description"],
            choices=list(item.metadata["choices"]) or None,
        )
        for item in fields(GraphArguments)
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes)])
