# SPDX-License-Identifier: Apache-2.0
"""One page that shows an episode: what the camera saw, who was in command, what the arm did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rl100_bringup.page_contents import MOMENTS, EpisodePage
from rl100_policy.bags.command_record import source_name
from rl100_policy.bags.episode_filter import driver_of
from rl100_policy.bags.judgement import JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.playback import Permission, permission_of
from rl100_policy.core.errors import BagError
from rl100_policy.core.gate_result import CLIPPED, HELD, GateFlag

Floats = NDArray[np.float64]

_DPI = 110
_SOURCE_COLOURS = {"teleop": "tab:orange", "policy": "tab:blue", "hold": "0.75"}
_KIND_COLOURS = {
    JudgementKind.SUCCESS: "tab:green",
    JudgementKind.FAILURE: "tab:red",
    JudgementKind.UNDO: "0.4",
}
_GATE_MARKS = (
    ("clipped", CLIPPED, "k", 0.2),
    ("more than the action", GateFlag.BEYOND_ACTION, "tab:purple", 0.2),
    ("held: nothing new", GateFlag.HELD_STALE, "0.6", 0.07),
    ("held: emergency stop", GateFlag.HELD_ESTOP, "k", 0.1),
    ("held: refused", HELD & ~(GateFlag.HELD_STALE | GateFlag.HELD_ESTOP), "tab:red", 0.07),
)
"""What the gate made of a request: name, flags, colour, height."""
_LEGEND: Mapping[str, Any] = {
    "loc": "upper left", "bbox_to_anchor": (1.005, 1.05), "fontsize": 7, "frameon": False,
}  # fmt: skip


def save_page(episode: Path, picture: Path) -> None:
    """Draw a closed episode into a file.

    Raises:
        BagError: If the episode cannot be read, or the file is none that can be drawn.
    """
    mpl.use("Agg")
    figure = page_figure(EpisodePage.read(episode))
    try:
        figure.savefig(picture, dpi=_DPI)
    except ValueError as error:
        raise BagError(f"{picture} cannot be drawn: {error}; give a .png, .pdf or .svg") from error


def page_figure(page: EpisodePage) -> Figure:
    """The page."""
    cameras = [topic for topic, images in page.images.items() if images]
    figure = Figure(figsize=(12, 8 + 1.6 * len(cameras)), layout="constrained")
    figure.suptitle(_title(page.metadata), fontsize=11)
    rows = figure.add_gridspec(
        len(cameras) + 4, 1, height_ratios=[*([1.2] * len(cameras)), 0.45, 2, 1.6, 1.1]
    )
    for row, topic in enumerate(cameras):
        _draw_images(figure.add_subfigure(rows[row]), page, topic)
    below = len(cameras)
    band = figure.add_subplot(rows[below])
    others = [figure.add_subplot(rows[below + at], sharex=band) for at in (1, 2, 3)]
    _draw_band(band, page)
    _draw_joints(others[0], page)
    _draw_actions(others[1], page)
    _draw_rates(others[2], page)
    for axes in (band, *others):
        _draw_judgements(axes, page)
        axes.tick_params(labelbottom=axes is others[-1], labelsize=8)
    _draw_legend(band, ncols=2)
    others[-1].set(xlabel="time in the episode [s]", xlim=(0, page.end_s * 1.005 or 1))
    return figure


def _title(meta: EpisodeMetadata) -> str:
    parts = [meta.episode_id, f"task {meta.task}", f"driver {driver_of(meta)}", meta.outcome.value]
    reasons = f"\ndegraded: {'; '.join(meta.degraded_reasons)}" if meta.degraded else ""
    return "   ".join(parts) + reasons


def _draw_images(part: Any, page: EpisodePage, topic: str) -> None:
    images = page.images[topic]
    part.suptitle(topic, fontsize=8)
    depths = [image for _, image in images if image.ndim == 2]
    low, high = np.nanpercentile(np.stack(depths), [1, 99]) if depths else (None, None)
    for axes, (stamp, image) in zip(part.subplots(1, MOMENTS), images, strict=False):
        shown = axes.imshow(image, cmap="viridis_r", vmin=low, vmax=high)
        second = float(page.seconds(np.array([stamp]))[0])
        axes.set_title(f"{second:.1f} s", fontsize=8)
    for axes in part.axes:
        axes.set_axis_off()
    if depths:
        bar = part.colorbar(shown, ax=part.axes, shrink=0.8, pad=0.01)
        bar.set_label("depth [m]", fontsize=7)
        bar.ax.tick_params(labelsize=7)


def _draw_band(axes: Axes, page: EpisodePage) -> None:
    """Who was in command, and below it the periods in which the gate changed the request."""
    axes.set(yticks=[], ylim=(0, 1))
    axes.set_ylabel("in\ncommand", fontsize=8, rotation=0, ha="right", va="center")
    commands = page.commands
    if commands is None:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center")
        return
    named = set()
    for each in commands.stretches():
        name = source_name(each.source)
        begin, end = page.seconds(np.array([each.begin_ns, each.end_ns]))
        axes.broken_barh(
            [(begin, end - begin)], (0.3, 0.7), color=_SOURCE_COLOURS.get(name, "tab:purple"),
            label="_" if name in named else name,
        )  # fmt: skip
        named.add(name)
    for name, flags, colour, height in _GATE_MARKS:
        marked = page.seconds(commands.stamps_ns[(commands.flags & int(flags)) != 0])
        if len(marked):
            axes.plot(marked, np.full(len(marked), height), "|", color=colour, ms=4, label=name)


def _draw_joints(axes: Axes, page: EpisodePage) -> None:
    axes.set_ylabel("joint position [rad]", fontsize=8)
    axes.grid(visible=True, alpha=0.3)
    times, commands = page.seconds(page.joint_stamps_ns), page.commands
    for at, colour in _coloured(page.positions.shape[1]):
        name = page.joint_names[at] if at < len(page.joint_names) else str(at)
        axes.plot(times, page.positions[:, at], color=colour, lw=3, alpha=0.5, label=name)
        if commands is not None and name in commands.joint_names:
            due = page.seconds(commands.stamps_ns + commands.period_ns)
            commanded = commands.joint_command[:, commands.joint_names.index(name)]
            axes.plot(due, commanded, ls="--", color=colour, lw=1.0)
    axes.plot([], [], "k-", lw=3, alpha=0.5, label="measured")
    if commands is not None:
        axes.plot([], [], "k--", lw=1.0, label="commanded")
    _draw_legend(axes)


def _draw_actions(axes: Axes, page: EpisodePage) -> None:
    axes.set_ylabel("action [SI units]", fontsize=8)
    axes.grid(visible=True, alpha=0.3)
    commands = page.commands
    if commands is None:
        return
    times = page.seconds(commands.stamps_ns)
    for at, colour in _coloured(commands.executed.shape[1]):
        name = commands.names[at] if at < len(commands.names) else str(at)
        executed = commands.executed[:, at]
        axes.step(times, executed, where="post", color=colour, lw=3, alpha=0.5, label=name)
        if at < commands.requested.shape[1]:
            requested = commands.requested[:, at]
            axes.step(times, requested, where="post", color=colour, ls="--", lw=1.0)
    axes.plot([], [], "k-", lw=3, alpha=0.5, label="executed")
    axes.plot([], [], "k--", lw=1.0, label="requested")
    _draw_legend(axes)


def _draw_rates(axes: Axes, page: EpisodePage) -> None:
    axes.set_ylabel("rate [Hz]", fontsize=8)
    axes.grid(visible=True, alpha=0.3)
    sensors = [
        topic
        for topic in page.traffic.topics
        if len(topic.during_ns) > 1
        and permission_of(topic.name, topic.type_name) is Permission.SENSOR
    ]
    for (at, colour), topic in zip(_coloured(len(sensors)), sensors, strict=True):
        gaps_s = np.maximum(np.diff(topic.during_ns) * 1e-9, 1e-4)
        times = page.seconds(topic.during_ns)
        width = 1 + 1.5 * (len(sensors) - 1 - at)  # of equal rates each is seen
        axes.step(times[1:], 1 / gaps_s, where="pre", color=colour, lw=width, label=topic.name)
        if topic.expected_period_s:
            axes.axhline(1 / topic.expected_period_s, color=colour, ls=":", lw=1.0)
    axes.set_ylim(bottom=0)
    _draw_legend(axes)


def _draw_judgements(axes: Axes, page: EpisodePage) -> None:
    for each in page.metadata.judgements:
        second = float(page.seconds(np.array([each.stamp_ns]))[0])
        told = f"{each.kind.name.lower()} at {second:.1f} s"
        style = ":" if each.kind is JudgementKind.UNDO else "-"  # shows what is below it
        axes.axvline(second, color=_KIND_COLOURS[each.kind], ls=style, lw=1.4, label=told)


def _draw_legend(axes: Axes, **options: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**_LEGEND, **options)


def _coloured(count: int) -> Iterator[tuple[int, Any]]:
    """Number and colour of each of several lines."""
    colours = mpl.colormaps["tab10"]
    return ((at, colours(at % colours.N)) for at in range(count))
