# SPDX-License-Identifier: Apache-2.0
"""What a person does with a running graph, as calls.

Collect demonstrations, evaluate a version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rl100_bringup.graph import GraphArguments, describe, operator_description
from rl100_bringup.processes import RunningGraph
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.bags.judgement import Outcome
from rl100_policy.ros.domain import free_domain

OnEpisodes = Callable[[int, int], None]
"""Called with episodes done and successes among them."""


@contextmanager
def own_graph(
    arguments: GraphArguments, log_folder: Path, console: Console
) -> Iterator[RunningGraph]:
    """A graph in a ROS domain of its own, since another one may be running beside it."""
    with (
        free_domain() as domain,
        RunningGraph(describe(arguments), log_folder, domain=domain) as graph,
    ):
        console.print(
            f"graph started in ROS domain {domain}; from another terminal "
            f"ROS_DOMAIN_ID={domain} ./rl100 estop stops its arm, and "
            f"ROS_DOMAIN_ID={domain} ./rl100 shell is for whoever watches"
        )
        yield graph


@dataclass(frozen=True)
class Trials:
    """Episodes of one run of the operator, read back from their bags."""

    episodes: tuple[IndexEntry, ...]
    wall_s: float

    @property
    def successes(self) -> int:
        """Episodes judged a success."""
        return _successes(self.episodes)


def run_operator(
    graph: RunningGraph,
    arguments: GraphArguments,
    on_episodes: OnEpisodes,
    **parameters: str | float | bool,
) -> Trials:
    """Let the scripted operator do its episodes and read them back from the bag folder.

    Args:
        graph: The running graph.
        arguments: What it was started with.
        on_episodes: Progress.
        parameters: Of the operator node.

    Raises:
        NodeDiedError: If the operator or a node of the graph fails.
        BagError: If the bag folder cannot be read.
    """
    bags = Path(arguments.bags)
    found = read_index(bags)
    before = {entry.folder for entry in found.entries}
    started = time.monotonic()

    def look() -> list[IndexEntry]:
        nonlocal found
        found = read_index(bags, found)
        done = [entry for entry in found.entries if entry.folder not in before]
        on_episodes(len(done), _successes(done))
        return done

    graph.run_to_end(operator_description(arguments, **parameters), poll_s=0.5, on_poll=look)
    return Trials(tuple(look()), time.monotonic() - started)


def _successes(episodes: Iterable[IndexEntry]) -> int:
    return sum(entry.metadata.outcome is Outcome.SUCCESS for entry in episodes)
