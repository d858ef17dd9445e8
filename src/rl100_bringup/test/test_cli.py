# SPDX-License-Identifier: Apache-2.0
"""The rl100 command: what is wrong is said before anything is started."""

import threading

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from typer.testing import CliRunner

from rl100_bringup import estop
from rl100_bringup.cli.app import app
from rl100_bringup.graph import GraphArguments, config_path
from rl100_policy.core.errors import ConfigError, Rl100Error
from rl100_policy.ros.domain import free_domain

run = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke


@pytest.mark.parametrize(
    "arguments",
    [
        ["bags", "/nowhere"],
        ["bags", __file__],
        ["doctor", "--bags", "/nowhere"],
        ["eval", "/nowhere"],
        ["train", "--bags", "/nowhere", "--output", "run"],
    ],
)
def test_a_folder_that_is_not_there_is_named(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(app, arguments)
    assert outcome.exit_code == 2
    assert "does not exist" in outcome.output or "is a file" in outcome.output
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused(tmp_path):
    outcome = run(app, ["train", "--bags", str(tmp_path), "--output", __file__])
    assert outcome.exit_code == 2
    assert "is a file" in outcome.output


def test_a_sampler_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    outcome = run(app, ["eval", str(tmp_path), "--sampler", "foo"])
    assert outcome.exit_code == 2
    assert "ddim" in outcome.output
    assert "one_step" in outcome.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "policy:=/nowhere"],
        ["up", "params_file:=/nowhere"],
        ["eval", "."],
        ["train", "--bags", ".", "--output", "run", "--set", "imitation.stpes=3"],
    ],
)
def test_what_a_run_would_fail_of_is_refused_before_it_writes_or_starts_anything(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    outcome = run(app, arguments)
    assert isinstance(outcome.exception, Rl100Error)
    assert list(tmp_path.iterdir()) == []


def test_trials_of_a_task_without_a_simulation_are_refused_before_anything_is_learned(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = config_path("tasks", "push_t").read_text().replace("name: push_t", "name: pour")
    (tmp_path / "pour.yaml").write_text(text)
    (tmp_path / "bags").mkdir()
    arguments = ["train", str(tmp_path / "pour.yaml"), "--bags", "bags", "--output", "run"]
    outcome = run(app, [*arguments, "--stage", "imitation", "--trials", "5"])
    assert isinstance(outcome.exception, ConfigError)
    assert "'pour' has no simulation" in str(outcome.exception)
    assert not (tmp_path / "run").exists()


def test_every_launch_argument_is_shown_with_what_it_is():
    outcome = run(app, ["up", "--show-args"])
    assert outcome.exit_code == 0
    assert all(name in outcome.output for name in vars(GraphArguments()))
    assert "value of sim" in outcome.output


@pytest.mark.ros
def test_the_emergency_stop_is_pressed_and_released_from_a_terminal(monkeypatch):
    asked: list[str] = []

    def answer(name):
        def on_call(_, response):
            asked.append(name)
            response.success, response.message = True, f"done: {name}"
            return response

        return on_call

    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        gate = rclpy.create_node("gate", context=context)
        for name in ("gate/estop", "gate/release"):
            gate.create_service(Trigger, name, answer(name))
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(gate)
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        try:
            for verb, name in (("estop", "gate/estop"), ("release", "gate/release")):
                done = run(app, [verb])
                assert done.exit_code == 0, done.output
                assert f"done: {name}" in done.output
        finally:
            executor.shutdown()
            gate.destroy_node()
            rclpy.shutdown(context=context)
            spinner.join(5.0)
    assert asked == ["gate/estop", "gate/release"]


def test_an_emergency_stop_that_nobody_hears_says_so(monkeypatch):
    monkeypatch.setattr(estop, "_PATIENCE_S", 0.5)
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        done = run(app, ["estop"])
    assert done.exit_code == 1
    assert "hardware emergency stop" in str(done.exception)
