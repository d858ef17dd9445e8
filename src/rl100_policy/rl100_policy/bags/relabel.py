# SPDX-License-Identifier: Apache-2.0
"""Further judgements in a bag that is closed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rl100_policy.bags.copying import BagCopy
from rl100_policy.bags.identity import METADATA_FILE, bag_file
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.reservation import FolderLock
from rl100_policy.bags.scan import McapScan
from rl100_policy.bags.storage import read_metadata_file, sync_folder, write_metadata_file
from rl100_policy.bags.writer import McapFile
from rl100_policy.core.errors import BagError


def relabel_episode(folder: Path, *judgements: Judgement) -> EpisodeMetadata:
    """Add judgements to a closed episode; its messages stay as they are.

    They are in metadata.yaml at once, so that a crash does not lose them. Then the MCAP file is
    written anew beside the old one and takes its place in one step; ``finish_relabelling`` does
    what a crash kept this from.

    Args:
        folder: A closed episode.
        judgements: The further judgements.

    Returns:
        The metadata now in the bag.

    Raises:
        BagError: If the episode cannot be read or written, or another process is changing it; it
            is as before then.
    """
    with _locked(folder):
        before = read_metadata(folder)
        metadata = before.with_changes(judgements=(*before.judgements, *judgements))
        stated = folder / METADATA_FILE
        earlier = stated.read_bytes() if stated.is_file() else None
        try:
            _state(folder, metadata)
            _rewrite(folder, metadata)
        except Exception:
            with contextlib.suppress(OSError):
                _put_back(stated, earlier)
            raise
    return metadata


def is_relabelling_unfinished(folder: Path) -> bool:
    """Whether a crash, or a process that lives, left a relabelling of this episode half done."""
    return _draft_of(folder).exists()


def finish_relabelling(folder: Path) -> bool:
    """Bring the MCAP file of a closed episode in line with its metadata.yaml after a crash.

    Returns:
        False if a living process is relabelling it, or there is nothing to do.

    Raises:
        BagError: If the episode cannot be read or written; it is as before then.
    """
    try:
        with _locked(folder):
            if not is_relabelling_unfinished(folder):
                return False
            try:
                _rewrite(folder, read_metadata(folder))
            except Exception:
                with contextlib.suppress(OSError):
                    _draft_of(folder).touch()  # it is still to be done
                raise
    except BusyError:
        return False
    return True


class BusyError(BagError):
    """Another process is changing the episode."""


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing a closed episode; OSError becomes BagError."""
    try:
        lock = FolderLock(folder)
    except BlockingIOError as error:
        raise BusyError(f"another process is changing {folder}; try again") from error
    except OSError as error:
        raise BagError(f"cannot relabel {folder}: {error}; check path and rights") from error
    try:
        yield
    except OSError as error:
        raise BagError(f"cannot relabel {folder}: {error}; check rights and space") from error
    finally:
        lock.release()


def _state(folder: Path, metadata: EpisodeMetadata) -> None:
    """Write the metadata into metadata.yaml; an empty draft tells that the MCAP file is to follow.

    Without a readable metadata.yaml the MCAP file alone is the episode, and nothing is done.
    """
    try:
        information = read_metadata_file(folder)
    except BagError:
        return
    _draft_of(folder).touch()
    write_metadata_file(folder, information | {"custom_data": metadata.to_table()})


def _put_back(path: Path, content: bytes | None) -> None:
    """Give a file the content that it had, None if there was no file."""
    if content is None:
        path.unlink(missing_ok=True)
    elif path.read_bytes() != content:
        draft = path.with_suffix(".yaml.tmp")
        draft.write_bytes(content)
        draft.replace(path)


def _rewrite(folder: Path, metadata: EpisodeMetadata) -> None:
    """Write MCAP file and metadata.yaml with these metadata; the old file stays until the end."""
    path, draft = bag_file(folder), _draft_of(folder)
    try:
        draft.unlink(missing_ok=True)
        information = _copied(path, draft).finish(metadata, name=path.name)
        write_metadata_file(folder, information)
        draft.replace(path)
        sync_folder(folder)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _draft_of(folder: Path) -> Path:
    return bag_file(folder).with_suffix(".relabel")


def _copied(source: Path, target: Path) -> McapFile:
    """New file, still open, with all messages of a whole one."""
    scan = McapScan(source)
    copy = BagCopy(scan, target)
    if scan.problem or not scan.complete or copy.undescribed:
        copy.file.abort()
        raise BagError(
            f"{source} is damaged: {scan.problem or 'no end record'}; "
            "`./rl100 bags check FOLDER` says what is wrong with it"
        )
    return copy.file
