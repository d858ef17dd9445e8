# SPDX-License-Identifier: Apache-2.0
"""``rl100 bags`` and ``rl100 relabel``: what a person types and what is told, on real bags."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.episode_page import page_figure
from rl100_bringup.graph import config_path
from rl100_bringup.page_contents import EpisodePage
from rl100_policy.bags.identity import TRASH, bag_file
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.testing import MessageFactory, SyntheticEpisode
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import BagError

run = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke

ROBOT = load_robot(str(config_path("robots", "panda_rgb")))
TASK = load_task(str(config_path("tasks", "push_t")))
FACTORY = MessageFactory()
STEPS = 12
VERSION = "push_t_first@ab12"


def judged(kind: JudgementKind, second: float, source: str = "keyboard") -> Judgement:
    return Judgement(stamp_ns=round(second * 1e9), kind=kind, source=source)


def add_episode(bags: Path, name: str, **options) -> Path:
    """1.2 s at 10 Hz from ROS time 1 s; a depth and a colour camera."""
    camera, colour = ROBOT.camera(), ROBOT.camera(kinds=("color",))
    steps = np.arange(STEPS + 1)
    depth = np.full((STEPS + 1, camera.height, camera.width), 700, np.uint16)
    pixels = np.zeros((STEPS + 1, colour.height, colour.width, 3), np.uint8)
    pixels[...] = (10 * steps)[:, None, None, None]
    metadata = {"episode_id": name, "operator": "ann", "start_ns": 10**9}
    return SyntheticEpisode(
        TASK,
        ROBOT,
        depth,
        np.array(ROBOT.home) + 0.01 * steps[:, None],
        np.linspace(0, 0.1, 2 * STEPS).reshape(STEPS, 2).astype(np.float32),
        pixels=pixels,
        **options | {"metadata": metadata | options.get("metadata", {})},
    ).write(bags, FACTORY)


@pytest.fixture
def bags(tmp_path) -> Path:
    """A demonstration that succeeded, one of a policy that failed and was taken over."""
    add_episode(tmp_path / "bags", "20261121T020813_042Z_push_t",
                judgements=(judged(JudgementKind.SUCCESS, 2.0),),
                metadata={"tags": {"light": "dim"}})  # fmt: skip
    add_episode(tmp_path / "bags", "20261122T101500_000Z_push_t",
                policy={step: VERSION for step in range(2, STEPS) if step not in (5, 6, 7)},
                hold=frozenset({0}), missing={"depth": frozenset({4, 5})},
                judgements=(judged(JudgementKind.FAILURE, 2.2),),
                metadata={"policy_version": VERSION, "operator": "bob",
                          "degraded_reasons": ("2 messages lost",)})  # fmt: skip
    return tmp_path / "bags"


@pytest.fixture
def first(bags) -> Path:
    return bags / "20261121T020813_042Z_push_t"


@pytest.fixture
def second(bags) -> Path:
    return bags / "20261122T101500_000Z_push_t"


def told(*arguments: object, status: int = 0) -> str:
    outcome = run(app, [str(each) for each in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == status, outcome.output
    return outcome.output


def listed(*arguments: object) -> list[str]:
    return [each["folder"] for each in json.loads(told(*arguments, "--json"))["episodes"]]


# list


@pytest.mark.parametrize("words", [["bags"], ["bags", "list"]])
def test_a_folder_alone_is_listed_with_its_totals(bags, words):
    output = told(*words, bags)
    assert re.search(r"20261121T020813_042Z_push_t\s+success\s+ann", output)
    assert re.search(rf"20261122T101500_000Z_push_t\s+failure\s+{VERSION}.*degraded", output)
    assert "2 episodes, 2 s, " in output
    assert "0 unlabelled, 1 success, 1 failure" in output


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--outcome", "success"], [0]),
        (["--outcome", "success", "--outcome", "failure"], [0, 1]),
        (["--driver", "person"], [0]),
        (["--driver", "push_t_f"], [1]),
        (["--operator", "bob"], [1]),
        (["--whole"], [0]),
        (["--degraded"], [1]),
        (["--since", "2026-11-22"], [1]),
        (["--until", "2026-11-21"], [0]),
        (["--tag", "light=dim"], [0]),
        (["--task", "pour"], []),
        (["--longer", "100"], []),
        (["--shorter", "100"], [0, 1]),
    ],
)
def test_every_filter_works_before_and_after_the_folder(bags, options, found):
    names = sorted(folder.name for folder in bags.iterdir() if folder.is_dir())
    expected = [names[at] for at in found]
    assert listed("bags", bags, *options) == expected
    assert listed("bags", *options, bags) == expected


def test_a_part_of_a_folder_says_of_how_many_it_is(bags):
    assert "1 of 2 episodes" in told("bags", bags, "--outcome", "success")


def test_json_holds_all_that_is_known(bags):
    output = json.loads(told("bags", bags, "--json"))
    assert output["totals"]["outcomes"] == {"unlabelled": 0, "success": 1, "failure": 1}
    policys = output["episodes"][1]
    assert (policys["driver"], policys["operator"]) == (VERSION, "bob")
    assert policys["judgements"][0]["kind"] == JudgementKind.FAILURE
    assert policys["degraded_reasons"] == ["2 messages lost"]


@pytest.mark.parametrize(
    "arguments",
    [["--since", "yesterday"], ["--tag", "light"], ["--driver", "nobody", "--since", ""]],
)
def test_a_malformed_condition_is_refused_and_an_impossible_one_finds_nothing(bags, arguments):
    if "nobody" in arguments:
        assert listed("bags", bags, *arguments) == []
        return
    with pytest.raises(BagError, match="expected"):
        told("bags", bags, *arguments)


def test_a_misspelt_command_is_refused_with_those_there_are():
    output = told("bags", "chek", "somewhere", status=2)
    assert "'chek' is neither a command (list, show, check" in output


# show


def test_an_episode_is_shown_with_topics_command_and_judgements(second):
    output = told("bags", "show", second)
    assert re.search(r"/joint_states +13 +0\.\d\d +10\.0 +10\.0 +0\.10 +0\.00 +1\.20", output)
    assert re.search(r"/camera/depth/image_rect_raw +11 +\d\.\d\d +8\.3 +0\.30", output)
    assert "policy 58%, teleop 33%, hold 8% of 12 control periods" in output
    assert re.search(r"interventions +1: at 0\.5 s for 0\.3 s", output)
    assert re.search(r"1\.20 +failure +0 +keyboard +decides", output)
    assert "degraded: 2 messages lost" in output


def test_a_page_is_drawn_of_every_stream(second, tmp_path):
    output = told("bags", "show", second, "--plot", tmp_path / "page.png")
    assert f"picture: {tmp_path / 'page.png'}" in output
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_what_was_recorded_when_it_was(second):
    page = EpisodePage.read(second)
    images = page.images["/camera/color/image_raw"]
    values = [
        (round(float(page.seconds(np.array([ns]))[0]), 6), image.max()) for ns, image in images
    ]
    assert values == [(step / 10, 10 * step) for step in (0, 2, 5, 7, 10, 12)]
    assert page.seconds(page.joint_stamps_ns)[-1] == pytest.approx(1.2)
    assert page.positions[-1] - page.positions[0] == pytest.approx(0.12)
    labels = [
        label for axes in page_figure(page).axes for label in axes.get_legend_handles_labels()[1]
    ]
    assert {"policy", "teleop", "hold", "failure at 1.2 s", "linear.x", "/joint_states"} <= set(
        labels
    )


def test_a_page_of_an_episode_without_cameras_and_commands_is_drawn_too(tmp_path):
    meta = EpisodeMetadata(episode_id="e", task="push_t")
    writer = EpisodeWriter(tmp_path, meta)
    topic = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
    writer.write(topic, FACTORY.joint_state(10**9, ["a"], [0.5]), log_ns=10**9)
    folder = writer.close(meta)
    assert "not recorded" in told("bags", "show", folder, "--plot", tmp_path / "page.png")
    assert (tmp_path / "page.png").is_file()


def test_a_picture_of_an_unknown_kind_is_refused(first, tmp_path):
    with pytest.raises(BagError, match=r"give a \.png"):
        told("bags", "show", first, "--plot", tmp_path / "page.doc")


# check and recover


def test_whole_folders_and_single_episodes_are_checked(bags, first):
    assert "checked 2 episodes: all right" in told("bags", "check", bags)
    assert "checked 1 episodes: all right" in told("bags", "check", first)
    assert "checked 1 episodes" in told("bags", "check", bags, "--outcome", "failure")


def test_a_damaged_episode_makes_the_check_fail_by_name(bags, first):
    path = bag_file(first)
    path.write_bytes(path.read_bytes()[:-40])
    output = told("bags", "check", bags, status=1)
    assert f"{first.name}: {path}" in output
    assert "see above" in output
    assert first.name in told("bags", "check", first, status=1)


def test_what_a_crash_left_is_recovered(bags):
    writer = EpisodeWriter(bags, EpisodeMetadata(episode_id="crashed", task="push_t"))
    topic = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
    writer.write(topic, FACTORY.joint_state(1, ["a"], [0.0]), log_ns=1)
    writer.flush()
    writer.abort()
    assert f"./rl100 bags recover {bags}" in told("bags", bags)
    assert "crashed: recovered, 1 messages" in told("bags", "recover", bags)
    assert "crashed" in listed("bags", bags)


# merge and split


def test_folders_are_merged_by_what_their_episodes_are(bags, tmp_path):
    add_episode(tmp_path / "more", "20261123T000000_000Z_push_t")
    into = tmp_path / "all"
    output = told("bags", "merge", bags, tmp_path / "more", "--into", into, "--whole")
    assert f"{bags} -> {into}: 1 copied" in output
    assert [name[:8] for name in listed("bags", into)] == ["20261121", "20261123"]
    assert len(listed("bags", bags)) == 2


def test_merging_again_says_what_is_there_already(bags, tmp_path, first):
    told("bags", "merge", bags, "--into", tmp_path / "all")
    output = told("bags", "merge", bags, "--into", tmp_path / "all", "--move")
    assert f"already there: {first.name}" in output
    assert "2 already there" in output
    assert len(listed("bags", bags)) == 2


def test_a_different_episode_of_the_same_name_makes_merging_fail_and_the_others_come(
    bags, tmp_path, first
):
    told("bags", "merge", bags, "--into", tmp_path / "all", "--outcome", "success")
    told("relabel", first, "--outcome", "failure")
    output = told("bags", "merge", bags, "--into", tmp_path / "all", status=1)
    assert f"refused: {first.name}: " in output
    assert "1 copied, 1 refused" in output


def test_moved_episodes_are_gone_from_where_they_were(bags, tmp_path):
    told("bags", "merge", bags, "--into", tmp_path / "all", "--move", "--driver", "policy")
    assert [name[:8] for name in listed("bags", bags)] == ["20261121"]
    assert [name[:8] for name in listed("bags", tmp_path / "all")] == ["20261122"]


def test_a_merge_of_nothing_is_an_error(bags, tmp_path):
    with pytest.raises(BagError, match=r"no episode of .* meets the conditions"):
        told("bags", "merge", bags, "--into", tmp_path / "all", "--task", "pour")
    assert not (tmp_path / "all").exists()


def test_a_folder_is_split_by_a_value_and_keeps_its_episodes(bags, tmp_path, first):
    told("bags", "split", bags, "--by", "outcome", "--into", tmp_path / "by")
    assert listed("bags", tmp_path / "by" / "success") == [first.name]
    assert len(listed("bags", tmp_path / "by" / "failure")) == 1
    assert len(listed("bags", bags)) == 2
    linked = bag_file(tmp_path / "by" / "success" / first.name)
    assert linked.samefile(bag_file(first))


def test_what_was_divided_otherwise_before_is_named(bags, tmp_path, first):
    words = ["bags", "split", bags, "--by", "outcome", "--into", tmp_path / "by"]
    assert "also in" not in told(*words)
    told("relabel", first, "--outcome", "failure")
    output = told(*words)
    old = tmp_path / "by" / "success" / first.name
    assert f"belongs to failure now; `./rl100 bags delete {old}`" in output
    told("bags", "delete", old)
    assert "also in" not in told(*words)
    assert len(listed("bags", bags)) == 2


def test_a_split_can_copy(bags, tmp_path, first):
    told("bags", "split", bags, "--by", "driver", "--into", tmp_path / "by", "--copy")
    copied = bag_file(tmp_path / "by" / "person" / first.name)
    assert not copied.samefile(bag_file(first))
    assert copied.read_bytes() == bag_file(first).read_bytes()


def test_a_split_by_lot_holds_some_out(bags, tmp_path):
    words = ["bags", "split", bags, "--by", "share", "--share", "0.5", "--into", tmp_path / "lot"]
    told(*words, "--seed", "3")
    train, held_out = (listed("bags", tmp_path / "lot" / name) for name in ("train", "held_out"))
    assert sorted(train + held_out) == listed("bags", bags)
    assert len(train) == 1


# delete, trash, restore


def test_a_deleted_episode_is_in_the_trash_with_the_reason_and_can_be_restored(bags, first):
    output = told("bags", "delete", first, "--why", "camera was covered")
    assert f"bags restore {first.name} --folder {bags}" in output
    assert len(listed("bags", bags)) == 1
    assert re.search(rf"{first.name} .*UTC .*camera was covered", told("bags", "trash", bags))
    told("bags", "restore", first.name, "--folder", bags)
    assert len(listed("bags", bags)) == 2
    assert "is empty" in told("bags", "trash", bags)


def test_a_running_episode_is_not_deleted_and_the_others_are(bags, first):
    writer = EpisodeWriter(bags, EpisodeMetadata(episode_id="running", task=""))
    output = told("bags", "delete", bags / "running.partial", first, status=1)
    assert "is being recorded" in output
    assert not first.exists()
    assert (bags / "running.partial").is_dir()
    assert [path.name for path in (bags / TRASH).iterdir() if path.is_dir()] == [first.name]
    writer.abort()


# relabel


@pytest.mark.parametrize("words", [["relabel"], ["bags", "relabel"]])
def test_an_episode_is_judged_anew_and_the_trace_stays(first, words, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    output = told(*words, first, "--outcome", "failure", "--at", "0.5", "--note", "it fell")
    assert "failure (3 judgements)" in output
    shown = told("bags", "show", first)
    assert re.search(r"0\.50 +failure +0 +relabel by ann: it fell +decides", shown)
    assert re.search(r"1\.00 +success +0 +keyboard +\n", shown)
    assert shown.index("1.00  success") < shown.index("0.50  failure"), "as they were given"


def test_a_judgement_is_taken_back_and_the_list_follows(bags, first, second):
    told("relabel", first, second, "--outcome", "unlabelled")
    assert "2 unlabelled, 0 success, 0 failure" in told("bags", bags)
    assert [each.metadata.outcome.value for each in read_index(bags).entries] == ["unlabelled"] * 2


def test_a_time_beyond_the_end_is_refused_and_nothing_is_changed(first):
    before = read_metadata(first)
    output = told("relabel", first, "--outcome", "failure", "--at", "7", status=1)
    assert "refused" in output
    assert "7.0 s is not in it" in output
    assert read_metadata(first) == before


def test_taking_back_has_no_time(first):
    with pytest.raises(BagError, match="leave --at out"):
        told("relabel", first, "--outcome", "unlabelled", "--at", "1")
