# SPDX-License-Identifier: Apache-2.0
"""The workspace from above, in the characters of a terminal: what is seen, the tool, marks.

Two by four dots to a character (Unicode braille), x of the base frame up and y to the left, as
somebody sees it who stands behind the robot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

Floats = NDArray[np.float64]

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bit of each dot of a braille character, by row and column."""
_BLANK = 0x2800
_LINE_STEP_M = 0.002


class SceneView:
    """One picture of the workspace."""

    def __init__(self, low: Floats, high: Floats, width: int, height: int) -> None:
        """Begin empty.

        Args:
            low: Least x and y, [2], base frame, m.
            high: Largest x and y, [2], base frame, m.
            width: Characters in a line.
            height: Lines.
        """
        self._low, self._high = np.asarray(low[:2], float), np.asarray(high[:2], float)
        self._dots = np.zeros((4 * height, 2 * width), dtype=bool)
        self._styles: dict[tuple[int, int], str] = {}

    def points(self, points: NDArray[np.floating], style: str) -> None:
        """Dots at some places, [N, 2 or more], base frame, m; those outside are left out."""
        rows, columns = self._dots.shape
        for x, y in self._inside(points):
            row = round(float((self._high[0] - x) / (self._high[0] - self._low[0])) * (rows - 1))
            column = round(
                float((self._high[1] - y) / (self._high[1] - self._low[1])) * (columns - 1)
            )
            self._dots[row, column] = True
            self._styles[row // 4, column // 2] = style

    def _inside(self, points: NDArray[np.floating]) -> Floats:
        places = np.asarray(points, float).reshape(-1, np.shape(points)[-1])[:, :2]
        return places[((places >= self._low) & (places <= self._high)).all(axis=1)]

    def line(self, corners: NDArray[np.floating], style: str) -> None:
        """Straight lines through some corners, [N, 2 or more], base frame, m."""
        for begin, end in zip(corners[:-1, :2], corners[1:, :2], strict=True):
            steps = max(2, int(np.linalg.norm(end - begin) / _LINE_STEP_M))
            self.points(begin + np.linspace(0.0, 1.0, steps)[:, None] * (end - begin), style)

    def text(self) -> Text:
        """The picture."""
        picture = Text()
        rows, columns = self._dots.shape
        for row in range(rows // 4):
            for column in range(columns // 2):
                cell = self._dots[4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
                code = _BLANK + int((_DOTS * cell).sum())
                picture.append(chr(code), style=self._styles.get((row, column), ""))
            picture.append("\n")
        return picture
