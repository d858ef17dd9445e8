# SPDX-License-Identifier: Apache-2.0
"""Commands for folders of episode bags: ``rl100 bags ...`` and ``rl100 relabel``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rl100_bringup.cli.exchange import export_lerobot, import_bag, import_lerobot
from rl100_bringup.cli.filter_options import with_filter
from rl100_bringup.cli.sub_commands import ListsByDefault
from rl100_policy.bags.episode_filter import EpisodeFilter
from rl100_policy.bags.judgement import Outcome

bags = typer.Typer(
    cls=ListsByDefault,
    no_args_is_help=True,
    help="List, show, check, sort, judge and replay recorded episodes; "
    "`bags FOLDER` is short for `bags list FOLDER`.",
)
console = Console()


def _folder(what: str = "folder of episode bags") -> Any:
    return typer.Argument(help=what, exists=True, file_okay=False)


Folder = Annotated[Path, _folder()]
Folders = Annotated[list[Path], _folder("folders of episode bags")]
Episode = Annotated[Path, typer.Argument(help="folder of one episode")]
Episodes = Annotated[list[Path], typer.Argument(help="folders of single episodes")]
Into = Annotated[Path, typer.Option(help="folder they come into; made if missing")]


@bags.command(name="list")
@with_filter
def list_episodes(
    folder: Folder,
    *,
    chosen: EpisodeFilter,
    as_json: Annotated[bool, typer.Option("--json", help="all that is known, as JSON")] = False,
) -> None:
    """One row per episode, what is damaged or unfinished, and totals."""
    from rl100_bringup.cli.bag_listing import list_bags, listing_as_json

    if as_json:
        typer.echo(json.dumps(listing_as_json(folder, chosen), indent=1))
    else:
        list_bags(folder, chosen, console)


@bags.command()
def show(
    episode: Episode,
    *,
    plot: Annotated[
        Path | None, typer.Option(help="also draw a page into this file (png, pdf, svg)")
    ] = None,
) -> None:
    """What is in one episode: topics, who was in command, what was said about it."""
    from rl100_bringup.cli.bag_showing import show_episode

    show_episode(episode, console)
    if plot is not None:
        from rl100_bringup.episode_page import save_page

        save_page(episode, plot)
        console.print(f"picture: {plot}", highlight=False, soft_wrap=True)


@bags.command()
@with_filter
def check(
    paths: Annotated[list[Path], typer.Argument(help="episodes or folders of them", exists=True)],
    *,
    chosen: EpisodeFilter,
) -> None:
    """Read every message of closed episodes and name what is wrong."""
    from rl100_bringup.cli.bag_listing import check_bags

    if not check_bags(paths, chosen, console):
        raise typer.Exit(1)


@bags.command()
def recover(folder: Folder) -> None:
    """Repair what a crash left."""
    from rl100_bringup.cli.bag_listing import recover_bags

    recover_bags(folder, console)


@bags.command()
@with_filter
def merge(
    folders: Folders,
    *,
    into: Into,
    chosen: EpisodeFilter,
    move: Annotated[bool, typer.Option("--move", help="move instead of copying")] = False,
) -> None:
    """Bring the episodes of several folders into one; nothing is written over."""
    from rl100_bringup.cli.bag_sorting import merge_bags
    from rl100_policy.bags.transfer import TransferMode

    mode = TransferMode.MOVE if move else TransferMode.COPY
    if not merge_bags(folders, into, chosen, mode, console):
        raise typer.Exit(1)


@bags.command()
@with_filter
def split(
    folder: Folder,
    *,
    by: Annotated[
        str, typer.Option(help="outcome, driver, task, operator, tag:KEY, or share (by lot)")
    ],
    into: Into,
    chosen: EpisodeFilter,
    share: Annotated[float, typer.Option(help="of the first group, where divided by lot")] = 0.8,
    seed: Annotated[int, typer.Option(help="of the lot")] = 0,
    copy: Annotated[
        bool, typer.Option("--copy", help="copy the files instead of linking them")
    ] = False,
) -> None:
    """Divide episodes into one folder per value, or by lot; they stay where they are, too."""
    from rl100_bringup.cli.bag_sorting import split_bags
    from rl100_policy.bags.division import SHARE, divide_by_share, divide_by_value
    from rl100_policy.bags.transfer import TransferMode

    def divide(entries: Any) -> Any:
        if by == SHARE:
            return divide_by_share(entries, share, seed)
        return divide_by_value(entries, by)

    mode = TransferMode.COPY if copy else TransferMode.LINK
    if not split_bags(folder, into, chosen, divide, mode, console):
        raise typer.Exit(1)


@bags.command()
def delete(
    episodes: Episodes,
    why: Annotated[str, typer.Option(help="kept beside the episode")] = "",
) -> None:
    """Move episodes to the trash of their folder; nothing is ever erased."""
    from rl100_bringup.cli.bag_judging import discard_episodes

    if not discard_episodes(episodes, why, console):
        raise typer.Exit(1)


@bags.command()
def trash(folder: Folder) -> None:
    """What lies in the trash of a folder, since when and why."""
    from rl100_bringup.cli.bag_judging import list_trash

    list_trash(folder, console)


@bags.command()
def restore(
    names: Annotated[list[str], typer.Argument(help="names of episodes in the trash")],
    folder: Annotated[
        Path, typer.Option(help="folder of episode bags", exists=True, file_okay=False)
    ],
) -> None:
    """Bring episodes back from the trash."""
    from rl100_policy.bags.trash import restore as bring_back

    for name in names:
        console.print(f"restored: {bring_back(folder, name)}", highlight=False, soft_wrap=True)


@bags.command()
def relabel(
    episodes: Episodes,
    *,
    outcome: Annotated[Outcome, typer.Option(help="that the episodes are to have")],
    at: Annotated[
        float | None,
        typer.Option(help="time in the episode at which it was decided [s]; default: its end"),
    ] = None,
    note: Annotated[str, typer.Option(help="kept with the judgement")] = "",
) -> None:
    """Judge closed episodes anew; what was said before stays in the bag, taken back."""
    from rl100_bringup.cli.bag_judging import relabel_episodes

    if not relabel_episodes(episodes, outcome, at, note, console):
        raise typer.Exit(1)


@bags.command()
def replay(
    episode: Episode,
    *,
    rate: Annotated[float, typer.Option(help="speed; 1 is as recorded", min=0.01)] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="again and again, until Ctrl-C")] = False,
    topics: Annotated[
        list[str] | None,
        typer.Option(help="these topics instead of sensors and decisions; may be repeated"),
    ] = None,
    now: Annotated[
        bool,
        typer.Option(
            "--now/--as-recorded-stamps", help="header stamps of now, or those of the recording"
        ),
    ] = False,
) -> None:
    """Publish an episode's messages into the running graph, for watching; never commands."""
    from rl100_bringup.cli.bag_replaying import replay_episode
    from rl100_bringup.replaying import ReplaySettings

    settings = ReplaySettings(rate, loop, tuple(topics or ()), stamps_of_now=now)
    replay_episode(episode, settings, console)


bags.command(name="import")(import_bag)
bags.command()(import_lerobot)
bags.command()(export_lerobot)
