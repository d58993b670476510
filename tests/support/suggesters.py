"""Suggestion services that answer what a test tells them to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from foretune.domain.space import Params
from foretune.ports import SuggestionAnswer, SuggestionRequest


@dataclass
class Scripted:
    """Answers by a function of the request, and remembers who asked."""

    answer: Callable[[SuggestionRequest], Params]
    asked: list[SuggestionRequest] = field(default_factory=list)
    inside: int = 0
    most_inside: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Answer, counting how many ask at once."""
        with self._lock:
            self.asked.append(request)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            return SuggestionAnswer(params=self.answer(request), proposer="gp")
        finally:
            with self._lock:
                self.inside -= 1


def by_index(request: SuggestionRequest) -> Params:
    """Return another configuration for each index."""
    return {"lr": 0.001 * (request.index + 1), "layers": 3}


@dataclass
class SetClock:
    """A clock that stands still until it is moved."""

    at: float = 1000.0

    def now(self) -> float:
        """Return Unix seconds."""
        return self.at
