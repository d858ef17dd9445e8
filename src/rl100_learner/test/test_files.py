# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent, on a disk that is full."""

import resource
from contextlib import contextmanager

import pytest
import torch
from toy import make_episode

from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.files import replacing
from rl100_learner.training.checkpoint import load_checkpoint, save_checkpoint
from rl100_policy.core.errors import StorageError


@contextmanager
def no_file_longer_than(size: int):
    """The kernel refuses to write more, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one_and_says_so(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "run", {"step": 1})
    with no_file_longer_than(10_000), pytest.raises(StorageError, match="make room"):
        save_checkpoint(path, "run", {"step": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path, "run") == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_episodes_that_do_not_fit_leave_those_of_before(tmp_path):
    path = tmp_path / "episodes.npz"
    save_episodes(path, [make_episode(0)])
    with no_file_longer_than(1000), pytest.raises(StorageError, match="make room"):
        save_episodes(path, [make_episode(1)])
    assert [each.id for each in load_stored_episodes(path)] == ["reach_0"]


def test_an_error_of_the_writer_leaves_nothing_behind(tmp_path):
    def fail() -> None:
        with replacing(tmp_path / "new" / "file") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list((tmp_path / "new").iterdir())
