# SPDX-License-Identifier: Apache-2.0
"""The page of keys, buttons and services of a person at the robot, from the tables in the code."""

from __future__ import annotations

from doc_tables import table
from rl100_policy.core.joystick import PROFILES
from rl100_policy.core.key_bindings import bindings
from rl100_policy.core.presses import MEANING, Press

_ABOUT = """# Keys, buttons, services

What a person at the robot can press. Keys are those of the terminal of `./rl100 collect` or of the
keyboard node; buttons are those of a joystick (`joystick:=gamepad` or `joystick:=spacemouse`),
numbered as its driver does; services are `std_srvs/Trigger` of the episode flow. All three do the
same ([why](decisions/0026-presses.md)); what a judgement is worth says the
[reward timing rule](reward-timing.md).
"""
_MOTION = """## Steering

While you are in command. In a terminal that does not tell when a key is released, a press moves
the arm for .8 control periods and a held key as long as the terminal repeats it. `+` and `-`
change how far a press goes. A key whose direction the task does not steer does nothing.
"""
_AXES = """## Axes of a joystick

Other devices: `profile:=custom` with `axes` and `buttons` of the
[joystick node](interfaces.md#joystick).
"""


def keys_page(head: str) -> str:
    """The content of docs/keys.md, after a head."""
    keys = {what: f"`{keys}`" for keys, what in ((each.keys, each.what) for each in bindings())}
    presses = [
        (
            keys.get(MEANING[press], "`t` again"),
            _button("gamepad", press),
            _button("spacemouse", press),
            f"`operator/{press.name.lower()}`",
            MEANING[press],
        )
        for press in Press
    ]
    told = set(MEANING.values())
    motion = [(f"`{each.keys}`", each.what) for each in bindings() if each.what not in told]
    axes = [
        (name, ", ".join(f"`{entry}`" for entry in entries))
        for name, (entries, _) in PROFILES.items()
        if entries
    ]
    return "\n".join(
        [
            head + _ABOUT,
            table(["key", "gamepad", "SpaceMouse", "service", "what it does"], presses),
            _MOTION,
            table(["key", "what it does"], motion),
            _AXES,
            table(["profile", "axes"], axes),
        ]
    )


def _button(profile: str, press: Press) -> str:
    _, buttons = PROFILES[profile]
    numbers = [
        entry.partition("=")[2] for entry in buttons if entry.startswith(press.name.lower() + "=")
    ]
    return ", ".join(numbers)
