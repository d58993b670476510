"""The fallback ladder: designers from the best to the one that can't fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from foretune.errors import ForetuneError, SpaceExhaustedError, SuggestionUnavailableError
from foretune.search.designer import Fallback
from foretune.search.habits import StartsWell, with_kin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foretune.search.designer import (
        Completed,
        Deadline,
        Designer,
        Pending,
        Problem,
        Suggestion,
    )

_log = logging.getLogger(__name__)


class Ladder:
    """Asks designers in turn until one answers; the last one's errors are the caller's."""

    def __init__(self, levels: Sequence[Designer]) -> None:
        """Keep the levels, the best first."""
        self._levels = tuple(levels)
        self.name = self._levels[0].name

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return the first answer; each level that failed is in `fallbacks` and `detail`."""
        fallbacks: list[Fallback] = []
        for level, following in zip(self._levels[:-1], self._levels[1:], strict=True):
            try:
                suggestion = level.suggest(problem, completed, pending, deadline)
            except SpaceExhaustedError:
                raise
            except Exception as error:  # noqa: BLE001 - the user gets a configuration, whatever breaks
                reason = failure_reason(error)
                _log.warning(
                    "designer %s failed (%s), %s stands in: %s",
                    level.name,
                    reason,
                    following.name,
                    error,
                    exc_info=reason == "error",
                )
                fallbacks.append(
                    Fallback(
                        source=level.name,
                        target=following.name,
                        reason=reason,
                        message=f"{type(error).__name__}: {error}"[:256],
                    )
                )
            else:
                return _marked(suggestion, fallbacks)
        return _marked(self._levels[-1].suggest(problem, completed, pending, deadline), fallbacks)


class WithHistory:
    """Learns from past tasks where a problem has any, else answers as it would without.

    Tasks of other places (`Problem.starter`) stand in where a job has few of its own: as past tasks those
    that have nearly the same parameters, and where there are none, by what good values look like.
    """

    def __init__(self, alone: Designer, with_history: Callable[[], Designer]) -> None:
        """Ask `alone`, or what `with_history` makes when there is a history."""
        self._alone = alone
        self._make = with_history
        self.name = alone.name

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return the answer of the one or the other."""
        designer = self._alone
        if problem.starter:
            history = with_kin(problem.space, problem.history, problem.starter)
            if not history:
                return StartsWell(designer).suggest(problem, completed, pending, deadline)
            problem = replace(problem, history=history, starter=())
        if problem.history and problem.space.cardinality != 1:
            designer = self._make()
        return designer.suggest(problem, completed, pending, deadline)


def _marked(suggestion: Suggestion, fallbacks: Sequence[Fallback]) -> Suggestion:
    if not fallbacks:
        return suggestion
    audit = [
        {"from": f.source, "to": f.target, "reason": f.reason, "message": f.message}
        for f in fallbacks
    ]
    return replace(
        suggestion,
        proposer=f"{suggestion.proposer}/fallback",
        detail={**suggestion.detail, "fallbacks": audit},
        fallbacks=(*fallbacks, *suggestion.fallbacks),
    )


def failure_reason(error: Exception) -> str:
    """Return the bounded word under which a designer's failure is counted."""
    if isinstance(error, SuggestionUnavailableError):
        return "timeout"
    if isinstance(error, ForetuneError):
        return "error"
    # By name, so that this module needs no torch: gpytorch and linear_operator have one class each.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"NotPSDError", "LinAlgError", "_LinAlgError"}:
        return "cholesky"
    if names & {"NanError", "NotFiniteError"}:
        return "nan"
    return "error"
