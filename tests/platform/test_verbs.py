# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess

import pytest

from environment import REPOSITORY
from rl100_policy.ros.scheduling import ORDINARY, PERSON


def listed(where: str) -> set[str]:
    lines = (REPOSITORY / "scripts/verbs.txt").read_text().splitlines()
    rows = [line.split(None, 2) for line in lines if line and not line.startswith("#")]
    return {verb for verb, handler, _ in rows if handler == where}


@pytest.fixture
def run(tmp_path):
    """Runs ./rl100 where there is no Python at all."""
    for tool in ("bash", "readlink"):
        (tmp_path / tool).symlink_to(shutil.which(tool))

    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [REPOSITORY / "rl100", *arguments],
            env={"PATH": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return start


def test_without_a_verb_every_verb_is_listed_with_one_line(run):
    shown = re.findall(r"^  ([\w-]+) +\S.*$", run().stdout, flags=re.MULTILINE)
    assert set(shown) == listed("script") | listed("cli")
    assert len(shown) == len(set(shown))


def test_an_unknown_verb_is_refused_with_the_listing(run):
    outcome = run("fly")
    assert outcome.returncode == 2
    assert "no verb 'fly'" in outcome.stderr
    assert "doctor" in outcome.stderr


@pytest.mark.parametrize("verb", sorted(listed("script")))
def test_asking_a_verb_for_help_does_nothing_else(run, verb):
    """There is no Python here, so anything but the help would fail."""
    outcome = run(verb, "--help")
    assert outcome.returncode == 0
    assert outcome.stdout.startswith(f"usage: ./rl100 {verb}")


def test_clean_refuses_an_option_that_it_does_not_know(run):
    outcome = run("clean", "--foo")
    assert outcome.returncode == 2
    assert "--foo" in outcome.stderr


def test_every_script_verb_has_a_branch():
    text = (REPOSITORY / "rl100").read_text()
    branches = re.findall(r"^  (\w+)\)", text.rpartition("case $verb in")[2], re.MULTILINE)
    assert set(branches) == listed("script")


def test_cli_verbs_are_the_commands_of_the_cli():
    cli = pytest.importorskip("rl100_bringup.cli.app", exc_type=ModuleNotFoundError)
    typer_main = pytest.importorskip("typer.main")
    # doctor is both: ./rl100 tells what the environment lacks, then lets the cli tell the rest
    assert set(typer_main.get_command(cli.app).commands) == listed("cli") | {"doctor"}


@pytest.mark.parametrize(
    ("verb", "variables", "asks"),
    [
        ("estop", {}, True),
        ("release", {}, True),
        ("estop", {ORDINARY: "1"}, False),
        ("doctor", {}, False),
    ],
)
def test_a_persons_stop_asks_for_the_priority_of_a_keyboard(run, tmp_path, verb, variables, asks):
    """Regression: beside two nodes that kept every core the stop took half a minute."""
    asked = tmp_path / "asked"
    chrt = tmp_path / "chrt"
    chrt.write_text(f'#!{shutil.which("bash")}\necho "$@" > {asked}\nexit 1\n')
    chrt.chmod(0o755)
    run(verb, "--help", **variables)
    assert asked.exists() == asks
    if asks:
        assert re.fullmatch(rf"--fifo --pid {PERSON} \d+\n", asked.read_text())
