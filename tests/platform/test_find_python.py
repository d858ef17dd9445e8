# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest

from environment import REPOSITORY


def find(*folders: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts/find_python.sh"],
        env={"PATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )


def fake(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_shim_that_fails_is_passed_over(tmp_path):
    fake(tmp_path / "shims", "python3.12", "echo 'python3.12: command not found' >&2; exit 127")
    real = fake(tmp_path / "real", "python3.11", f'exec "{sys.executable}" "$@"')
    found = find(tmp_path / "shims", tmp_path / "real")
    assert found.stdout.strip() == str(real)


def test_the_same_name_further_down_path_is_tried(tmp_path):
    fake(tmp_path / "shims", "python3", "exit 1")
    real = fake(tmp_path / "real", "python3", f'exec "{sys.executable}" "$@"')
    assert find(tmp_path / "shims", tmp_path / "real").stdout.strip() == str(real)


def test_a_complete_python_is_preferred_to_one_without_venv(tmp_path):
    # answers the version question, fails the one about venv and headers
    fake(tmp_path, "python3.12", '[ "$1" = -S ]')
    complete = fake(tmp_path, "python3.11", "exit 0")
    assert find(tmp_path).stdout.strip() == str(complete)


def test_an_incomplete_python_is_better_than_none(tmp_path):
    incomplete = fake(tmp_path, "python3.12", '[ "$1" = -S ]')
    assert find(tmp_path).stdout.strip() == str(incomplete)


@pytest.mark.parametrize("script", ["exit 1", None], ids=["wrong version", "nothing"])
def test_no_python_is_explained(tmp_path, script):
    if script:
        fake(tmp_path, "python3", script)
    found = find(tmp_path)
    assert found.returncode == 1
    assert found.stdout == ""
    assert "3.11" in found.stderr
    assert "apt-get install" in found.stderr
