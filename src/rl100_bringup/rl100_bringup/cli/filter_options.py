# SPDX-License-Identifier: Apache-2.0
"""The options that choose episodes, the same for every command that takes several."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from rl100_policy.bags.episode_filter import EpisodeFilter, parse_moment, parse_tags
from rl100_policy.bags.judgement import Outcome

_PANEL = "Which episodes"
_CHOSEN = "chosen"


def _option(*names: str, what: str, **limits: Any) -> Any:
    return typer.Option(*names, help=what, rich_help_panel=_PANEL, show_default=False, **limits)


def chosen_episodes(
    *,
    outcome: Annotated[
        list[Outcome] | None, _option(what="with this outcome; may be repeated")
    ] = None,
    driver: Annotated[
        str, _option(what="driven by: person, policy, or how a policy version's name begins")
    ] = "",
    task: Annotated[str, _option(what="of this task")] = "",
    operator: Annotated[str, _option(what="of this operator")] = "",
    degraded: Annotated[
        bool | None,
        _option("--degraded/--whole", what="with messages known to be missing, or without"),
    ] = None,
    since: Annotated[
        str, _option(what="not before this UTC date or time, 2026-11-21 or 2026-11-21T02:08")
    ] = "",
    until: Annotated[str, _option(what="not after it; a date is the whole day")] = "",
    tag: Annotated[
        list[str] | None, _option(what="with this tag, key=value; may be repeated")
    ] = None,
    longer: Annotated[float | None, _option(what="at least so long [s]", min=0.0)] = None,
    shorter: Annotated[float | None, _option(what="at most so long [s]", min=0.0)] = None,
) -> EpisodeFilter:
    """The filter that the options say.

    Raises:
        BagError: If a time or a tag is malformed.
    """
    return EpisodeFilter(
        outcomes=frozenset(outcome or ()),
        driver=driver,
        task=task,
        operator=operator,
        degraded=degraded,
        since=parse_moment(since) if since else None,
        until=parse_moment(until) if until else None,
        tags=parse_tags(tag or ()),
        longer_s=longer,
        shorter_s=shorter,
    )


def with_filter(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes ``chosen``, an :class:`EpisodeFilter`, as one with these options."""
    options = inspect.signature(chosen_episodes, eval_str=True).parameters
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own[_CHOSEN]

    @wraps(command)
    def run(**given: Any) -> None:
        chosen = chosen_episodes(**{name: given.pop(name) for name in options})
        command(**given, chosen=chosen)

    parameters = [*own.values(), *options.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__  # its annotations are not those of this
    return run
