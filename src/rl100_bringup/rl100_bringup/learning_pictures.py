# SPDX-License-Identifier: Apache-2.0
"""Pictures of learning: loss, success by stage, the estimate and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markup import escape

from rl100_bringup.report import CurvePoint, Report, StageResult
from rl100_learner.training.offline_run import RESOLVED
from rl100_learner.training.records import read_metrics
from rl100_policy.core.errors import ConfigError

_DPI = 130


def learning_figures(training: Path, report: Report) -> dict[str, Callable[[], Figure]]:
    """What draws the pictures of a run's learning, by file."""
    figures: dict[str, Callable[[], Figure]] = {
        "loss.png": lambda: loss_figure(training / "imitation")
    }
    if report.stages:
        figures["success.png"] = lambda: success_figure(report)
    if report.curve:
        figures["curve.png"] = lambda: curves_figure([training.name], [report])
    return figures | {
        f"{folder.parent.name}_gate.png": partial(gate_figure, folder)
        for folder in sorted(training.glob("round_*/offline"))
    }


def save_figures(
    folder: Path, figures: Mapping[str, Callable[[], Figure]]
) -> tuple[list[Path], dict[str, str]]:
    """Draw pictures into a folder.

    Returns:
        Files written; and, by file name, why one could not be drawn.
    """
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    problems: dict[str, str] = {}
    for name, figure in figures.items():
        try:
            figure().savefig(folder / name, dpi=_DPI)
            drawn.append(folder / name)
        except Exception as error:  # a picture must not cost the run its result
            problems[name] = str(error) or repr(error)
    return drawn, problems


def tell_pictures(console: Console, drawn: Sequence[Path], problems: Mapping[str, str]) -> None:
    """Name what :func:`save_figures` has drawn, and what it could not."""
    for picture in drawn:
        console.print(f"picture: {picture}")
    for name, reason in problems.items():
        console.print(
            f"[yellow]warning:[/yellow] picture {name} not drawn: {escape(reason)}",
            highlight=False,
        )


def loss_figure(training: Path) -> Figure:
    """Loss of each training stage over its optimiser steps.

    Raises:
        ConfigError: If the folder holds no records of a training.
    """
    rows = read_metrics(training)
    if not rows:
        raise ConfigError(f"{training} holds no records of a training")
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    figure = Figure(figsize=(5.5 * len(stages), 3.8), layout="constrained")
    for index, stage in enumerate(stages):
        axes = figure.add_subplot(1, len(stages), index + 1)
        mine = [row for row in rows if row["stage"] == stage and "loss" in row]
        axes.plot([row["step"] for row in mine], [row["loss"] for row in mine])
        axes.set(title=stage, xlabel="optimiser step", ylabel="loss", yscale="log")
        axes.grid(visible=True, which="both", alpha=0.3)
    return figure


def success_figure(report: Report) -> Figure:
    """Success of teacher and student by stage, with Wilson intervals, and the demonstrator's.

    Raises:
        ConfigError: If the report holds no success of a policy.
    """
    figure = Figure(figsize=(1.6 + 1.5 * len(_names(report.stages)), 3.8), layout="constrained")
    _draw_success(figure.add_subplot(), report.stages)
    _legend_below(figure)
    return figure


def claim_figure(found: Mapping[str, Sequence[StageResult]]) -> Figure:
    """As :func:`success_figure`, one panel per variant.

    Raises:
        ConfigError: If a variant has no success of a policy.
    """
    figure, panels = _panels(list(found))
    for name, stages in found.items():
        _draw_success(panels[name], stages)
    _legend_below(figure)
    return figure


def _legend_below(figure: Figure) -> None:
    """One legend of all panels, where it hides nothing."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = max(1, int(figure.get_figwidth() / 2.6))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def _panels(names: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A panel per name, at most four in a row."""
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.0 * columns, 3.8 * rows), layout="constrained")
    panels = {
        name: figure.add_subplot(rows, columns, index) for index, name in enumerate(names, start=1)
    }
    for name, axes in panels.items():
        axes.set_title(name, fontsize=10)
    return figure, panels


def curves_figure(
    names: Sequence[str], reports: Sequence[Report], seeds: Sequence[int] = ()
) -> Figure:
    """Success with noise over the episodes that policies played, a line per seed, by variant.

    Variants that played none have no panel.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.
        seeds: Of the reports, for the legend; none: they are not told apart.
    """
    colors = {seed: f"C{index}" for index, seed in enumerate(sorted(set(seeds)))}
    of: Sequence[int | None] = seeds or [None] * len(reports)
    told = zip(names, reports, of, strict=True)
    shown = [each for each in told if each[1].curve]
    figure, panels = _panels(list(dict.fromkeys(name for name, _, _ in shown)))
    for name, report, seed in shown:
        color = "C0" if seed is None else colors[seed]
        _draw_curve(
            panels[name], report.curve, color, "online" if seed is None else f"seed {seed}"
        )
    for axes in panels.values():
        axes.set(xlabel="episodes played", ylabel="success with noise [%]", ylim=(0, 103))
        axes.grid(visible=True, alpha=0.3)
    if shown:
        _legend_below(figure)
    return figure


def _draw_curve(axes: Axes, curve: Sequence[CurvePoint], color: str, label: str) -> None:
    played = [point.episodes for point in curve]
    axes.plot(played, [100 * point.success for point in curve], lw=1.0, color=color, label=label)
    rollouts = [point for point in curve if point.stage != "online"]
    if rollouts:
        axes.plot(
            [point.episodes for point in rollouts], [100 * point.success for point in rollouts],
            ls="", marker="o", color=color, label="roll-outs of a round",
        )  # fmt: skip


def watched_figure(names: Sequence[str], reports: Sequence[Report]) -> Figure:
    """Estimate J and true success by iteration of the first offline phase, by variant.

    A line per seed; circles where the gate opened. Variants of which nothing was watched have no
    panel.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.
    """
    told = zip(names, reports, strict=True)
    shown = [(name, report.watched) for name, report in told if report.watched]
    figure, panels = _panels(list(dict.fromkeys(name for name, _ in shown)))
    right = {name: axes.twinx() for name, axes in panels.items()}
    for name, watched in shown:
        steps = [each.iteration for each in watched]
        panels[name].plot(steps, [100 * (each.success or 0.0) for each in watched], color="black")
        right[name].plot(steps, [each.j for each in watched], color="tab:blue", ls="--")
        passed = [each for each in watched if each.accepted]
        right[name].plot(
            [each.iteration for each in passed], [each.j for each in passed],
            ls="", marker="o", mfc="none", color="green",
        )  # fmt: skip
    for name, axes in panels.items():
        axes.set(xlabel="proximal iteration", ylabel="true success [%] (black)", ylim=(0, 103))
        axes.grid(visible=True, alpha=0.3)
        right[name].set_ylabel("J [return] (dashed)", color="tab:blue")
    return figure


def _names(stages: Sequence[StageResult]) -> list[str]:
    names = list(dict.fromkeys(s.name for s in stages if s.policy != "operator"))
    if not names:
        raise ConfigError("the report holds no success of a policy")
    return names


def _draw_success(axes: Axes, stages: Sequence[StageResult]) -> None:
    names = _names(stages)
    for shift, policy in ((-0.06, "ddim"), (0.06, "one_step")):
        mine = [s for s in stages if s.policy == policy]
        share = np.array([100 * s.successes / s.trials for s in mine])
        low = share - [100 * s.wilson_low for s in mine]
        high = [100 * s.wilson_high for s in mine] - share
        at = np.array([names.index(s.name) for s in mine]) + shift
        bars = axes.errorbar(
            at, share, yerr=(low, high), ls="", marker="o", capsize=4, label=policy
        )
        follow = [_follows_another(s.name) for s in mine]
        axes.plot(at[follow], share[follow], color=bars[0].get_color())
    for operator in (s for s in stages if s.policy == "operator"):
        axes.axhline(
            100 * operator.successes / operator.trials, color="grey", ls="--", label="operator"
        )
    axes.set(ylabel="success [%], 95 % interval", ylim=(0, 103), xlim=(-0.4, len(names) - 0.6))
    axes.set_xticks(
        range(len(names)), [name.replace(" of ", "\nof ").replace(" (", "\n(") for name in names]
    )
    axes.grid(visible=True, axis="y", alpha=0.3)


def _follows_another(name: str) -> bool:
    """Whether it is a stage of a run; a control, or an evaluation elsewhere, is not."""
    return name in ("before", "imitation", "online") or name.startswith("round ")


def gate_figure(offline: Path) -> Figure:
    """Estimate J, the snapshot's and the gate's decisions by iteration; true success if watched.

    Raises:
        ConfigError: If the folder holds no records of an offline phase.
    """
    rows = [row for row in read_metrics(offline) if row["stage"] == "offline"]
    if not rows:
        raise ConfigError(f"{offline} holds no records of an offline phase")
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["j"] for row in rows], marker=".", label="J of the iterate")
    axes.step(
        steps, [row["j_snapshot"] for row in rows], where="mid", ls="--", label="J of the snapshot"
    )
    share = _asked_for(offline)
    if share is not None:
        snapshots = [float(row["j_snapshot"]) for row in rows]
        asked = [each + share * abs(each) for each in snapshots]
        axes.step(steps, asked, where="mid", ls=":", label="what the gate asks for")
    accepted = [row for row in rows if row["accepted"]]
    axes.plot(
        [row["step"] for row in accepted], [row["j"] for row in accepted],
        ls="", marker="o", ms=9, mfc="none", color="green", label="accepted",
    )  # fmt: skip
    axes.set(xlabel="proximal iteration", ylabel="J [return]")
    if "success" in rows[0]:
        right = axes.twinx()
        right.plot(
            steps,
            [100 * float(row["success"]) for row in rows],
            color="black",
            label="true success",
        )
        right.set(ylabel="true success [%] (black)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    _legend_below(figure)
    return figure


def _asked_for(offline: Path) -> float | None:
    """Share of |J| by which an iterate must exceed the snapshot; None if none or unknown."""
    path = offline / RESOLVED
    if not path.exists():
        return None
    resolved = json.loads(path.read_text(encoding="utf-8"))
    gate = resolved["settings"]["offline"]["gate"]
    return float(gate["share"]) if gate["enabled"] else None
