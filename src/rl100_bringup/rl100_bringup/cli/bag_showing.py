# SPDX-License-Identifier: Apache-2.0
"""Telling what is in one episode."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_bringup.cli.bag_listing import states_of
from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.command_record import CommandRecord, read_commands
from rl100_policy.bags.episode_filter import driver_of
from rl100_policy.bags.judgement import standing_judgements
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.traffic import TopicTraffic, Traffic, read_traffic


def show_episode(episode: Path, console: Console) -> None:
    """Print everything that is known of a closed episode.

    Raises:
        BagError: If it is no closed episode, or cannot be read.
    """
    folder = closed_episode(episode)
    metadata = read_metadata(folder)
    traffic = read_traffic(folder, metadata)
    begin_ns = traffic.begin_ns
    console.print(_pairs(_provenance(metadata)))
    console.print(_topics(traffic))
    commands = read_commands(folder)
    if commands is None:
        console.print("who was in command is not recorded in this bag")
    else:
        console.print(_pairs(_command_lines(commands, begin_ns)))
    if metadata.judgements:
        console.print(_judgements(metadata, begin_ns))
    else:
        console.print("no judgement was given")
    for reason in metadata.degraded_reasons:
        console.print(f"degraded: {reason}", highlight=False, markup=False, soft_wrap=True)


def _pairs(lines: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        if value:
            table.add_row(name, escape(value))
    return table


def _provenance(meta: EpisodeMetadata) -> list[tuple[str, str]]:
    state = ", ".join(states_of(meta)) or "whole"
    ended = meta.end_reason or "not known"
    return [
        ("episode", meta.episode_id),
        ("outcome", meta.outcome.value),
        ("decided at", _moment(meta)),
        ("driver", driver_of(meta)),
        ("operator", meta.operator),
        ("task", meta.task),
        ("robot", meta.robot),
        ("state", state),
        ("ended", ended),
        ("tags", ", ".join(f"{key}={value}" for key, value in meta.tags.items())),
        ("software", meta.software_version),
        ("descriptions", meta.config_hash[:12]),
    ]


def _moment(meta: EpisodeMetadata) -> str:
    """When the person saw the outcome; the episode is over for a learner then."""
    moment_ns = meta.verdict.moment_ns
    return f"{(moment_ns - meta.start_ns) / 1e9:.2f} s after the start" if moment_ns else ""


def _topics(traffic: Traffic) -> Table:
    """Two lines per topic, so that the table fits into 80 columns."""
    legend = "want: expected rate; gap: longest; from, to: first and last stamp, s in the episode"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=legend)
    table.add_column("topic and type", overflow="fold")
    for title in ("n", "MB", "Hz", "want", "gap", "from", "to"):
        table.add_column(title, justify="right", no_wrap=True)
    for topic in traffic.topics:
        table.add_row(*_topic_row(topic, traffic.begin_ns))
    return table


def _topic_row(topic: TopicTraffic, begin_ns: int) -> list[str]:
    expected = topic.expected_period_s
    first, last = ((int(topic.stamps_ns[at]) - begin_ns) / 1e9 for at in (0, -1))
    return [
        f"{escape(topic.name)}\n {topic.type_name.replace('/msg/', '/')}",
        str(topic.messages),
        f"{topic.bytes / 1e6:.2f}",
        _number(topic.rate_hz, ".1f"),
        _number(1 / expected if expected else None, ".1f"),
        _number(topic.largest_gap_s, ".2f"),
        f"{first:.2f}",
        f"{last:.2f}",
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _command_lines(commands: CommandRecord, begin_ns: int) -> list[tuple[str, str]]:
    shares = [f"{name} {share:.0%}" for name, share in commands.shares().items()]
    taken = [
        f"{(each.begin_ns - begin_ns) / 1e9:.1f} s for {(each.end_ns - each.begin_ns) / 1e9:.1f} s"
        for each in commands.interventions()
    ]
    flags = [f"{name} {count}" for name, count in commands.flag_counts().items()]
    versions = sorted(set(filter(None, commands.versions)))
    return [
        ("in command", ", ".join(shares) + f" of {len(commands.stamps_ns)} control periods"),
        ("versions", ", ".join(versions)),
        ("interventions", f"{len(taken)}: at {', '.join(taken)}" if taken else ""),
        ("gate", ", ".join(flags) or "every request passed unchanged"),
        ("malformed", f"{commands.malformed} commands" if commands.malformed else ""),
    ]


def _judgements(meta: EpisodeMetadata, begin_ns: int) -> Table:
    """Every one ever given, as they were given; the one that decides is marked."""
    standing = standing_judgements(meta.judgements)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("judged at [s]", justify="right", no_wrap=True)
    for title in ("judgement", "reward", "by"):
        table.add_column(title, overflow="fold")
    table.add_column("state", no_wrap=True)
    for each in meta.judgements:
        stands = any(each is other for other in standing)
        state = "decides" if standing and each is standing[-1] else "stands" if stands else ""
        table.add_row(
            f"{(each.stamp_ns - begin_ns) / 1e9:.2f}", each.kind.name.lower(),
            f"{each.reward:g}", escape(each.source), state,
        )  # fmt: skip
    return table
