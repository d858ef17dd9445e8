# SPDX-License-Identifier: Apache-2.0
"""What a person at the robot can ask for with one press, whatever is pressed."""

from __future__ import annotations

from enum import IntEnum


class Press(IntEnum):
    """One press; values are those of rl100_msgs/OperatorEvent."""

    NEXT = 1
    SUCCESS = 2
    FAILURE = 3
    STOP = 4
    DISCARD = 5
    UNDO = 6
    RESET = 7
    TAKE_OVER = 8
    ESTOP = 9
    RELEASE = 10
    QUIT = 11


MEANING = {
    Press.NEXT: "go on: take the arm home, confirm the scene, start the episode",
    Press.SUCCESS: "the task is done: ends the episode as a success",
    Press.FAILURE: "the task has failed: ends the episode as a failure",
    Press.STOP: "end the episode without a judgement",
    Press.DISCARD: "put the episode into the trash folder",
    Press.UNDO: "take back the last judgement, or the discarding",
    Press.RESET: "take the arm home; a running episode ends without a judgement",
    Press.TAKE_OVER: "take command from the policy, or hand it back",
    Press.ESTOP: "emergency stop",
    Press.RELEASE: "release the emergency stop",
    Press.QUIT: "end the session; a running episode is kept",
}
"""What each does, for people."""
