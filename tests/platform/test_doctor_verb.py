# SPDX-License-Identifier: Apache-2.0
"""`./rl100 doctor` where what other verbs make is missing or broken: it tells, makes nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environment import REPOSITORY

BUILT = Path(sys.prefix)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the sources and nothing made from them."""
    root = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    shutil.copy2(REPOSITORY / "rl100", root / "rl100")
    for name in ("src", "requirements"):
        (root / name).symlink_to(REPOSITORY / name)
    return root


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """The only folder on the PATH of a machine with Python and without a compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "readlink", "env"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def doctor(checkout: Path, **variables: str) -> subprocess.CompletedProcess:
    before = sorted(path for path in checkout.rglob("*") if "__pycache__" not in path.parts)
    outcome = subprocess.run(
        [checkout / "rl100", "doctor"],
        env=os.environ | {"COLUMNS": "200"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = sorted(path for path in checkout.rglob("*") if "__pycache__" not in path.parts)
    assert after == before
    return outcome


def python_on(folder: Path) -> None:
    """Put the Python that runs this, without its environment, on a PATH."""
    link = folder / f"python3.{sys.version_info.minor}"
    link.symlink_to(getattr(sys, "_base_executable", sys.executable))


def test_a_missing_environment_and_compiler_are_named(checkout, bare_path):
    python_on(bare_path)
    outcome = doctor(checkout, PATH=str(bare_path))
    assert outcome.returncode == 1
    assert "fail: there is no environment (.venv); run ./rl100 setup" in outcome.stdout
    assert "fail: no C++ compiler" in outcome.stdout
    assert "apt-get install g++" in outcome.stdout
    assert "fail: the workspace is not built" in outcome.stdout
    assert "other checks need a working environment" in outcome.stdout


def test_without_a_usable_python_it_says_which_one_is_needed(checkout, bare_path):
    old = bare_path / "python3"
    old.write_text("#!/usr/bin/env bash\nexit 1\n")
    old.chmod(0o755)
    outcome = doctor(checkout, PATH=str(bare_path))
    assert outcome.returncode == 1
    assert "no working Python 3.11 or 3.12" in outcome.stdout


def test_with_packages_but_no_build_everything_else_is_told_too(checkout):
    """The environment is that of another checkout, as after moving the folder."""
    (checkout / ".venv").symlink_to(BUILT)
    outcome = doctor(checkout)
    assert outcome.returncode == 1
    assert ".venv is not usable: made for another place" in outcome.stdout
    assert "rl100_msgs is not built" in outcome.stdout
    assert "shared memory" in outcome.stdout


def test_a_build_that_failed_points_to_its_log(checkout):
    venv = checkout / ".venv"
    (venv / "stamps").mkdir(parents=True)
    (venv / "stamps" / "build.begun").touch()
    outcome = doctor(checkout)
    assert outcome.returncode == 1
    assert f"the last build did not succeed; see {venv / 'log' / 'build.log'}" in outcome.stdout
