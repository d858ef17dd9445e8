# SPDX-License-Identifier: Apache-2.0
"""A run of a claim whose policy drives through the ROS graph when it has learned."""

import pytest

from rl100_bringup.reproduction import reproducing
from rl100_bringup.reproduction.claims import GRAPH, PUSH_T, Variant
from rl100_bringup.reproduction.jobs import Job
from rl100_bringup.reproduction.reproducing import run_job
from rl100_bringup.reproduction.summaries import summarise
from rl100_policy.bags.index import read_index
from rl100_policy.core.policy_version import read_manifest

TINY = ("episodes=all", "imitation.steps=12", "distillation.steps=4")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    variant = Variant(
        "push_t", PUSH_T, TINY, demonstrations=3, stages=("imitation",), through_graph=True
    )
    return Job(variant, 0, tmp_path_factory.mktemp("output"), trials=1)


@pytest.fixture(scope="module")
def report(job):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproducing, "ENVIRONMENTS", 2)
        return run_job(job)


def test_what_the_last_stage_ended_with_drives_through_the_graph_from_the_same_seeds(job, report):
    names = [(stage.name, stage.policy) for stage in report.stages]
    assert names[-2:] == [(f"imitation{GRAPH}", "ddim"), (f"imitation{GRAPH}", "one_step")]
    bags = read_index(job.folder / "graph" / "imitation" / "trials").entries
    assert len(bags) == 2
    version = read_manifest(job.folder / "run" / report.policy_version).reference
    assert {bag.metadata.policy_version for bag in bags} == {version}
    assert report.stages[-1].trials == 1


def test_what_an_interrupted_attempt_left_is_not_counted(job, report):
    (job.folder / "report.json").unlink()
    again = run_job(job)
    assert [stage.successes for stage in again.stages] == [
        stage.successes for stage in report.stages
    ]
    assert len(read_index(job.folder / "graph" / "imitation" / "trials").entries) == 2


def test_the_table_tells_it_beside_the_simulation(report):
    summaries = summarise(["push_t"], [report])
    graph = [each for each in summaries if each.stage.endswith(GRAPH)]
    assert [each.trials for each in graph] == [1, 1]
    assert graph[0].minutes == summaries[1].minutes
