# SPDX-License-Identifier: Apache-2.0
"""Kills of the recorder's process at random instants, and what each of them cost.

One process publishes joint states and depth images and notes what it has published. Recorder
processes, one after the other, record some of it through their services, and are sent SIGKILL at a
random instant of a random phase. `rl100 doctor --bags` and `rl100 bags --recover`, in turns, repair
the folder. Then every episode is compared with what had been published. The exit status is not zero
if anything was lost.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import rclpy
import typer
from kill_accounts import LIMIT_S, Account, Episode, Phase, Published, settle, table_of
from rclpy.node import Node
from rich.console import Console

from rl100_msgs.msg import EpisodeState, HumanFeedback
from rl100_msgs.srv import StartEpisode, StopEpisode
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.qos import EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

JOINT_HZ, DEPTH_HZ = 200, 20
WIDTH, HEIGHT = 128, 96
TOPICS = [
    f"/joint_states sensor_msgs/msg/JointState sensor={1 / JOINT_HZ}",
    f"/depth sensor_msgs/msg/Image sensor={1 / DEPTH_HZ}",
    "feedback rl100_msgs/msg/HumanFeedback",
]
_RECOVER_EVERY = 8
"""Kills between two recoveries, so that a recovery meets several remains."""
_PLANS = ("any", "any", "recording", "closing", "closing", "relabelling", "relabelling", "idle")
"""What a life is aimed at; "any" is an instant of a whole cycle."""
_CYCLE_S = 3.0
_PATIENCE_S = 30.0
SpinUntil = Callable[..., bool]


def publish(folder: Path, domain: int) -> None:
    """Publish both sensors until the process is ended, and note each stamp after its message."""
    from sensor_msgs.msg import Image, JointState

    rclpy.init(args=[], domain_id=domain)
    node = Node("robot")
    ledger = Published(folder)
    joints = node.create_publisher(JointState, "/joint_states", SENSOR)
    depth = node.create_publisher(Image, "/depth", SENSOR)
    image = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
    data = bytes(2 * WIDTH * HEIGHT)
    names, begun_s = [f"joint_{number}" for number in range(7)], time.monotonic()
    for count in range(sys.maxsize):
        time.sleep(max(0.0, begun_s + count / JOINT_HZ - time.monotonic()))
        stamp_ns = time.time_ns()
        joints.publish(JointState(header=header(stamp_ns), name=names, position=[0.5] * 7))
        ledger.note("/joint_states", stamp_ns)
        if count % (JOINT_HZ // DEPTH_HZ) == 0:
            image.header, image.data = header(stamp_ns), data
            depth.publish(image)
            ledger.note("/depth", stamp_ns)


class Recorder:
    """A recorder process in a namespace of its own, so that no answer is another one's."""

    def __init__(self, bags: Path, number: int, domain: int) -> None:
        """Start it."""
        self.namespace = f"/life_{number}"
        given = [f"bags:={bags}", f"topics:={TOPICS}", "stop_timeout:=2.0"]
        words = [word for each in given for word in ("-p", each)]
        self._log = (bags.parent / "recorder.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rl100_policy.nodes.recorder", "--ros-args",
             "-r", f"__ns:={self.namespace}", *words],
            env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
            stdout=self._log,
            stderr=self._log,
        )  # fmt: skip

    def kill(self) -> int:
        """SIGKILL; the wall time just before [ns]."""
        now_ns = time.time_ns()
        self.process.kill()
        return now_ns

    def reap(self) -> None:
        """Wait for the end of a killed process."""
        self.process.wait(_PATIENCE_S)
        self._log.close()


class Killed(Exception):
    """The recorder of this life is dead."""


class Life:
    """What a person does with one recorder process until it is killed."""

    def __init__(self, node: Node, recorder: Recorder, spin_until: SpinUntil, number: int) -> None:
        """Make clients for it."""
        self._node, self._recorder, self._spin_until = node, recorder, spin_until
        self._number = number
        self.phase, self.killed_ns, self.killed_in = Phase.IDLE, 0, Phase.IDLE
        self.episodes: list[Episode] = []
        self._states: list[EpisodeState] = []
        name = recorder.namespace
        self._start = node.create_client(StartEpisode, f"{name}/episode/start")
        self._stop = node.create_client(StopEpisode, f"{name}/episode/stop")
        self._feedback = node.create_publisher(HumanFeedback, f"{name}/feedback", EVENT)
        self._state = node.create_subscription(
            EpisodeState, f"{name}/episode/state", self._states.append, LATCHED
        )
        self._timer: threading.Timer | None = None

    def end(self) -> None:
        """Reap the process; forget its clients."""
        if self._timer is not None:
            self._timer.cancel()
        self._recorder.kill()
        self._recorder.reap()
        for destroy, entity in (
            (self._node.destroy_client, self._start),
            (self._node.destroy_client, self._stop),
            (self._node.destroy_publisher, self._feedback),
            (self._node.destroy_subscription, self._state),
        ):
            destroy(entity)

    def kill_in(self, delay_s: float) -> None:
        """Kill from another thread, whatever this one is doing then."""
        self._timer = threading.Timer(delay_s, self._kill)
        self._timer.start()

    def _kill(self) -> None:
        self.killed_in = self.phase
        self.killed_ns = self._recorder.kill()

    def wait(self, condition: Callable[[], Any], limit_s: float = _PATIENCE_S) -> None:
        """Spin until a condition holds; Killed if the process is, TimeoutError if it takes long."""
        reached = self._spin_until(lambda: self.killed_ns or condition(), limit_s)
        if self.killed_ns:
            raise Killed
        if not reached and condition.__name__ != "never":
            raise TimeoutError(f"{self._recorder.namespace} did not answer while {self.phase}")

    def pause(self, seconds: float) -> None:
        """Let time pass."""

        def never() -> bool:
            return False

        self.wait(never, seconds)

    def get_ready(self) -> None:
        """Wait until the recorder hears everybody."""
        self.wait(lambda: self._states and self._start.service_is_ready())
        self.wait(lambda: self._stop.service_is_ready() and self._feedback.get_subscription_count())

    def begin(self) -> None:
        """Start an episode; again while the recorder does not see the publishers yet."""
        request = StartEpisode.Request(task=f"life_{self._number}")
        self.phase = Phase.STARTING
        while True:
            future = self._start.call_async(request)
            self.wait(future.done)
            answer = future.result()
            if answer.success:
                break
            if "nobody publishes" not in answer.message:
                raise RuntimeError(answer.message)
            self.pause(0.1)
        self.episodes.append(Episode(answer.episode_id, begun_ns=time.time_ns()))
        self.phase = Phase.RECORDING

    def judge(self, kind: int) -> None:
        """Judge the newest episode."""
        episode = self.episodes[-1]
        now_ns = time.time_ns()
        self._feedback.publish(
            HumanFeedback(
                header=header(now_ns), episode_id=episode.episode_id, kind=kind, source="bench"
            )
        )
        episode.judgements.append((now_ns, kind))

    def ask_to_stop(self) -> Any:
        """Send the request; its future."""
        episode = self.episodes[-1]
        episode.end_ns = time.time_ns()
        self.phase = Phase.CLOSING
        return self._stop.call_async(
            StopEpisode.Request(end_stamp=time_message(episode.end_ns))
        )

    def close(self, future: Any) -> float:
        """Wait for the closed episode; how long it took [s]."""
        begun_s = time.monotonic()
        self.wait(future.done)
        answer = future.result()
        if not answer.success:
            raise RuntimeError(answer.message)
        self.episodes[-1].closed_ns = time.time_ns()
        self.phase = Phase.IDLE
        return time.monotonic() - begun_s

    def await_label(self) -> float:
        """Wait until a closed episode has its new label; how long it took [s]."""
        begun_s, name = time.monotonic(), self.episodes[-1].episode_id
        self.wait(lambda: self._states[-1].reason.startswith(f"{name} is now"))
        self.phase = Phase.IDLE
        return time.monotonic() - begun_s


class Kills:
    """Lives one after the other, each with its random end."""

    def __init__(self, seed: int) -> None:
        """Begin with guesses of how long things take."""
        self._random = random.Random(seed)
        self._close_s, self._label_s = 0.1, 0.1

    def run(self, life: Life) -> None:
        """Live until killed."""
        draw = self._random.uniform
        plan, whole = self._random.choice(_PLANS), self._random.randint(0, 1)
        life.get_ready()
        try:
            for _ in range(whole):
                self._cycle(life, "", draw)
            if plan == "any":
                life.kill_in(draw(0.0, _CYCLE_S))
            while True:
                self._cycle(life, plan, draw)
        except Killed:
            return

    def _cycle(self, life: Life, plan: str, draw: Callable[[float, float], float]) -> None:
        """One episode, judged while it runs, closed, judged again."""
        life.begin()
        if plan == "recording":
            life.kill_in(draw(0.0, 1.5))
        life.pause(draw(0.1, 0.6))
        life.judge(HumanFeedback.FAILURE)
        life.pause(draw(0.1, 0.6) if plan != "recording" else _CYCLE_S)
        future = life.ask_to_stop()
        if plan == "closing":
            life.kill_in(draw(0.0, 1.2 * self._close_s))
        self._close_s += 0.3 * (life.close(future) - self._close_s)
        life.pause(draw(0.0, 0.05))
        life.phase = Phase.RELABELLING
        life.judge(HumanFeedback.SUCCESS)
        if plan == "relabelling":
            life.kill_in(draw(0.0, 1.2 * self._label_s))
        self._label_s += 0.3 * (life.await_label() - self._label_s)
        if plan == "idle":
            life.kill_in(draw(0.0, 0.3))
            life.pause(1.0)


def recover(bags: Path, turn: int) -> int:
    """Repair the folder by one of the two commands; how many relabellings it finished."""
    words = (["doctor", "--bags", str(bags)], ["bags", str(bags), "--recover"])[turn % 2]
    done = subprocess.run(
        [sys.executable, "-m", "rl100_bringup.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"COLUMNS": "500"},
    )
    # The doctor's status is about the whole machine; what it did is judged by the folder.
    if list(bags.glob("*.partial")) or "Traceback" in done.stderr:
        raise RuntimeError(f"{words} left the folder as it was: {done.stdout}{done.stderr}")
    return done.stdout.count("relabelling was interrupted")


def run_lives(kills: int, seed: int, bags: Path, say: Callable[[str], None]) -> list[Account]:
    """Kill recorders of one folder; how each life ended."""
    lives: list[Account] = []
    chance, finished = Kills(seed), 0
    with isolated_ros():
        domain = rclpy.get_default_context().get_domain_id()
        robot = multiprocessing.get_context("spawn").Process(
            target=publish, args=(bags.parent, domain), daemon=True
        )
        robot.start()
        node = Node("person")
        nxt = Recorder(bags, 0, domain)
        with spinning(node) as spin_until:
            try:
                for number in range(kills):
                    recorder, nxt = nxt, Recorder(bags, number + 1, domain)
                    life = Life(node, recorder, spin_until, number)
                    try:
                        chance.run(life)
                    finally:
                        life.end()
                    lives.append(Account(life.killed_in, life.killed_ns, life.episodes))
                    if number % _RECOVER_EVERY == _RECOVER_EVERY - 1 or number == kills - 1:
                        finished += recover(bags, number // _RECOVER_EVERY)
                        say(
                            f"{number + 1} of {kills} kills; relabellings that a recovery "
                            f"finished: {finished}"
                        )
            finally:
                nxt.kill()
                nxt.reap()
                robot.kill()
                robot.join()
    return lives


def main(
    kills: Annotated[int, typer.Option(min=1, help="recorder processes to kill")] = 200,
    seed: Annotated[int, typer.Option(help="of the instants")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="folder to keep the bags in; must not exist")
    ] = None,
) -> None:
    """Kill, recover, compare, print; status 1 if anything was lost."""
    console = Console(width=120)
    if output is not None and output.exists():
        raise typer.BadParameter(f"{output} exists; name a new folder")
    with tempfile.TemporaryDirectory(prefix="kill_recorder_") as temporary:
        folder = output or Path(temporary)
        (folder / "bags").mkdir(parents=True)
        begun_s = time.monotonic()
        lives = run_lives(kills, seed, folder / "bags", lambda text: console.print(text))
        lost = settle(lives, folder / "bags", Published(folder))
        console.print(table_of(lives))
        took_s = time.monotonic() - begun_s
        console.print(f"{kills} kills in {took_s:.0f} s; a crash may cost {LIMIT_S} s")
        for each in lost:
            console.print(f"lost: {each}", highlight=False)
    raise typer.Exit(1 if lost else 0)


if __name__ == "__main__":
    typer.run(main)
