# SPDX-License-Identifier: Apache-2.0
"""No file from elsewhere is executed: policy versions, bags, descriptions, checkpoints."""

import ast
import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rl100_learner.data.store import load_stored_episodes
from rl100_learner.lerobot.mapping import load_lerobot_mapping
from rl100_learner.training.checkpoint import load_checkpoint
from rl100_policy.bags.foreign.mapping import load_mapping
from rl100_policy.bags.index import read_index
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import Rl100Error
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import PolicyConfig
from rl100_policy.core.policy_version import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    load_version,
    write_version,
)

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "src" / "rl100_bringup" / "config"
OWN_PIPE = "job_processes.py"
"""Its two ends are this suite's own processes; it says so."""


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """A path that exists if something was executed."""
    path = tmp_path / "executed"
    for executed in (
        lambda: pickle.loads(pickle.dumps(Payload(path))),
        lambda: yaml.unsafe_load(yaml_payload(path)),
        lambda: torch.load(io.BytesIO(torch_payload(path)), weights_only=False),
    ):
        executed()
        assert path.exists(), "the payload works where it is let"
        path.rmdir() if path.is_dir() else path.unlink()
    return path


def yaml_payload(trace: Path) -> str:
    return f"!!python/object/apply:os.mkdir ['{trace}']"


def torch_payload(trace: Path) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save({"fingerprint": "f", "state": Payload(trace)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "load",
    [load_robot, load_task, load_mapping, load_lerobot_mapping],
    ids=lambda load: load.__name__,
)
def test_a_yaml_file_runs_nothing(load, tmp_path, trace):
    path = tmp_path / "file.yaml"
    path.write_text(f"name: {yaml_payload(trace)}\n")
    with pytest.raises(Rl100Error):
        load(path)
    assert not trace.exists()


def test_the_metadata_of_a_bag_runs_nothing(tmp_path, trace):
    """What cannot be read is taken from the bag itself."""
    meta = EpisodeMetadata(episode_id="e", task="t")
    EpisodeWriter(tmp_path, meta).close(meta)
    path = tmp_path / "e" / "metadata.yaml"
    path.write_text(path.read_text() + f"hostile: {yaml_payload(trace)}\n")
    assert read_metadata(tmp_path / "e").task == "t"
    read_index(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("make", [lambda trace: pickle.dumps(Payload(trace)), torch_payload])
def test_the_weights_of_a_version_run_nothing(make, tmp_path, trace):
    """Also where every hash is right."""
    folder = tmp_path / "v"
    write_version(
        folder, DiffusionPolicy(PolicyConfig()), task=load_task(CONFIGS / "tasks" / "push_t.yaml"),
        robot=load_robot(CONFIGS / "robots" / "panda.yaml"), parents=(), bags=(), metrics={},
        training={},
    )  # fmt: skip
    (folder / WEIGHTS).write_bytes(make(trace))
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    files = {
        name: {
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            "size": (folder / name).stat().st_size,
        }
        for name in (WEIGHTS, CONFIG)
    }
    manifest = Manifest.model_validate(manifest.model_dump() | {"files": files})
    sealed = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST).write_text(sealed.model_dump_json())
    with pytest.raises(Rl100Error, match="not a safetensors file"):
        load_version(folder)
    assert not trace.exists()


def test_a_checkpoint_runs_nothing(tmp_path, trace):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(torch_payload(trace))
    with pytest.raises(Rl100Error, match="is damaged"):
        load_checkpoint(path, "f")
    assert not trace.exists()


def test_stored_episodes_run_nothing(tmp_path, trace):
    path = tmp_path / "episodes.npz"
    array = io.BytesIO()
    np.save(array, np.array([Payload(trace)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ids", "outcomes", "visual", "proprio", "actions", "stamps_ns", "ends"):
            archive.writestr(f"{name}.npy", array.getvalue())
    with pytest.raises((Rl100Error, ValueError)):
        load_stored_episodes(path)
    assert not trace.exists()


def called(tree: ast.AST):
    """Names of what is called, with the keywords given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {each.arg: ast.unparse(each.value) for each in node.keywords},
            )


@pytest.mark.parametrize(
    "file", sorted((ROOT / "src").glob("*/rl100_*/**/*.py")), ids=lambda file: file.stem
)
def test_no_code_of_ours_calls_what_would(file):
    for name, keywords in called(ast.parse(file.read_text(encoding="utf-8"))):
        assert name not in ("eval", "exec", "os.system", "marshal.loads", "marshal.load"), name
        if file.name != OWN_PIPE:
            assert not name.startswith(("pickle.load", "pickle.Unpickler")), name
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"
        if name in ("yaml.load", "yaml.load_all"):
            assert "SAFE" in keywords.get("Loader", "").upper()
        assert keywords.get("allow_pickle", "False") == "False"
        assert keywords.get("shell", "False") == "False"
