# SPDX-License-Identifier: Apache-2.0
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

import environment
from environment import ROS_INSTALL, WHEELS, Settings
from rl100_policy.ros.transport import RECEIVE_BUFFER


@pytest.fixture
def checkout(tmp_path) -> Path:
    site = tmp_path / ".venv/lib/python3.11/site-packages"
    for name in ("ros_rclpy.libs", "ros_fastrtps.libs", "numpy.libs"):
        (site / name).mkdir(parents=True)
    return tmp_path


def sourced(script: Path, variables: dict[str, str]) -> dict[str, str]:
    """The environment after bash has sourced the script, twice, with errors on."""
    command = 'set -eu; . "$1"; . "$1"; env -0'
    run = subprocess.run(
        ["/bin/bash", "-c", command, "bash", script],
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        check=True,
        text=True,
    )
    pairs = dict(line.split("=", 1) for line in run.stdout.split("\0") if line)
    return {name: value for name, value in pairs.items() if name not in {"_", "SHLVL", "PWD"}}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ROS_DOMAIN_ID": "7", "LD_LIBRARY_PATH": "/mine:/other"},
        {"AMENT_PREFIX_PATH": "/opt/ros/humble", "PYTHONPATH": "/opt/ros/humble/lib:/mine"},
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "RMW_IMPLEMENTATION": "rmw_other"},
    ],
)
@pytest.mark.parametrize("mode", [WHEELS, ROS_INSTALL])
def test_bash_and_python_give_the_same_environment(checkout, variables, mode):
    venv = checkout / ".venv"
    environment.save(environment.base_settings(checkout, venv, mode), venv)
    base = {"PATH": "/usr/bin:/bin"} | variables
    assert environment.environment(checkout, base) == sourced(venv / "rl100_env.sh", variables)


def test_library_path_has_a_fixed_order_with_the_users_entries_last(checkout):
    settings = environment.base_settings(checkout, checkout / ".venv", WHEELS)
    paths = settings.apply({"LD_LIBRARY_PATH": "/z:/a"})["LD_LIBRARY_PATH"].split(":")
    names = [Path(path).name for path in paths]
    assert names == ["lib", "ros_fastrtps.libs", "ros_rclpy.libs", "z", "a"]


def test_installed_ros_is_kept_out_of_the_wheels_and_left_alone_under_its_own_mode(checkout):
    shell = {"LD_LIBRARY_PATH": "/opt/ros/jazzy/lib:/mine", "ROS_DISTRO": "jazzy"}
    wheels = environment.base_settings(checkout, checkout / ".venv", WHEELS).apply(shell)
    assert "/opt/ros" not in wheels["LD_LIBRARY_PATH"]
    assert wheels["LD_LIBRARY_PATH"].endswith(":/mine")
    on_ros = environment.base_settings(checkout, checkout / ".venv", ROS_INSTALL).apply(shell)
    assert on_ros["LD_LIBRARY_PATH"] == shell["LD_LIBRARY_PATH"]
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in on_ros


def test_ros_stays_on_this_machine_unless_the_user_says_otherwise(checkout):
    settings = environment.base_settings(checkout, checkout / ".venv", WHEELS)
    assert settings.apply({})["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    asked = settings.apply({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})
    assert asked["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    profile = "FASTRTPS_DEFAULT_PROFILES_FILE"  # which would keep DDS on this machine all the same
    assert profile in settings.apply({})
    assert profile not in asked


def test_domain_id_is_stable_in_range_and_differs_between_users_and_checkouts():
    def domain(root: str, user: int) -> int:
        return environment.default_domain_id(Path(root), user)

    assert domain("/a", 0) == domain("/a", 0)
    found = {domain(f"/checkout{i}", user) for i in range(500) for user in (0, 1000)}
    assert found == set(range(1, 102))


def test_values_with_spaces_and_quotes_survive_bash(tmp_path):
    settings = Settings(
        {"FIXED": "it's $HOME"},
        {"DEFAULT": "a b", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
        {"HERE": "it's"},
        {"LIST": ["/with space", "/x'y"]},
    )
    script = tmp_path / "env.sh"
    script.write_text(settings.to_bash())
    assert sourced(script, {}) == settings.apply({"PATH": "/usr/bin:/bin"})
    two = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    assert sourced(script, two) == settings.apply({"PATH": "/usr/bin:/bin", **two})


def test_more_prefixes_come_first():
    base = Settings(prefixes={"PYTHONPATH": ["/venv"]})
    merged = base.with_prefixes({"PYTHONPATH": ["/install"], "COLCON_PREFIX_PATH": ["/c"]})
    assert merged.prefixes == {"PYTHONPATH": ["/install", "/venv"], "COLCON_PREFIX_PATH": ["/c"]}


def test_workspace_set_up_file_is_read_not_guessed(tmp_path):
    (tmp_path / "install").mkdir()
    (tmp_path / "install/local_setup.bash").write_text(
        'echo noise; export PYTHONPATH="/built:$PYTHONPATH"; export NEW=/only\n'
    )
    found = environment.workspace_prefixes(tmp_path, Settings(prefixes={"PYTHONPATH": ["/venv"]}))
    assert found == {"NEW": ["/only"], "PYTHONPATH": ["/built"]}


def test_a_checkout_without_environment_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="rl100 setup"):
        environment.environment(tmp_path, {})


def test_dds_profile_is_loopback_only_and_holds_several_depth_images():
    profile = ElementTree.parse(environment.REPOSITORY / "dds/fastdds_loopback_shm.xml")
    (space,) = {element.tag.partition("}")[0] + "}" for element in profile.iter()}
    depth_image_bytes = 640 * 480 * 2
    (segment,) = profile.iter(f"{space}segment_size")
    (message,) = profile.iter(f"{space}maxMessageSize")
    assert int(segment.text) > 10 * depth_image_bytes
    assert int(message.text) > 2 * depth_image_bytes
    assert [element.text for element in profile.iter(f"{space}address")] == ["127.0.0.1"]
    assert [element.text for element in profile.iter(f"{space}useBuiltinTransports")] == ["false"]


def test_the_loopback_s_dds_profile_has_no_shared_memory_and_room_for_images():
    profile = ElementTree.parse(environment.REPOSITORY / "dds/fastdds_loopback_udp.xml")
    assert [element.text for element in profile.iterfind(".//{*}type")] == ["UDPv4"]
    assert {element.text for element in profile.iterfind(".//{*}address")} == {"127.0.0.1"}
    (size,) = profile.iterfind(".//{*}receiveBufferSize")
    assert int(size.text) == RECEIVE_BUFFER
    (builtin,) = profile.iterfind(".//{*}useBuiltinTransports")
    assert builtin.text == "false"
