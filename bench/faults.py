# SPDX-License-Identifier: Apache-2.0
"""What the arm does when something fails: every fault many times, in a running graph.

The arm moves by a policy; at a random moment the fault begins; .6 s later it is undone,
what died is started anew, and the policy is put in command again, by itself, in the same graph.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from fault_graph import PERIOD_S, FaultyGraph, faulty_graph, moves
from fault_list import FAULTS, Expected, Fault
from rich.console import Console

from rl100_policy.core.errors import Rl100Error
from rl100_policy.core.gate_result import HELD
from rl100_policy.ros.transport import keep_on_this_machine

_WINDOW_S = 6 * PERIOD_S
_BOUND_S = 2 * PERIOD_S
_SEEN_S = 0.02
"""A joint state is seen so much after its time at most, beside other work [s]."""
_STUCK = "the graph does not go on"
_TRIALS = "trials.json"


@dataclass
class Result:
    """Of all trials of one fault."""

    name: str
    expected: str
    reaction: str
    rest_s: list[float] = field(default_factory=list)
    """From the fault until the arm last moved; infinite if it moves on."""
    back_s: list[float] = field(default_factory=list)
    """From the end of the fault until the policy moves the arm again."""
    lag_s: list[float] = field(default_factory=list)
    """How late commands were when the fault began: the arm is as much behind them."""
    held: int = 0
    """Trials in which a period was held."""
    problems: list[str] = field(default_factory=list)


def trial(faulty: FaultyGraph, fault: Fault, result: Result) -> None:
    """Bring one fault about, watch, undo it, go on."""
    faulty.of_chunks = fault.of_chunks
    faulty.drive()
    faulty.forget()
    time.sleep(random.uniform(2.0, 3.0) * PERIOD_S)
    lag_s = faulty.lag()
    begun = time.monotonic()
    with fault.inject(faulty):
        time.sleep(_WINDOW_S)
        end = time.monotonic()
        seen = faulty.watcher.seen
        moving = [until for _, until in moves(list(seen.places)) if until > begun]
        flags = [each.flags for when, each in list(seen.periods) if when > begun]
        result.problems += faulty.broken_limits()
    rest = max(moving, default=begun) - begun
    goes_on = end - begun - rest < 2 * PERIOD_S
    result.rest_s.append(float("inf") if goes_on else round(max(0.0, rest), 4))
    result.lag_s.append(round(lag_s, 4))
    result.held += any(each & HELD for each in flags)
    if problem := other_than_expected(fault.expected, result.rest_s[-1], lag_s):
        result.problems.append(problem)
    result.back_s.append(round(faulty.drive(), 4))


def other_than_expected(expected: Expected, rest_s: float, lag_s: float) -> str:
    """What the arm did instead; empty if it did what it is to."""
    if expected is Expected.HOLDS and rest_s > _BOUND_S + _SEEN_S + lag_s:
        return f"moved for {rest_s:.3f} s, {lag_s:.3f} s behind its commands"
    if expected is Expected.GOES_ON and np.isfinite(rest_s):
        return f"came to rest after {rest_s:.3f} s"
    return ""


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = [
        "| fault | trials | the arm | at rest after, median and longest [s] | "
        "moves again after, median and longest [s] | how |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in results:
        rest, back = np.array(each.rest_s), np.array(each.back_s)
        expected = Expected(each.expected)
        stopped = rest[np.isfinite(rest)]
        shown = "" if not len(stopped) else f"{np.median(stopped):.2f}, {stopped.max():.2f}"
        if expected is Expected.GOES_ON and not len(stopped):
            shown = f"some period held {each.held} times" if each.held else "no period held"
        elif len(stopped) < len(rest):
            shown = f"{len(stopped)} of {len(rest)} times: {shown}" if len(stopped) else "never"
        measured = zip(rest, each.lag_s, strict=True)
        wrong = sum(bool(other_than_expected(expected, value, lag)) for value, lag in measured)
        wrong += sum(told.startswith(_STUCK) for told in each.problems)
        did = f"{expected.value}{f' ({wrong} times not)' if wrong else ''}"
        returned = f"{np.median(back):.1f}, {back.max():.1f}" if len(back) else "never"
        lines.append(
            f"| {each.name} | {len(rest)} | {did} | {shown} | {returned} | {each.reaction} |"
        )
    return "\n".join(lines) + "\n"


def run(faults: list[Fault], trials: int, console: Console, output: Path | None) -> list[Result]:
    """All of them, in turns; a graph that does not go on is a problem, and another one begun.

    Trials that the output folder has already are added to.
    """
    results = known(output)
    for each in faults:
        results.setdefault(each.name, Result(each.name, each.expected.value, each.reaction))
    left = deque((turn, fault) for turn in range(trials) for fault in faults)
    while left:
        with faulty_graph() as faulty:
            while left:
                turn, fault = left.popleft()
                result = results[fault.name]
                before = len(result.problems)
                try:
                    trial(faulty, fault, result)
                except (RuntimeError, Rl100Error) as error:
                    result.problems.append(f"{_STUCK}: {error}")
                    if output is not None:
                        shutil.copytree(faulty.folder / "log", output / f"stuck_{len(left)}")
                    break
                finally:
                    for told in result.problems[before:]:
                        print(f"{turn}: {fault.name}: {told}", flush=True)
                if fault is faults[-1]:
                    console.print(f"{turn + 1} of {trials} turns", highlight=False)
                    keep(list(results.values()), output)
    return list(results.values())


def known(output: Path | None) -> dict[str, Result]:
    """Results of earlier runs, by fault."""
    if output is None or not (output / _TRIALS).exists():
        return {}
    told = json.loads((output / _TRIALS).read_text(encoding="utf-8"))
    return {each["name"]: Result(**each) for each in told}


def keep(results: list[Result], output: Path | None) -> None:
    """Write what there is."""
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text(table(results), encoding="utf-8")
    told: list[dict[str, Any]] = [vars(each) for each in results]
    (output / _TRIALS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def main(
    trials: Annotated[int, typer.Option(help="of each fault", min=1)] = 100,
    only: Annotated[str, typer.Option(help="faults whose name contains this")] = "",
    output: Annotated[Path | None, typer.Option(help="folder for tables.md, trials.json")] = None,
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
) -> None:
    """Inject and print; status 1 if the arm ever does other than it is to."""
    keep_on_this_machine()
    random.seed(seed)
    faults = [each for each in FAULTS if only in each.name]
    if not faults:
        raise typer.BadParameter(f"no fault is named like {only!r}", param_hint="--only")
    results = run(faults, trials, Console(), output)
    print(table(results))
    keep(results, output)
    sys.exit(any(each.problems for each in results))


if __name__ == "__main__":
    typer.run(main)
