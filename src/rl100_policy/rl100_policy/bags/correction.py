# SPDX-License-Identifier: Apache-2.0
"""Which judgements give a closed episode another outcome, without taking any of the old ones away.

What was said stays in the bag: an outcome is corrected by saying more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome, standing_judgements
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_extent, read_metadata
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.core.errors import BagError

RELABEL = "relabel"
"""Source of judgements given to a closed episode begins with this."""


def correcting_judgements(
    given: Sequence[Judgement], outcome: Outcome, *, stamp_ns: int, last_ns: int, source: str
) -> tuple[Judgement, ...]:
    """Judgements to be added so that the episode has an outcome, decided at a given time.

    Those that stand before it are taken back just before it, so that none of them tells another
    moment for the same outcome; later ones by undos after them.

    Args:
        given: Those the episode has.
        outcome: The outcome wanted.
        stamp_ns: When the wanted judgement counts, ROS time; of no concern if unlabelled.
        last_ns: End of the episode, ROS time: undos are given then, or after the last judgement.
        source: Who says so.

    Returns:
        Nothing if unlabelled is wanted and no judgement stands.
    """
    after_ns = max([last_ns, stamp_ns, *(each.stamp_ns for each in given)])
    undo = Judgement(stamp_ns=after_ns, kind=JudgementKind.UNDO, source=source)
    if outcome is Outcome.UNLABELLED:
        return (undo,) * len(standing_judgements(given))
    success = outcome is Outcome.SUCCESS
    wanted = Judgement.final(success=success, stamp_ns=stamp_ns, source=source)
    before = standing_judgements(each for each in given if each.stamp_ns <= stamp_ns)
    cleared = (Judgement(stamp_ns=stamp_ns, kind=JudgementKind.UNDO, source=source),) * len(before)
    # An undo later in time takes back the new one in place of the one it was meant for, so it is
    # said as often as it takes for one to stand.
    said: tuple[Judgement, ...] = (*cleared, wanted)
    while not any(each is wanted for each in standing_judgements((*given, *said))):
        said = (*said, wanted)
    standing = standing_judgements((*given, *said))
    later = next(count for count, each in enumerate(reversed(standing)) if each is wanted)
    return (*said, *(undo,) * later)


def correct_outcome(
    episode: Path, outcome: Outcome, *, at_s: float | None, source: str
) -> EpisodeMetadata:
    """Give a closed episode another outcome.

    Args:
        episode: Its folder.
        outcome: The outcome wanted.
        at_s: Time in the episode at which it was decided [s]; None: its end.
        source: Who says so.

    Returns:
        The metadata now in the bag; as before if it has that outcome and no time is given.

    Raises:
        BagError: If it is no closed episode, does not last until ``at_s``, or cannot be written;
            it is as before then.
    """
    if at_s is not None and not (math.isfinite(at_s) and at_s > 0.0):
        raise BagError(f"expected seconds after the start of {episode}, more than 0, got {at_s}")
    folder = closed_episode(episode)
    metadata = read_metadata(folder)
    if at_s is None and metadata.outcome is outcome:
        return metadata
    first_ns, last_ns = read_extent(bag_file(folder))
    begin_ns = metadata.start_ns or first_ns
    stamp_ns = last_ns if at_s is None else begin_ns + round(at_s * 1e9)
    if not begin_ns <= stamp_ns <= last_ns:
        raise BagError(
            f"{episode} lasts from 0 to {(last_ns - begin_ns) / 1e9:.1f} s, "
            f"{at_s} s is not in it; `./rl100 bags show` tells what happened when"
        )
    added = correcting_judgements(
        metadata.judgements, outcome, stamp_ns=stamp_ns, last_ns=last_ns, source=source
    )
    return relabel_episode(folder, *added) if added else metadata


def relabel_source(person: str, note: str = "") -> str:
    """Source of a judgement that a person gives to a closed episode, with what they say to it."""
    return f"{RELABEL} by {person}" + (f": {note}" if note else "")
