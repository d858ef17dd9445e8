# SPDX-License-Identifier: Apache-2.0
"""The recorder node under the load of a robot cell, and whether its bags hold all that was sent.

One process publishes what a cell does (``cell.py``), one is the recorder, this one starts and
stops episodes and judges them. Every bag is compared with what was sent, message by message, and
deleted. Ends with status 1 if a message is missing, or the recorder's memory kept growing.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bag_contents import TopicContents
from recorder_load import (
    CELL_TOPICS,
    EpisodeResult,
    Judge,
    Load,
    Sampler,
    Samples,
    recorded_topics,
    started,
)
from recorder_parts import VARIABLE
from rich.console import Console
from rich.table import Table

from rl100_policy.ros.testing import isolated_ros, spinning

_HERE = Path(__file__).parent
_SETTLED = 1.0 / 3.0
"""Share of the samples after which memory should not grow any more."""
_GROWTH_MB_PER_MIN, _GROWTH_MB = 2.0, 20.0
"""Memory grows without bound if it grows faster than this, and by more than this in all."""
_SHORTEST_MIN = 1.0
"""Of fewer minutes of settled samples no slope is judged."""


@dataclass(frozen=True)
class Memory:
    """Resident memory of the recorder over a run."""

    start_mb: float
    max_mb: float
    end_mb: float
    slope_mb_per_min: float
    """Of the settled samples, least squares."""
    grew_mb: float
    """By that slope, over the time of those samples."""
    minutes: float

    @property
    def is_unbounded(self) -> bool:
        """Whether it kept growing."""
        return (
            self.minutes >= _SHORTEST_MIN
            and self.slope_mb_per_min > _GROWTH_MB_PER_MIN
            and self.grew_mb > _GROWTH_MB
        )


def memory_of(samples: Samples) -> Memory:
    """Memory over a run, from its samples."""
    seconds, memory = np.array(samples.seconds), np.array(samples.memory_mb)
    settled = slice(round(_SETTLED * len(seconds)), None)
    minutes = seconds[settled] / 60.0
    several = len(minutes) > 1
    slope = float(np.polyfit(minutes, memory[settled], 1)[0]) if several else 0.0
    lasted = float(minutes[-1] - minutes[0]) if several else 0.0
    ends = float(memory[0]), float(memory.max()), float(memory[-1])
    return Memory(*ends, slope, slope * lasted, lasted)


@dataclass(frozen=True)
class Run:
    """Everything that was measured."""

    episodes: list[EpisodeResult]
    samples: Samples
    waiting_mb: float
    """Most that ever waited for the disk."""
    longest_wait_s: float
    """Longest time that a write or a flush took."""

    def contents(self, topic: str) -> TopicContents:
        """Of a topic over all episodes."""
        each = [episode.contents[topic] for episode in self.episodes]
        counts = ("sent", "recorded", "missing", "disordered", "unknown")
        return TopicContents(
            **{name: sum(getattr(one, name) for one in each) for name in counts},
            worst_gap_s=max(one.worst_gap_s for one in each),
            worst_delay_s=max(one.worst_delay_s for one in each),
        )

    def lost(self, topic: str) -> dict[str, int]:
        """What the recorder said is missing of a topic, by cause."""
        causes = ("middleware", "stamps", "recorder")
        return {
            cause: sum(episode.lost[topic][cause] for episode in self.episodes) for cause in causes
        }

    @property
    def problems(self) -> list[str]:
        """Why the run failed, for people; empty if it did not."""
        found = []
        for topic in CELL_TOPICS:
            contents, lost = self.contents(topic), self.lost(topic)
            if contents.faults or sum(lost.values()):
                found.append(
                    f"{topic}: of {contents.sent} messages {contents.missing} missing, "
                    f"{contents.disordered} out of order, {contents.unknown} never sent; "
                    f"the recorder counted {lost}"
                )
        memory = memory_of(self.samples)
        if memory.is_unbounded:
            found.append(
                f"memory grew by {memory.slope_mb_per_min:.1f} MB a minute over the last "
                f"{memory.minutes:.1f} minutes, to {memory.end_mb:.0f} MB"
            )
        return found


@contextmanager
def _recorder_and_cell(
    output: Path, joints: float, images: float, compression: str, *, parts: bool
) -> Iterator[tuple[int, int]]:
    """Both processes, on the domain of this one; their process ids."""
    module = str(_HERE / "recorder_parts.py") if parts else "rl100_policy.nodes.recorder"
    settings = {
        "bags": output / "bags",
        "topics": recorded_topics(joints, images),
        "compression": compression,
    }
    given = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    node = [*([] if parts else ["-m"]), module, "--ros-args", *given]
    sends = [str(_HERE / "cell.py"), str(output / "counts")]
    sends += ["--joints", str(joints), "--images", str(images)]
    variables = os.environ | {VARIABLE: str(output / "parts.json")}
    with (
        started([sys.executable, *node], variables) as recorder,
        started([sys.executable, *sends], variables) as cell,
    ):
        yield recorder.pid, cell.pid


def measure(
    output: Path,
    *,
    seconds: float,
    episode_s: float,
    joints: float,
    images: float,
    compression: str,
    keep: bool,
    parts: bool,
) -> Run:
    """Record episodes until so many seconds are recorded; raises RuntimeError if one fails."""
    with isolated_ros():
        judge = Judge()
        domain = judge.context.get_domain_id()
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        episodes: list[EpisodeResult] = []
        with (
            spinning(judge) as spin_until,
            _recorder_and_cell(output, joints, images, compression, parts=parts) as (node, cell),
        ):
            load = Load(judge, spin_until, output / "counts")
            load.wait_until_ready()
            sampler = Sampler(node, cell)
            left_s = seconds
            while left_s > 0.5:
                episodes.append(load.record(min(episode_s, left_s), sampler, keep=keep))
                left_s -= episodes[-1].seconds
            sampler.close()
            return Run(episodes, sampler.samples, judge.waiting_mb, judge.longest_wait_s)


def _share(values: Sequence[float]) -> str:
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {100 * p50:.0f} %, p99 {100 * p99:.0f} %, max {100 * max(values):.0f} %"


def summary(run: Run) -> dict[str, str]:
    """The figures that are not of one topic, for people."""
    samples = run.samples
    recorded = [index for index, on in enumerate(samples.recording) if on]
    memory = memory_of(samples)
    size, seconds = (
        sum(getattr(each, of) for each in run.episodes) for of in ("bytes", "seconds")
    )
    return {
        "episodes": f"{len(run.episodes)}, {seconds / 60:.1f} min, {size / 1e9:.2f} GB, "
        f"{size / seconds / 1e6:.1f} MB/s",
        "processor, recorder": _share([samples.recorder_cpu[each] for each in recorded]),
        "processor, cell": _share([samples.cell_cpu[each] for each in recorded]),
        "memory, recorder": f"start {memory.start_mb:.0f}, max {memory.max_mb:.0f}, "
        f"end {memory.end_mb:.0f} MB; {memory.slope_mb_per_min:+.2f} MB/min over the last "
        f"{memory.minutes:.1f} min",
        "waiting for the disk": f"at most {run.waiting_mb:.1f} MB, {run.longest_wait_s:.3f} s",
        "machine": f"{os.cpu_count()} x {_processor()}, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[1]:.1f}",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((each.partition(": ")[2] for each in lines if each.startswith("model name")), "?")


def topic_table(run: Run) -> Table:
    """What was sent and recorded, topic by topic."""
    table = Table(
        "topic", "sent", "recorded", "missing", "out of order", "lost by middleware",
        "by stamps", "by recorder", "worst gap [ms]", "worst delay [ms]",
        title="Messages of all episodes, and what the recorder counted as lost",
    )  # fmt: skip
    for topic in CELL_TOPICS:
        found, lost = run.contents(topic), run.lost(topic)
        counts = (found.sent, found.recorded, found.missing, found.disordered, *lost.values())
        worst = (f"{1e3 * found.worst_gap_s:.1f}", f"{1e3 * found.worst_delay_s:.1f}")
        table.add_row(topic, *map(str, counts), *worst)
    return table


def parts_table(told: dict[str, Any]) -> Table:
    """What the parts of the recorder took, of all the time that it ran."""
    table = Table("part", "calls", "ms a call", "% of a core", title="Inside the recorder")
    for name, (calls, spent) in told["parts"].items():
        share = f"{100 * spent / told['wall_s']:.2f}"
        table.add_row(name, str(calls), f"{1e3 * spent / max(1, calls):.3f}", share)
    for name in ("executor_s", "process_s"):
        whole = {"executor_s": "executor thread in all", "process_s": "all threads"}[name]
        table.add_row(whole, "", "", f"{100 * told[name] / told['wall_s']:.2f}")
    return table


def main(
    minutes: Annotated[float, typer.Option(help="recorded in all")] = 10.0,
    episode: Annotated[float, typer.Option(help="length of an episode [s]")] = 20.0,
    output: Annotated[Path, typer.Option(help="folder of bags and report.json")] = Path(
        "runs/recording"
    ),
    compression: Annotated[str, typer.Option(help="of the bags: none, lz4 or zstd")] = "none",
    joints: Annotated[float, typer.Option(help="joint states per second")] = 500.0,
    images: Annotated[float, typer.Option(help="images of each camera per second")] = 30.0,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="do not delete the bags")] = False,
    parts: Annotated[bool, typer.Option("--parts", help="time the recorder's parts")] = False,
) -> None:
    """Measure and print."""
    output.mkdir(parents=True, exist_ok=True)
    run = measure(
        output, seconds=60.0 * minutes, episode_s=episode, joints=joints, images=images,
        compression=compression, keep=keep, parts=parts,
    )  # fmt: skip
    console = Console(width=160)
    console.print(topic_table(run))
    for name, value in summary(run).items():
        console.print(f"{name}: {value}", highlight=False)
    told = json.loads((output / "parts.json").read_text()) if parts else {}
    if parts:
        console.print(parts_table(told))
    report = asdict(run) | {"summary": summary(run), "problems": run.problems, "parts": told}
    (output / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    for problem in run.problems:
        console.print(f"FAILED: {problem}", highlight=False)
    console.print("" if run.problems else "nothing was dropped, memory is bounded")
    raise typer.Exit(bool(run.problems))


if __name__ == "__main__":
    typer.run(main)
