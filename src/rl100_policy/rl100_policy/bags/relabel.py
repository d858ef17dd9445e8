# SPDX-License-Identifier: Apache-2.0
"""A further judgement on a closed episode: the success was none, or the key came late."""

from __future__ import annotations

from pathlib import Path

from rl100_policy.bags.copying import BagCopy
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.scan import McapScan
from rl100_policy.bags.storage import sync_folder, write_metadata_file
from rl100_policy.bags.writer import McapFile
from rl100_policy.core.errors import BagError


def relabel_episode(folder: Path, judgement: Judgement) -> EpisodeMetadata:
    """Add a judgement to a closed episode; its messages stay as they are.

    The file is written anew beside the old one and takes its place in one step.

    Args:
        folder: A closed episode.
        judgement: The further judgement.

    Returns:
        The metadata now in the bag.

    Raises:
        BagError: If the episode cannot be read or written; it is as before then.
    """
    metadata = read_metadata(folder)
    metadata = metadata.with_changes(judgements=(*metadata.judgements, judgement))
    path = bag_file(folder)
    draft = path.with_suffix(".relabel")
    try:
        draft.unlink(missing_ok=True)
        information = _copied(path, draft).finish(metadata, name=path.name)
        draft.replace(path)
        write_metadata_file(folder, information)
        sync_folder(folder)
    except OSError as error:
        raise BagError(f"cannot relabel {folder}: {error}; check rights and space") from error
    return metadata


def _copied(source: Path, target: Path) -> McapFile:
    """New file, still open, with all messages of a whole one."""
    scan = McapScan(source)
    copy = BagCopy(scan, target)
    if scan.problem or not scan.complete or copy.undescribed:
        copy.file.abort()
        raise BagError(
            f"{source} is damaged: {scan.problem or 'no end record'}; run `rl100 doctor`"
        )
    return copy.file
