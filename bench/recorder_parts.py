# SPDX-License-Identifier: Apache-2.0
"""The recorder node with a clock around its parts, for ``bench/recording.py --parts``.

Processor time of the thread that a part runs in, so that waiting for the interpreter's lock or the
disk does not count. It is written to the file named by ``RECORDER_PARTS`` when the node ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from rl100_policy.bags.journal import BagJournal
from rl100_policy.nodes import recorder
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.raw_subscription import RawSubscription
from rl100_policy.ros.recorded_topics import RecordedTopics

VARIABLE = "RECORDER_PARTS"
_PARTS: dict[str, tuple[type, str]] = {
    "callbacks of messages": (RawSubscription, "_receive"),
    "20 Hz timer with the state": (RecorderNode, "_tick"),
    "  state": (RecorderNode, "_publish_state"),
    "diagnostics": (RecorderNode, "_report"),
    "  questions to the graph, in both": (RecordedTopics, "facts"),
    "  health of the topics, in both": (RecorderNode, "_health"),
    "bag writer: messages": (BagJournal, "_carry_out"),
    "bag writer: flushes": (BagJournal, "_flush_if_due"),
}
"""Timed methods; one that is indented is part of those above it."""


class PartClock:
    """Calls and processor seconds of every part."""

    def __init__(self) -> None:
        """Wrap the methods."""
        self.spent = {name: [0, 0.0] for name in _PARTS}
        for name, (owner, method) in _PARTS.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        spent = self.spent[name]

        @wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += 1
                spent[1] += time.thread_time() - begun

        return wrapped


def main() -> int:
    """Run the node, then write what its parts took."""
    clock = PartClock()
    begun_s, thread_s, process_s = time.monotonic(), time.thread_time(), time.process_time()
    status = recorder.main()
    told = {
        "wall_s": time.monotonic() - begun_s,
        "executor_s": time.thread_time() - thread_s,
        "process_s": time.process_time() - process_s,
        "parts": clock.spent,
    }
    Path(os.environ[VARIABLE]).write_text(json.dumps(told), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
