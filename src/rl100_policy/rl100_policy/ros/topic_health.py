# SPDX-License-Identifier: Apache-2.0
"""How recorded topics are doing, as messages."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from rl100_msgs.msg import TopicHealth
from rl100_policy.bags.health import TopicFacts
from rl100_policy.bags.session import EpisodeSession
from rl100_policy.ros.diagnostics import diagnostic_status


def topic_health(
    facts: TopicFacts, session: EpisodeSession, now_s: float, *, recording: bool
) -> TopicHealth:
    """State of one topic now and in the running or last episode.

    Args:
        facts: What is known of it.
        session: The episode.
        now_s: Monotonic time [s].
        recording: The episode is running, so that silence is trouble.
    """
    watch, topic = facts.watch, facts.watch.stream.topic
    tally, loss = session.tally(topic), session.losses.get(topic)
    health = TopicHealth(
        topic=topic,
        published=facts.published,
        rate_hz=watch.rates(now_s)[0],
        expected_hz=watch.stream.expected_hz,
        age_s=watch.age_s(now_s),
        messages=tally.messages,
        worst_gap_s=tally.worst_gap_ns * 1e-9,
        backward=tally.backward,
        repeated=tally.repeated,
        elsewhere=tally.elsewhere,
    )
    if loss is not None:
        health.lost_middleware, health.lost_gaps = loss.middleware, loss.gaps
        health.lost_recorder = loss.recorder
    health.trouble = _trouble(health, facts, now_s, recording=recording)
    return health


def _trouble(health: TopicHealth, facts: TopicFacts, now_s: float, *, recording: bool) -> str:
    found = []
    if facts.other_types:
        found.append(f"also published as {', '.join(facts.other_types)}")
    elif facts.watch.stream.is_required and not facts.published:
        found.append("nobody publishes it")
    elif recording and facts.watch.is_silent(now_s):
        age = f"{health.age_s:.1f} s" if facts.watch.seen else "ever"
        found.append(f"silent for {age}")
    found += [f"{count} {what}" for what, count in _defects(health).items() if count]
    return ", ".join(found)


def _defects(health: TopicHealth) -> dict[str, int]:
    """How many messages there is something wrong with, by what that is."""
    return {
        "lost by the middleware": health.lost_middleware,
        "missing by their stamps": health.lost_gaps,
        "not written": health.lost_recorder,
        "stamps went back": health.backward,
        "stamps repeated": health.repeated,
        "in another frame": health.elsewhere,
    }


def topic_status(health: TopicHealth) -> DiagnosticStatus:
    """The same for ``/diagnostics``."""
    values = {
        "rate [Hz]": f"{health.rate_hz:.1f}",
        "expected [Hz]": f"{health.expected_hz:.1f}",
        "age [s]": f"{health.age_s:.2f}",
        "messages": health.messages,
        "worst gap [s]": f"{health.worst_gap_s:.3f}",
        **_defects(health),
    }
    level = DiagnosticStatus.WARN if health.trouble else DiagnosticStatus.OK
    message = health.trouble or f"{health.rate_hz:.1f} Hz"
    return diagnostic_status(f"rl100: recorder: {health.topic}", "", message, values, level=level)
