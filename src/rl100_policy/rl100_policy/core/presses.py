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
    HAND_BACK = 12


MEANING = {
    Press.NEXT: "go on: home, confirm the scene, start",
    Press.SUCCESS: "success: ends the episode",
    Press.FAILURE: "failure: ends the episode",
    Press.STOP: "end the episode without judgement",
    Press.DISCARD: "discard the episode to the trash",
    Press.UNDO: "undo the judgement or the discarding",
    Press.RESET: "home; a running episode ends, unjudged",
    Press.TAKE_OVER: "take over; pressed again: hand back",
    Press.ESTOP: "emergency stop",
    Press.RELEASE: "release the emergency stop",
    Press.QUIT: "quit; a running episode is kept",
    Press.HAND_BACK: "hand back, to the policy or to nobody",
}
"""What each does, for people."""


def meant(press: Press, *, in_command: bool) -> Press:
    """What a press of a key or button means that both takes over and hands back.

    Args:
        press: What was pressed.
        in_command: The person is known to be in command. Who is not sure takes over: that stops
            the policy, and does nothing if the person has command already.
    """
    return Press.HAND_BACK if press is Press.TAKE_OVER and in_command else press
