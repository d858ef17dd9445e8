# SPDX-License-Identifier: Apache-2.0
"""The episode flow: what presses do, and what holds whatever happens in whatever order."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.episode_flow import step
from rl100_policy.core.flow import Flow, FlowSettings, State
from rl100_policy.core.flow_events import (
    AtHome,
    Checked,
    CheckRecording,
    Discard,
    Ended,
    GiveCommand,
    Judge,
    Judged,
    LatchStop,
    Moved,
    NotInCommand,
    NotStarted,
    Pressed,
    Refused,
    ReleaseStop,
    SceneSet,
    SetScene,
    Started,
    StartRecording,
    Stopped,
    StopRecording,
    Tick,
)
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.presses import Press

PERSON = FlowSettings(wanted=3)
POLICY = FlowSettings(policy_drives=True, episode_s=30.0)
SIMULATED = FlowSettings(sets_scene=True, confirms=False, goes_on=True)
HOLD, HOME = GiveCommand(CommandSource.HOLD), GiveCommand(CommandSource.HOME)
TELEOP, DRIVES = GiveCommand(CommandSource.TELEOP), GiveCommand(CommandSource.POLICY)


class Session:
    """A flow with its settings and clock; remembers what was asked for."""

    def __init__(self, settings=PERSON):
        self.flow, self.settings, self.now_s, self.asked = Flow(), settings, 0.0, []

    def tell(self, *events):
        for event in events:
            self.flow, requests = step(self.flow, event, self.now_s, self.settings)
            self.asked = list(requests)
        return self

    def press(self, *presses):
        return self.tell(*(Pressed(press, 7) for press in presses))

    def wait(self, seconds):
        self.now_s += seconds
        return self.tell(Tick())

    @property
    def state(self):
        return self.flow.state


def recording(settings=PERSON, episode="e1"):
    session = Session(settings)
    session.press(Press.NEXT).tell(AtHome())
    return started(session, episode)


def started(session, episode="e1"):
    return session.press(Press.NEXT).tell(Checked()).press(Press.NEXT).tell(Started(episode))


def review(settings=PERSON, press=Press.SUCCESS, outcome=1):
    session = recording(settings).press(press)
    return session.tell(Judged("e1", outcome), closed())


def closed(episode="e1", kept=True, degraded=False):
    return Ended(episode, kept, degraded, "saved to bags/e1")


def test_an_episode_goes_from_home_to_the_saved_bag():
    session = Session().press(Press.NEXT)
    assert (session.state, session.asked) == (State.RESETTING, [HOME])
    session.tell(AtHome())
    assert (session.state, session.asked) == (State.SCENE, [HOLD])
    session.press(Press.NEXT)
    assert session.asked == [CheckRecording()]
    session.tell(Checked())
    assert (session.state, session.asked) == (State.ARMED, [])
    session.press(Press.NEXT)
    assert (session.state, session.asked) == (State.STARTING, [HOLD, StartRecording()])
    session.tell(Started("e1"))
    assert (session.state, session.asked) == (State.RECORDING, [TELEOP])
    session.tell(Pressed(Press.SUCCESS, 55))
    assert session.state is State.ENDING
    assert session.asked == [Judge(Press.SUCCESS, 55, "e1"), HOLD, StopRecording(55)]
    session.tell(Judged("e1", 1), closed())
    assert session.state is State.REVIEW
    assert session.flow.count(1) == 1
    assert "1 of 3" in session.flow.message


def test_what_the_recorder_misses_is_listed_and_nothing_starts():
    session = Session().press(Press.NEXT).tell(AtHome()).press(Press.NEXT)
    session.tell(Checked(("nobody publishes camera", "2 GB are free, 5 are needed")))
    assert session.state is State.SCENE
    assert "nobody publishes camera; 2 GB" in session.flow.message


def test_a_recorder_that_refuses_to_start_leaves_nobody_in_command():
    session = Session().press(Press.NEXT).tell(AtHome()).press(Press.NEXT).tell(Checked())
    session.press(Press.NEXT).tell(NotStarted("the disk is full"))
    assert session.state is State.SCENE
    assert session.flow.driving is CommandSource.HOLD
    assert "the disk is full" in session.flow.message


def test_success_failure_and_no_judgement_are_counted_apart():
    session = Session(FlowSettings())
    for number, (press, outcome) in enumerate(
        [(Press.SUCCESS, 1), (Press.FAILURE, 2), (Press.STOP, 0)]
    ):
        session.press(Press.NEXT).tell(AtHome())
        started(session, f"e{number}").press(press)
        session.tell(Judged(f"e{number}", outcome), closed(f"e{number}"))
    assert [session.flow.count(outcome) for outcome in (0, 1, 2)] == [1, 1, 1]


def test_a_judgement_can_be_changed_in_review_and_names_its_episode():
    session = review()
    session.tell(Pressed(Press.FAILURE, 90))
    assert session.asked == [Judge(Press.FAILURE, 90, "e1")]
    session.tell(Pressed(Press.UNDO, 95))
    assert session.asked == [Judge(Press.UNDO, 95, "e1")]


@pytest.mark.parametrize("press", [Press.SUCCESS, Press.FAILURE])
def test_a_judgement_while_the_arm_goes_home_is_refused_and_said(press):
    session = review().press(Press.NEXT)
    assert session.press(press).asked == []
    assert "refused" in session.flow.message


def test_the_last_episode_can_be_discarded_and_taken_back_until_the_next_one():
    session = review().press(Press.NEXT)
    assert session.press(Press.DISCARD).asked == [Discard("e1", restore=False)]
    session.tell(Moved("e1", discarded=True))
    assert (session.flow.count(1), session.flow.trashed) == (0, 1)
    assert session.press(Press.UNDO).asked == [Discard("e1", restore=True)]
    session.tell(Moved("e1", discarded=False))
    assert session.flow.count(1) == 1


def test_discarding_a_running_episode_closes_it_first():
    session = recording().tell(Pressed(Press.DISCARD, 60))
    assert session.asked == [HOLD, StopRecording(60)]
    session.tell(closed())
    assert session.asked == [Discard("e1", restore=False)]


def test_a_discarding_that_waits_for_the_bag_can_be_taken_back():
    session = recording().press(Press.DISCARD, Press.UNDO).tell(closed())
    assert session.asked == []
    assert not session.flow.last.discarded


def test_a_person_takes_over_from_the_policy_and_hands_back():
    session = recording(POLICY)
    assert session.asked == [DRIVES]
    assert session.press(Press.TAKE_OVER).asked == [TELEOP]
    assert session.flow.taken_over
    assert session.press(Press.TAKE_OVER).asked == [], "whoever has command keeps it"
    assert session.press(Press.HAND_BACK).asked == [DRIVES]
    assert not session.flow.taken_over


def test_in_between_episodes_the_person_may_drive_and_nothing_is_recorded():
    session = review()
    assert session.press(Press.TAKE_OVER).asked == [TELEOP]
    assert session.press(Press.HAND_BACK).asked == [HOLD]
    assert session.press(Press.HAND_BACK).asked == []


def test_taking_over_stops_the_way_home():
    session = Session().press(Press.NEXT, Press.TAKE_OVER)
    assert (session.state, session.asked) == (State.IDLE, [TELEOP])
    assert session.tell(AtHome()).state is State.IDLE


def test_an_emergency_stop_keeps_the_episode_and_waits_for_its_release():
    session = recording(POLICY).tell(Pressed(Press.ESTOP, 70))
    assert session.asked == [LatchStop(), StopRecording(70)]
    session.tell(Stopped(latched=True), closed())
    assert session.press(Press.NEXT, Press.TAKE_OVER, Press.RESET).asked == []
    assert session.press(Press.RELEASE).asked == [ReleaseStop()]
    assert session.tell(Stopped(latched=False)).state is State.REVIEW


def test_an_emergency_stop_that_somebody_else_latched_is_noticed():
    session = recording().tell(Stopped(latched=True))
    assert (session.state, session.asked) == (State.STOPPED, [StopRecording(0)])


def test_a_recorder_that_ends_by_itself_stops_the_arm():
    session = recording(POLICY).tell(Ended("e1", False, True, "recording ended: disk full"))
    assert (session.state, session.asked) == (State.REVIEW, [HOLD])
    assert "disk full" in session.flow.message
    assert session.flow.last.degraded


def test_the_time_limit_ends_an_episode_without_a_judgement():
    session = recording(POLICY).wait(29.0)
    assert session.state is State.RECORDING
    assert session.flow.seconds_left(POLICY, session.now_s) == pytest.approx(1.0)
    session.wait(1.1)
    assert (session.state, session.asked) == (State.ENDING, [HOLD, StopRecording(0)])
    session.tell(closed())
    assert session.flow.count(0) == 1


def test_an_arm_that_does_not_come_home_is_left_where_it_is():
    session = Session().press(Press.NEXT).wait(60.0)
    assert (session.state, session.asked) == (State.IDLE, [HOLD])


def test_who_armed_and_went_away_has_to_confirm_again():
    session = Session().press(Press.NEXT).tell(AtHome()).press(Press.NEXT).tell(Checked())
    assert session.wait(120.0).state is State.SCENE


def test_a_simulated_scene_is_laid_out_and_armed_without_a_press():
    session = Session(SIMULATED).press(Press.NEXT).tell(AtHome())
    assert session.asked == [HOLD, SetScene()]
    assert session.tell(SceneSet()).asked == [CheckRecording()]
    assert session.tell(Checked()).state is State.ARMED


def test_where_nobody_confirms_the_recorder_is_asked_until_nothing_is_missing():
    session = Session(SIMULATED).press(Press.NEXT).tell(AtHome(), SceneSet(), Checked(("disk",)))
    assert session.state is State.SCENE
    assert session.wait(0.5).asked == []
    assert session.wait(0.6).asked == [CheckRecording()]
    assert session.tell(Checked()).state is State.ARMED


def test_a_scene_that_cannot_be_laid_out_is_tried_again_on_request():
    session = Session(SIMULATED).press(Press.NEXT).tell(AtHome(), SceneSet("no start pose"))
    assert "no start pose" in session.flow.message
    assert session.press(Press.NEXT).asked == [SetScene()]


def test_after_a_judgement_the_flow_goes_on_by_itself_where_it_should():
    session = Session(SIMULATED).press(Press.NEXT).tell(AtHome(), SceneSet(), Checked())
    session.press(Press.NEXT).tell(Started("e1")).press(Press.STOP).tell(closed())
    assert session.wait(99.0).state is State.REVIEW, "nobody has judged it"
    session.press(Press.SUCCESS).tell(Judged("e1", 1))
    assert session.wait(99.0).asked == [HOME]


def test_no_more_than_the_wanted_episodes_follow_by_themselves():
    settings = FlowSettings(goes_on=True, wanted=1)
    session = review(settings)
    assert math.isnan(session.flow.seconds_left(settings, session.now_s))
    assert session.wait(99.0).state is State.REVIEW


def test_quitting_closes_a_running_episode_first():
    session = recording().tell(Pressed(Press.QUIT, 80))
    assert session.asked == [HOLD, StopRecording(80)]
    assert session.tell(closed()).state is State.OVER


@pytest.mark.parametrize("press", [Press.NEXT, Press.RESET])
def test_a_session_that_is_over_can_go_on(press):
    """Regression: a graph that outlives the session took no key any more."""
    session = review().press(Press.QUIT)
    assert session.state is State.OVER
    assert session.press(press).asked == [HOME]
    assert session.flow.collected == 1


def test_the_emergency_stop_works_when_the_session_is_over():
    """Regression: it asked nobody to stop."""
    session = review().press(Press.QUIT, Press.ESTOP)
    assert LatchStop() in session.asked
    assert session.state is State.STOPPED


def test_the_end_of_a_session_does_not_release_the_emergency_stop():
    session = review().press(Press.ESTOP).tell(Stopped(latched=True)).press(Press.QUIT)
    assert session.state is State.OVER
    session.press(Press.NEXT)
    assert (session.state, session.asked) == (State.STOPPED, [])
    session.press(Press.QUIT).tell(Stopped(latched=False))
    assert session.press(Press.NEXT).asked == [HOME]


def test_an_episode_that_begins_after_the_end_is_closed():
    session = Session().press(Press.NEXT).tell(AtHome()).press(Press.NEXT).tell(Checked())
    session.press(Press.NEXT, Press.QUIT).wait(20.0)
    assert session.state is State.OVER
    assert session.tell(Started("e1")).asked == [HOLD, StopRecording(0)]
    assert session.tell(closed()).state is State.OVER


def test_an_answer_that_comes_too_late_is_no_episode_with_anybody_in_command():
    session = Session().press(Press.NEXT).tell(AtHome()).press(Press.NEXT).tell(Checked())
    session.press(Press.NEXT).wait(20.0)
    assert session.state is State.IDLE
    session.tell(Started("e1"))
    assert session.asked == [HOLD, StopRecording(0)]


def test_going_home_from_a_running_episode_closes_it_first():
    session = recording().tell(Pressed(Press.RESET, 61))
    assert session.asked == [HOLD, StopRecording(61)]
    assert session.tell(closed()).asked == [HOME]
    assert session.state is State.RESETTING


def test_an_emergency_stop_while_the_recorder_begins_is_not_forgotten():
    session = Session(POLICY).press(Press.NEXT).tell(AtHome()).press(Press.NEXT).tell(Checked())
    session.press(Press.NEXT, Press.ESTOP).tell(Stopped(latched=True), Started("e1"))
    assert (session.state, session.asked) == (State.STOPPED, [HOLD, StopRecording(0)])
    session.tell(closed())
    assert session.state is State.STOPPED
    assert session.flow.count(0) == 1


def test_the_end_of_another_episode_does_not_end_this_one():
    session = recording().tell(closed("e0"))
    assert session.state is State.RECORDING


@pytest.mark.parametrize("armed", [False, True], ids=["scene", "armed"])
def test_whoever_drives_freely_goes_home_before_an_episode_begins(armed):
    """Regression: the next press gave the policy the arm, wherever the person had left it."""
    session = Session(POLICY).press(Press.NEXT).tell(AtHome())
    if armed:
        session.press(Press.NEXT).tell(Checked())
    session.press(Press.TAKE_OVER)
    assert (session.state, session.asked) == (State.IDLE, [TELEOP])
    assert session.press(Press.NEXT).asked == [HOME]


def test_when_all_are_collected_it_is_said():
    session = review(FlowSettings(wanted=1))
    assert "all are collected" in session.flow.message


def test_an_episode_in_which_nobody_can_be_in_command_is_closed():
    session = recording(POLICY).tell(NotInCommand("another publisher commands the arm"))
    assert (session.state, session.asked) == (State.ENDING, [HOLD, StopRecording(0)])
    assert "another publisher" in session.flow.message


def test_a_way_home_that_is_refused_is_given_up():
    session = Session().press(Press.NEXT).tell(NotInCommand("joints are outside the limits"))
    assert (session.state, session.asked) == (State.IDLE, [HOLD])


IDS = st.sampled_from(["e1", "e2", "e3"])
EVENTS = st.one_of(
    st.builds(Pressed, st.sampled_from(Press), st.integers(1, 10**12)),
    st.just(AtHome()),
    st.builds(SceneSet, st.sampled_from(["", "no"])),
    st.builds(Checked, st.sampled_from([(), ("disk",)])),
    st.just("started"),
    st.just(NotStarted("no")),
    st.just("ended"),
    st.builds(Judged, IDS, st.integers(0, 2)),
    st.builds(Moved, IDS, st.booleans()),
    st.just(Refused("no")),
    st.just(NotInCommand("no")),
    st.builds(Stopped, st.booleans()),
    st.floats(0.0, 200.0),
)
ALL_SETTINGS = st.builds(
    FlowSettings,
    policy_drives=st.booleans(),
    goes_home=st.booleans(),
    sets_scene=st.booleans(),
    confirms=st.booleans(),
    goes_on=st.booleans(),
    wanted=st.integers(0, 2),
    episode_s=st.sampled_from([0.0, 30.0]),
)


class World:
    """What the other nodes do with the requests; the recorder answers in its own time."""

    def __init__(self):
        self.pending, self.running, self.begun, self.stops = 0, "", [], {}
        self.latched = False

    def event(self, told):
        """The event that a drawn item stands for, or None where it cannot happen."""
        if told == "started":
            if not self.pending or self.running:
                return None
            self.pending -= 1
            self.running = f"e{len(self.begun) + 1}"
            self.begun.append(self.running)
            return Started(self.running)
        if told == "ended":
            ended, self.running = self.running, ""
            return Ended(ended, True, False, "saved") if ended else None
        if isinstance(told, Stopped):
            if told.latched == self.latched:
                return None
            self.latched = told.latched
        return told

    def carry_out(self, requests):
        for request in requests:
            if isinstance(request, StartRecording):
                self.pending += 1
            elif isinstance(request, StopRecording) and self.running:
                self.stops[self.running] = self.stops.get(self.running, 0) + 1


@settings(max_examples=400, deadline=None)
@given(told=st.lists(EVENTS, max_size=60), conditions=ALL_SETTINGS)
def test_whatever_happens_in_whatever_order_the_promises_hold(told, conditions):
    flow, now_s, world = Flow(), 0.0, World()
    stopped = False
    for each in told:
        now_s += each if isinstance(each, float) else 0.0
        event = Tick() if isinstance(each, float) else world.event(each)
        if event is None:
            continue
        flow, requests = step(flow, event, now_s, conditions)
        world.carry_out(requests)
        given_to = [each.source for each in requests if isinstance(each, GiveCommand)]
        stopped |= LatchStop() in requests or event == Stopped(latched=True)
        stopped &= event != Stopped(latched=False)
        if CommandSource.POLICY in given_to:
            assert conditions.policy_drives
            assert flow.state is State.RECORDING
        if stopped:
            assert set(given_to) <= {CommandSource.HOLD}
        if flow.driving is CommandSource.POLICY:
            assert flow.state is State.RECORDING
        if flow.state in (State.ENDING, State.REVIEW, State.STOPPED, State.OVER, State.STARTING):
            free = flow.state is State.REVIEW and flow.driving is CommandSource.TELEOP
            assert free or flow.driving is CommandSource.HOLD
        assert list(flow.episodes) == world.begun
        kept = sum(flow.count(outcome) for outcome in (0, 1, 2))
        closed_ids = [each for each in world.begun if each != world.running]
        assert kept + flow.trashed == len(closed_ids)
        assert max(world.stops.values(), default=0) <= 1
        assert flow.message


@settings(max_examples=200, deadline=None)
@given(told=st.lists(EVENTS, max_size=40), conditions=ALL_SETTINGS)
def test_from_anywhere_quitting_leads_to_the_end_with_every_episode_closed(told, conditions):
    flow, now_s, world = Flow(), 0.0, World()
    for each in [*told, Pressed(Press.QUIT, 1), "started", "ended", 100.0, 100.0, "ended"]:
        now_s += each if isinstance(each, float) else 0.0
        event = Tick() if isinstance(each, float) else world.event(each)
        if event is not None:
            flow, requests = step(flow, event, now_s, conditions)
            world.carry_out(requests)
    assert flow.state is State.OVER
