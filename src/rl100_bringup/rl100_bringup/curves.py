# SPDX-License-Identifier: Apache-2.0
"""What a run's folder tells of the way that learning took, as parts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl100_bringup.report import CurvePoint, Iterate
from rl100_learner.training.records import read_metrics
from rl100_learner.training.stages import StageRecord


def run_results(run: Path, records: Sequence[StageRecord]) -> dict[str, Any]:
    """Fields of a report that say how a run of several stages went.

    Args:
        run: Its folder.
        records: Of its stages.
    """
    return {
        "run": list(records),
        "curve": learning_curve(run, records),
        "iterates": offline_iterates(run),
    }


def learning_curve(run: Path, records: Sequence[StageRecord]) -> list[CurvePoint]:
    """Success with noise over the episodes played: roll-outs of every round, online iterations.

    Args:
        run: Folder of the run.
        records: Of its stages.
    """
    points, played = [], 0
    for record in records:
        if record.rollouts is not None:
            won, of = record.rollouts
            points.append(CurvePoint(stage=record.name, episodes=played + of, success=won / of))
        if record.name == "online":
            points += [
                CurvePoint(
                    stage="online",
                    episodes=played + int(row["episodes"]),
                    success=float(row["success"]),
                )
                for row in read_metrics(run / "online")
                if row["stage"] == "online"
            ]
        played += 0 if record.name == "imitation" else record.episodes
    return points


def offline_iterates(run: Path) -> list[Iterate]:
    """What the gate said, round by round."""
    rounds = sorted(run.glob("round_*/offline"), key=_round)
    return [
        Iterate(
            round=_round(folder),
            iteration=int(row["step"]),
            j=float(row["j"]),
            j_snapshot=float(row["j_snapshot"]),
            accepted=bool(row["accepted"]),
            distance=float(row["distance"]),
            success=float(row["success"]) if "success" in row else None,
        )
        for folder in rounds
        for row in read_metrics(folder)
        if row["stage"] == "offline"
    ]


def _round(offline: Path) -> int:
    return int(offline.parent.name.removeprefix("round_"))
