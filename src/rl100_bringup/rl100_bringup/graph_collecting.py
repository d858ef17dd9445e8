# SPDX-License-Identifier: Apache-2.0
"""Roll-outs through the ROS graph: a scripted operator lets a version drive, bags are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from rl100_bringup.collecting import OnEpisodes
from rl100_bringup.graph import GraphArguments, config_path
from rl100_bringup.session import own_graph, run_operator
from rl100_learner.training.bag_collector import BagCollector, Wanted
from rl100_policy.core.config import load_robot, load_task


@contextmanager
def graph_collector(
    robot: str,
    task: str,
    output: Path,
    gamma: float,
    on_episodes: OnEpisodes,
    console: Console,
) -> Iterator[BagCollector]:
    """A collector with a graph of its own, for as long as the context lasts.

    Args:
        robot: Name or path of the robot description.
        task: Name or path of the task description.
        output: Folder of the run; its bags go to ``bags`` in it, the logs to ``log``.
        gamma: Discount of one control period.
        on_episodes: Told of progress.
        console: Told where the graph is.

    Raises:
        NodeDiedError: If a node of the graph fails.
    """
    bags = output / "bags"
    arguments = GraphArguments(lockstep=True, bags=str(bags), robot=robot, task=task)
    with own_graph(arguments, output / "log", console) as graph:

        def ask(wanted: Wanted) -> None:
            what = f"{wanted.version.name} drives"
            begun = wanted.total - len(wanted.seeds)
            run_operator(
                graph,
                arguments,
                lambda done, won: on_episodes(what, begun + done, wanted.total, won),
                mode="supervise",
                episodes=len(wanted.seeds),
                first_seed=wanted.seeds.start,
                policy=str(wanted.version.resolve()),
                sampler="ddim",
                stochastic=wanted.stochastic,
            )

        yield BagCollector(
            bags,
            output / "versions",
            load_task(config_path("tasks", task)),
            load_robot(config_path("robots", robot)),
            gamma,
            ask,
        )
