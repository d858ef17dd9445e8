# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent, on a disk that is full."""

import errno
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from test_decisions import ROBOT, TASK
from toy import make_episode

from rl100_learner.data import cache
from rl100_learner.data.bag_episode import EpisodeReader
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.files import replacing
from rl100_learner.training.checkpoint import load_checkpoint, save_checkpoint
from rl100_learner.training.records import Records, read_metrics
from rl100_policy.bags.testing import SyntheticEpisode
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


def test_metrics_that_do_not_fit_say_so_and_those_before_are_kept(tmp_path):
    def write_rows():
        with Records(tmp_path, 0) as records:
            for step in range(100):
                records.write("critics", step, step, 0.0, {})

    said = pytest.raises(StorageError, match=r"cannot write .*last checkpoint")
    with no_file_longer_than(1000), said:
        write_rows()
    steps = [row["step"] for row in read_metrics(tmp_path)]
    assert steps == list(range(len(steps)))
    assert 5 < len(steps) < 20


def test_a_cache_entry_that_does_not_fit_is_left_out(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cache, "save_file", full)
    bag = SyntheticEpisode(
        TASK, ROBOT, np.full((3, 12, 16), 460, np.uint16), np.tile(ROBOT.home, (3, 1)),
        np.zeros((2, 2), np.float32),
    ).write(tmp_path)  # fmt: skip
    read = EpisodeReader(TASK, ROBOT).read(bag)
    kept = cache.EpisodeCache(tmp_path, TASK, ROBOT, accept_other_setup=False)
    kept.store(bag, read)
    assert kept.load(bag) is None


def test_an_error_of_the_writer_leaves_nothing_behind(tmp_path):
    def fail() -> None:
        with replacing(tmp_path / "new" / "file") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list((tmp_path / "new").iterdir())


def test_a_tensorboard_that_does_not_fit_says_so_as_well(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Records(tmp_path, 0) as records:
        records.write("critics", 1, 1, 0.0, {"loss": 1.0})
        monkeypatch.setattr(records._board, "add_scalar", full)
        with pytest.raises(StorageError, match=f"{tmp_path.name}: No space .*; make room"):
            records.write("critics", 2, 2, 0.0, {"loss": 1.0})
