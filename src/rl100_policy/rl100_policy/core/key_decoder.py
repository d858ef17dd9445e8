# SPDX-License-Identifier: Apache-2.0
"""Keys from the bytes of a terminal.

Terminals send text and, for other keys, escape sequences (ECMA-48, as xterm does). Only those that
speak the keyboard protocol of kitty tell when a key is released; with the others a held key is one
that the terminal repeats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto


class KeyAction(Enum):
    """What happened to a key."""

    PRESS = auto()
    REPEAT = auto()
    RELEASE = auto()


@dataclass(frozen=True)
class KeyEvent:
    """A key and what happened to it."""

    key: str
    """A printable character, or a name: up, down, left, right, page_up, page_down, home, end,
    insert, delete, escape, enter, backspace, tab, space; with ``ctrl+`` or ``alt+`` before it."""
    action: KeyAction = KeyAction.PRESS


ENABLE_RELEASES = "\x1b[>15u"
"""Asks a terminal that can to tell releases, to send every key as an escape sequence, and what a
key gives with shift."""
ENABLE_PASTE, DISABLE_PASTE = "\x1b[?2004h", "\x1b[?2004l"
"""Ask a terminal to put marks around what is pasted: text is not a row of presses."""
DISABLE_RELEASES = "\x1b[<u"
"""Takes it back."""
ASK_RELEASES = "\x1b[?u"
"""A terminal that can answers ``CSI ? flags u``."""

_LETTERS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
_NUMBERS = {
    "1": "home", "2": "insert", "3": "delete", "4": "end", "5": "page_up", "6": "page_down",
    "7": "home", "8": "end",
}  # fmt: skip
_CODES = {9: "tab", 13: "enter", 27: "escape", 32: "space", 127: "backspace", 8: "backspace"}
_ACTIONS = {"1": KeyAction.PRESS, "2": KeyAction.REPEAT, "3": KeyAction.RELEASE}
_PASTE = {"200": True, "201": False}
_SHIFT, _ALT, _CONTROL = 1, 2, 4
_SEQUENCE = re.compile(rb"\x1b(?:\[([?0-9;:<>=]*)([@-~])|O([A-Z]))")
_UNFINISHED = re.compile(rb"\x1b(?:\[[?0-9;:<>=]*|O)?\Z")


class KeyDecoder:
    """Turns bytes into keys; what is cut off waits for the rest."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._rest = b""
        self._pasting = False
        self.reports_releases = False
        """The terminal has said that it tells releases."""

    def feed(self, data: bytes) -> list[KeyEvent]:
        """Keys in some bytes as they were read, in order."""
        self._rest += data
        found: list[KeyEvent] = []
        while self._rest:
            sequence = _SEQUENCE.match(self._rest)
            if sequence is not None:
                self._rest = self._rest[sequence.end() :]
                found += self._of_sequence(sequence)
            elif _UNFINISHED.match(self._rest):
                break
            else:
                keys = self._of_text()
                found += [] if self._pasting else keys
        return found

    def flush(self) -> list[KeyEvent]:
        """Keys in what has waited too long for a rest: an escape key that was pressed alone."""
        rest, self._rest = self._rest, b""
        return [KeyEvent("escape")] if rest.startswith(b"\x1b") else []

    def _of_text(self) -> list[KeyEvent]:
        code = self._rest[0]
        if code < 0x20 or code == 0x7F or code == 0x20:
            self._rest = self._rest[1:]
            return [KeyEvent(_CODES[code])] if code in _CODES else []
        length = 1 if code < 0x80 else 2 if code < 0xE0 else 3 if code < 0xF0 else 4
        if len(self._rest) < length and code >= 0xC0:
            text, self._rest = self._rest, b""  # a character that is cut off is none of ours
        else:
            text, self._rest = self._rest[:length], self._rest[length:]
        character = text.decode(errors="ignore")
        return [KeyEvent(character)] if character.isprintable() and character else []

    def _of_sequence(self, sequence: re.Match[bytes]) -> list[KeyEvent]:
        parameters, final, letter = (
            (part or b"").decode("ascii", "ignore") for part in sequence.groups()
        )
        if letter:
            return [KeyEvent(_LETTERS[letter])] if letter in _LETTERS else []
        if parameters.startswith("?"):
            self.reports_releases |= final == "u"
            return []
        if final == "~" and parameters in _PASTE:
            self._pasting = _PASTE[parameters]
            return []
        first, _, second = parameters.partition(";")
        modifiers, _, action = second.partition(";")[0].partition(":")
        held = int(modifiers) - 1 if modifiers.isdigit() else 0
        number, _, others = first.partition(":")
        shifted = others.partition(":")[0]
        key = self._named(shifted if held & _SHIFT and shifted else number, final)
        if not key or self._pasting:
            return []
        name = f"ctrl+{key}" if held & _CONTROL else f"alt+{key}" if held & _ALT else key
        return [KeyEvent(name, _ACTIONS.get(action, KeyAction.PRESS))]

    @staticmethod
    def _named(number: str, final: str) -> str:
        if final in _LETTERS:
            return _LETTERS[final]
        if final == "~":
            return _NUMBERS.get(number, "")
        if final != "u" or not number.isdigit():
            return ""
        code = int(number)
        if code in _CODES:
            return _CODES[code]
        return chr(code) if code < 0x110000 and chr(code).isprintable() else ""
