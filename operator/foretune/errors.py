"""The exception tree. A class decides whether to retry; its message says what, where, and what is right.

ForetuneError
├── InvalidInputError (ValueError)      permanent: the caller's input is wrong
│   ├── InvalidJobError                 a manifest or spec; carries every problem at once
│   ├── InvalidSpaceError               a search space or a parameter
│   ├── InvalidObservationError         an observation that does not fit its space
│   └── InvalidReportError              a report that breaks the contract
├── NotFoundError                       permanent: no such job, trial or file
├── ConflictError                       permanent: it exists, and it is another one
├── SpaceExhaustedError (ValueError)    permanent: no untried configuration is left
├── ForbiddenError                      permanent: the caller may not do this
└── UnavailableError                    temporary: try again with back-off
    ├── ClusterUnavailableError         the Kubernetes API
    ├── HistoryUnavailableError         the tracker or its database
    ├── QuotaExceededError              a quota refuses new pods
    └── SuggestionUnavailableError      the suggestion service, or its deadline
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ForetuneError(Exception):
    """Base of every error that Foretune raises on purpose."""


class InvalidInputError(ForetuneError, ValueError):
    """The caller's input is wrong; retrying can't help."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a manifest: where (`spec.space.lr.min`), and what would be right."""

    path: str
    message: str

    def __str__(self) -> str:
        """Return `path: message` on one line."""
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidJobError(InvalidInputError):
    """A TuningJob can't be accepted; `problems` holds everything wrong with it, not the first thing."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep `problems`, at least one."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidSpaceError(InvalidInputError):
    """A search space or one of its parameters is impossible."""


class InvalidObservationError(InvalidInputError):
    """An observation does not fit the space or carries no result."""


class InvalidReportError(InvalidInputError):
    """A report breaks the contract; nothing of its batch is stored."""


class NotFoundError(ForetuneError):
    """There is no such job, trial or file."""


class ConflictError(ForetuneError):
    """Something of this name exists already and is not the same."""


class SpaceExhaustedError(ForetuneError, ValueError):
    """Every configuration of a finite space has been proposed."""


class ForbiddenError(ForetuneError):
    """The caller is known and may not do this, or is not known."""


class UnavailableError(ForetuneError):
    """Something needed does not answer now; try again with back-off."""


class ClusterUnavailableError(UnavailableError):
    """The Kubernetes API does not answer or is overloaded."""


class HistoryUnavailableError(UnavailableError):
    """The tracker or its database does not answer."""


class QuotaExceededError(UnavailableError):
    """A quota of the namespace refuses new pods."""


class SuggestionUnavailableError(UnavailableError):
    """The suggestion service does not answer in time."""
