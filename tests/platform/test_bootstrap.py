# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

import bootstrap
from bootstrap import Checkout, build_inputs, choose_mode, origin, why_start_over
from environment import ROS_INSTALL, WHEELS
from progress import StepError, run_logged


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    files = {
        "messages/package.xml": "<package/>",
        "messages/CMakeLists.txt": "project(messages)",
        "messages/msg/State.msg": "float64 x",
        "nodes/package.xml": "<package/>",
        "nodes/setup.py": "setup()",
        "nodes/nodes/main.py": "x = 1",
        "nodes/config/robot.yaml": "a: 1",
    }
    for name, text in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("edited", "rebuild"),
    [
        ("messages/msg/State.msg", True),
        ("messages/msg/New.msg", True),
        ("messages/CMakeLists.txt", True),
        ("nodes/setup.py", True),
        ("nodes/package.xml", True),
        ("nodes/config/new.yaml", True),
        # linked into the install space, so the edit is there already
        ("nodes/nodes/main.py", False),
        ("nodes/nodes/new.py", False),
        ("nodes/config/robot.yaml", False),
        ("nodes/test/test_main.py", False),
    ],
)
def test_only_edits_that_a_link_does_not_carry_cause_a_build(checkout, edited, rebuild):
    before = build_inputs(checkout, "packages")
    path = checkout.root / "src" / edited
    path.parent.mkdir(exist_ok=True)
    path.write_text("edited")
    assert (build_inputs(checkout, "packages") != before) == rebuild


@pytest.mark.parametrize("path", ["/home/me/rl 100", "/srv/a:b"])
def test_path_that_the_tools_cannot_hold_is_refused_at_once(path):
    with pytest.raises(StepError, match="space or a colon"):
        bootstrap.make(Checkout(Path(path)))


def test_new_packages_cause_a_build(checkout):
    assert build_inputs(checkout, "before") != build_inputs(checkout, "after")


def finish_packages(checkout: Checkout, mode: str) -> None:
    """Leave behind what a finished installation leaves."""
    with checkout.stamp("packages").running("inputs"):
        checkout.origin.write_text(origin(checkout, mode))
        checkout.python.parent.mkdir()
        checkout.python.touch()


def test_finished_environment_is_brought_up_to_date_not_made_again(checkout):
    finish_packages(checkout, WHEELS)
    assert why_start_over(checkout, WHEELS) is None


def test_interrupted_environment_is_made_again(checkout):
    finish_packages(checkout, WHEELS)
    with pytest.raises(KeyboardInterrupt), checkout.stamp("packages").running("inputs"):
        raise KeyboardInterrupt
    assert why_start_over(checkout, WHEELS) == "an interrupted installation"


def test_moved_checkout_and_vanished_python_make_the_environment_again(checkout, tmp_path):
    finish_packages(checkout, WHEELS)
    checkout.python.unlink()
    assert why_start_over(checkout, WHEELS) == "its Python is gone"
    moved = Checkout(checkout.root.rename(tmp_path.with_name(f"{tmp_path.name} moved")))
    assert why_start_over(moved, WHEELS) == "made for another place or Python"


def test_environment_of_somebody_else_is_made_again(checkout):
    checkout.venv.mkdir()
    assert why_start_over(checkout, WHEELS) == "not made by this script"


def test_mode_is_chosen_once(checkout, monkeypatch):
    monkeypatch.setattr(bootstrap, "installed_ros_python", lambda _: "/usr/bin/python3")
    assert choose_mode(checkout, {"ROS_DISTRO": "jazzy"}) == ROS_INSTALL
    finish_packages(checkout, WHEELS)
    assert choose_mode(checkout, {"ROS_DISTRO": "jazzy"}) == WHEELS


def test_environment_on_an_installed_ros_needs_it_sourced(checkout):
    finish_packages(checkout, ROS_INSTALL)
    with pytest.raises(StepError, match=r"source /opt/ros/jazzy/setup\.bash"):
        choose_mode(checkout, {})


def test_our_own_environment_is_not_taken_for_an_installed_ros():
    ours = {"ROS_DISTRO": "jazzy", "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    assert bootstrap.installed_ros_python(ours) is None
    assert bootstrap.installed_ros_python({"ROS_DISTRO": "humble"}) is None


def logged(command: list[str], log: Path) -> None:
    run_logged("step", command, log, {}, lambda _: None, directory=log.parent, advice="Do this.")


def test_failed_command_shows_the_end_of_its_output_and_the_advice(tmp_path):
    command = ["/bin/bash", "-c", "for i in {1..99}; do echo line $i; done; exit 3"]
    with pytest.raises(StepError) as caught:
        logged(command, tmp_path / "step.log")
    text = str(caught.value)
    assert "exit status 3" in text
    assert "| line 99" in text
    assert "line 9\n" not in text
    assert text.endswith("Do this.")
    assert "line 9\n" in (tmp_path / "step.log").read_text()


def test_progress_goes_to_stderr_only(tmp_path, capsys):
    logged(["/bin/bash", "-c", "echo out"], tmp_path / "step.log")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "step" in shown.err
    assert "done" in shown.err


@pytest.mark.parametrize(
    ("line", "news"),
    [
        ("Collecting torch==2.13.0 (from -r x)", "1 found, torch"),
        ("  Downloading torch-2.13.0-cp311-cp311-linux.whl (184.3 MB)", "torch (184.3 MB)"),
        ("Installing collected packages: a, b, c", "unpacking 3"),
        ("Requirement already satisfied: pip", None),
    ],
)
def test_output_of_pip_becomes_a_few_words(line, news):
    found = bootstrap._PipNews()(line)
    assert found == news or (news and found.endswith(news))
