# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rl100_bringup import doctor
from rl100_bringup.doctor import Finding, Machine, Status


@pytest.fixture
def machine(tmp_path) -> Machine:
    """A machine with an empty checkout and an empty virtual environment."""
    python = tmp_path / ".venv/bin/python3"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    return Machine(tmp_path, {"PATH": f"{python.parent}:/usr/bin"}, python, tmp_path)


def with_variables(machine: Machine, **variables: str) -> Machine:
    return replace(machine, environment={**machine.environment, **variables})


def install_node(machine: Machine, shebang: str) -> None:
    node = machine.root / "install/rl100_policy/lib/rl100_policy/policy"
    node.parent.mkdir(parents=True)
    node.write_text(f"{shebang}\nimport rclpy\n")


@pytest.mark.parametrize(
    ("shebang", "status"),
    [
        ("#!{venv}/python3", Status.OK),
        ("#!/usr/bin/env python3", Status.OK),
        ("#!/usr/bin/python3", Status.FAIL),
        ("#!/usr/bin/env no-such-python", Status.FAIL),
        ("import rclpy", Status.FAIL),
    ],
)
def test_nodes_must_start_in_the_interpreter_of_the_environment(machine, shebang, status):
    install_node(machine, shebang.format(venv=machine.python.parent))
    finding = doctor.node_interpreters(machine)
    assert finding.status is status
    assert (status is Status.OK) == (finding.advice == "")


def test_env_shebang_outside_the_environment_is_found(machine):
    install_node(machine, "#!/usr/bin/env sh")
    assert doctor.node_interpreters(machine).status is Status.FAIL


def test_libraries_beside_the_nodes_are_not_taken_for_nodes(machine):
    library = machine.root / "install/rl100_msgs/lib/python3.11/site-packages"
    library.mkdir(parents=True)
    assert doctor.node_interpreters(machine).status is Status.WARN


@pytest.mark.parametrize(
    ("reach", "domain", "status"),
    [
        ("LOCALHOST", "42", Status.OK),
        ("LOCALHOST", "102", Status.FAIL),
        ("LOCALHOST", "-1", Status.FAIL),
        ("LOCALHOST", "lab", Status.FAIL),
        ("SUBNET", "42", Status.WARN),
        ("", "42", Status.WARN),
    ],
)
def test_discovery(machine, reach, domain, status):
    asked = with_variables(machine, ROS_AUTOMATIC_DISCOVERY_RANGE=reach, ROS_DOMAIN_ID=domain)
    assert doctor.discovery(asked).status is status


def profile(root: str, kind: str, segment_size: int) -> str:
    return (
        f'<{root} xmlns="http://example.invalid/schema"><transport_descriptors>'
        f"<transport_descriptor><type>{kind}</type><segment_size>{segment_size}</segment_size>"
        f"</transport_descriptor></transport_descriptors></{root}>"
    )


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (profile("profiles", "SHM", 2**25), Status.OK),
        (profile("dds", "SHM", 2**22), Status.OK),
        (profile("profiles", "SHM", 512 * 2**10), Status.WARN),
        (profile("profiles", "UDPv4", 2**25), Status.WARN),
        ("<dds/>", Status.WARN),
        ("<profiles>", Status.FAIL),
        ("<html/>", Status.FAIL),
        (None, Status.FAIL),
    ],
)
def test_dds_profile_must_be_readable_xml_of_the_right_kind(machine, text, status):
    profile = machine.root / "profile.xml"
    if text is not None:
        profile.write_text(text)
    asked = with_variables(machine, FASTRTPS_DEFAULT_PROFILES_FILE=str(profile))
    assert doctor.dds_profile(asked).status is status


def test_missing_dds_profile_is_a_warning(machine):
    assert doctor.dds_profile(machine).status is Status.WARN


@pytest.mark.parametrize(("free", "status"), [(511, Status.WARN), (512, Status.OK)])
def test_shared_memory_must_hold_the_segments(machine, monkeypatch, free, status):
    usage = SimpleNamespace(total=2**30, free=free * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert doctor.shared_memory(machine).status is status


def test_absent_shared_memory_is_a_warning(machine):
    absent = replace(machine, shm=Path("/nonexistent"))
    assert doctor.shared_memory(absent).status is Status.WARN


@pytest.mark.parametrize(
    ("limit", "status"),
    [("4194304\n", Status.OK), ("212992\n", Status.WARN), (None, Status.WARN)],
)
def test_images_should_fit_into_socket_buffers(machine, limit, status):
    file = machine.root / "rmem_max"
    if limit is not None:
        file.write_text(limit)
    found = doctor.socket_buffers(replace(machine, receive_limit=file))
    assert found.status is status
    assert (status is Status.OK) == ("sysctl" not in found.advice)


@pytest.mark.parametrize(
    ("problem", "status"), [("", Status.OK), ("no priority (not allowed): ask", Status.WARN)]
)
def test_a_system_that_gives_no_priority_is_told_with_what_to_do(
    machine, monkeypatch, problem, status
):
    monkeypatch.setattr(doctor, "why_not", lambda _: problem)
    found = doctor.priority(machine)
    assert found.status is status
    assert found.advice == ("ask" if problem else "")


@pytest.mark.parametrize(("free", "status"), [(4.9e9, Status.WARN), (5e9, Status.OK)])
def test_disk_limit(machine, monkeypatch, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert doctor.disk(machine).status is status


def with_python(machine: Machine) -> Machine:
    """The interpreter of the test in place of the empty file of the fixture."""
    return replace(machine, python=Path(sys.executable))


def test_gl_that_draws_is_named_with_the_variable_to_set(machine, monkeypatch):
    monkeypatch.setattr(doctor, "_DRAW", "import os; assert os.environ['MUJOCO_GL'] == 'osmesa'")
    finding = doctor.offscreen_gl(with_python(machine))
    assert finding.status is Status.OK
    assert "MUJOCO_GL=osmesa" in finding.advice


def test_only_the_chosen_gl_is_tried_and_what_fails_says_why_and_what_it_is_for(
    machine, monkeypatch
):
    monkeypatch.setattr(doctor, "_DRAW", "raise RuntimeError('no display')")
    finding = doctor.offscreen_gl(with_variables(with_python(machine), MUJOCO_GL="glfw"))
    assert finding.status is Status.WARN
    assert finding.found == "glfw: RuntimeError: no display"
    assert "only for RGB pictures" in finding.advice


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ("2.13.0", Status.OK),
        ("2.13.0+cpu", Status.OK),
        ("2.12.1", Status.FAIL),
        (None, Status.FAIL),
    ],
)
def test_versions_are_compared_with_the_lock(machine, monkeypatch, installed, status):
    lock = machine.root / "requirements/lock.txt"
    lock.parent.mkdir()
    lock.write_text("# a comment==1\ntorch==2.13.0\n")
    monkeypatch.setattr(doctor, "_installed", lambda _: installed)
    assert doctor.versions(machine).status is status


def test_compiler_is_looked_for_on_the_given_path(machine):
    for program in ("g++", "cmake"):
        (machine.python.parent / program).touch(mode=0o755)
    only_venv = with_variables(machine, PATH=str(machine.python.parent))
    assert doctor.compiler(only_venv).status is Status.OK
    (machine.python.parent / "cmake").unlink()
    finding = doctor.compiler(only_venv)
    assert finding.status is Status.FAIL
    assert "cmake" in finding.found
    assert "C++" not in finding.found


def test_stale_paths_in_the_wheels_are_found(machine):
    export = machine.root / ".venv/share/std_msgs/cmake/export.cmake"
    export.parent.mkdir(parents=True)
    export.write_text("${_IMPORT_PREFIX}/include")
    assert doctor.repaired_wheels(machine).status is Status.OK
    export.write_text("/opt/python/cp312-cp312/include/python3.12")
    assert doctor.repaired_wheels(machine).status is Status.FAIL


def build(machine: Machine, outcome: str, at: float) -> None:
    record = machine.root / "build/rl100_msgs/colcon_build.rc"
    record.parent.mkdir(parents=True)
    record.write_text(outcome)
    os.utime(record, (at, at))
    (machine.root / "install/rl100_msgs").mkdir(parents=True)


@pytest.mark.parametrize(
    ("outcome", "built_at", "status"),
    [("0\n", 200, Status.OK), ("0\n", 50, Status.WARN), ("1\n", 200, Status.FAIL)],
)
def test_workspace_must_be_built_after_the_last_interface(machine, outcome, built_at, status):
    message = machine.root / "src/rl100_msgs/msg/State.msg"
    message.parent.mkdir(parents=True)
    message.touch()
    os.utime(message, (100, 100))
    build(machine, outcome, built_at)
    assert doctor.workspace(machine).status is status


def test_missing_build_is_a_failure(machine):
    assert doctor.workspace(machine).status is Status.FAIL


def test_extra_checks_come_last_and_a_broken_one_hides_nothing(machine):
    def unfinished_bags(machine: Machine) -> Finding:
        raise KeyError(machine.root.name)

    def after(machine: Machine) -> Finding:
        return Finding("after", Status.OK, str(machine.root))

    findings = doctor.examine(machine, [unfinished_bags, after])
    assert len(findings) == len(doctor.CHECKS) + 2
    broken, last = findings[-2:]
    assert (broken.name, broken.status) == ("unfinished bags", Status.FAIL)
    assert "KeyError" in broken.found
    assert last.name == "after"


def test_worst_status():
    findings = [Finding("a", Status.WARN, ""), Finding("b", Status.OK, "")]
    assert doctor.worst(findings) is Status.WARN
    assert doctor.worst([]) is Status.OK


def test_table_shows_text_in_brackets_as_it_is():
    console = Console(file=StringIO(), width=100)
    console.print(doctor.as_table([Finding("x", Status.FAIL, "rl100[sim]", "do [this]")]))
    shown = console.file.getvalue()
    assert "rl100[sim]" in shown
    assert "do [this]" in shown
    assert "fail" in shown


def test_defaults_describe_this_process(tmp_path):
    machine = Machine(tmp_path)
    assert machine.python == Path(sys.executable)
    assert machine.environment["PATH"] == os.environ["PATH"]
