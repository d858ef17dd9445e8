# SPDX-License-Identifier: Apache-2.0
"""Replaying an episode from a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rl100_bringup.replaying import EpisodeReplay, ReplaySettings
from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.playback import Permission, chosen_topics, playback_topics
from rl100_policy.bags.reading import read_metadata
from rl100_policy.ros.transport import keep_on_this_machine

_WHY_NOT = {
    Permission.NAMED: "somebody could act on it; --topics {name} replays it",
    Permission.NEVER: "it moves an arm",
}


def replay_episode(episode: Path, settings: ReplaySettings, console: Console) -> None:
    """Publish a closed episode into the running graph; tells what is published and what is not.

    Raises:
        BagError: If it is no closed episode, or a topic is not in it.
        ReplayError: If the graph is not one to replay into.
    """
    folder = closed_episode(episode)
    topics = playback_topics(folder, read_metadata(folder).expected_periods_s)
    chosen = chosen_topics(topics, settings.topics)
    for each in chosen:
        if each.permission is Permission.NAMED:
            console.print(
                f"[yellow]warning:[/yellow] {each.name} is replayed because you named it: "
                "whatever listens to it acts on it",
                highlight=False,
                soft_wrap=True,
            )
    keep_on_this_machine()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"episode_replay_{os.getpid()}")
    try:
        replay = EpisodeReplay(node, folder, chosen, settings)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for title in ("topic", "messages", "replayed"):
            table.add_column(title, overflow="fold")
        for topic in topics:
            why = replay.left_out.get(topic.name, "")
            if topic not in chosen:
                why = _WHY_NOT.get(topic.permission, "not named").format(name=topic.name)
            table.add_row(topic.name, str(topic.messages), f"no: {why}" if why else "yes")
        console.print(table)
        console.print(
            f"replaying in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}; Ctrl-C stops it",
            highlight=False,
            soft_wrap=True,
        )
        done = replay.run()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    console.print(
        f"replayed {sum(done.messages.values())} messages on {len(done.messages)} topics, "
        f"each at most {1000 * done.late_s:.0f} ms late",
        highlight=False,
        soft_wrap=True,
    )
