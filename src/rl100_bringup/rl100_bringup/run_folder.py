# SPDX-License-Identifier: Apache-2.0
"""What a run's folder tells of the way that learning took, as a report or parts of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl100_bringup.report import CurvePoint, Iterate, Report, TrainingResult
from rl100_learner.training.records import read_metrics
from rl100_learner.training.stages import ALL_STAGES, STAGES, StageRecord, read_stages
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import read_manifest

LEARNING = "train"
"""Folder within that of a demo in which it learns."""


def learning_folder(run: Path) -> Path:
    """Where the stages of a run are: its folder, or that within the folder of a demo."""
    return run / LEARNING if (run / LEARNING / STAGES).is_file() else run


def read_run(run: Path) -> Report:
    """The finished stages of a run as a report; its trials, if it had any, are in it too.

    Args:
        run: Its folder, whoever learned in it, while it goes on or afterwards; or that of another
            command, whose report is given as it is.

    Raises:
        ConfigError: If no stage of it is finished, or its report is damaged.
    """
    records = read_stages(run)
    if not records and Report.is_in(run):
        return Report.read(run)
    if not records:
        raise ConfigError(
            f"{run} holds no finished stage of a run (there is no {STAGES} in it); give the "
            "folder that a train command, the demo (its folder train) or the learner node writes"
        )
    told = Report.read(run) if Report.is_in(run) else Report(command="report")
    version = read_manifest(run / records[-1].version).reference
    return told.model_copy(update=run_results(run, records) | {"policy_version": version})


def run_results(run: Path, records: Sequence[StageRecord]) -> dict[str, Any]:
    """Fields of a report that say how a run of several stages went.

    Args:
        run: Its folder.
        records: Of its stages.
    """
    return {
        "training": _all_training(run, records),
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
            j_improving=float(row["j_improving"]) if "j_improving" in row else None,
        )
        for folder in rounds
        for row in read_metrics(folder)
        if row["stage"] == "offline"
    ]


def _round(offline: Path) -> int:
    return int(offline.parent.name.removeprefix("round_"))


def _all_training(run: Path, records: Sequence[StageRecord]) -> list[TrainingResult]:
    """What every stage of a run cost and ended with, by step of the stage."""
    results = []
    for record in records:
        folder = run / record.name.replace(" ", "_")
        parts = [folder] if record.name in ALL_STAGES else sorted(folder.iterdir())
        for part in parts:
            for result in training_results(part):
                name = result.stage if part == folder else f"{record.name}: {result.stage}"
                results.append(result.model_copy(update={"stage": name}))
    return results


def training_results(run: Path) -> list[TrainingResult]:
    """What a run cost and ended with, by stage, from its records.

    So a run that was interrupted, or had ended before, is reported as one that was not.
    """
    results: dict[str, TrainingResult] = {}
    before = 0.0
    for row in read_metrics(run):
        stage, until = str(row["stage"]), float(row["seconds"])  # of all stages so far
        known = results.get(stage)
        spent = known.seconds if known else 0.0
        loss = known.loss if known else 0.0  # of the last step that was taken
        results[stage] = TrainingResult(
            stage=stage,
            steps=int(row["step"]),
            seconds=spent + until - before,
            loss=float(row.get("loss", loss)),
        )
        before = until
    return list(results.values())
