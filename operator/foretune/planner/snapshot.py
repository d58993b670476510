"""What the planner sees, and what it can ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foretune.domain.job import Job
from foretune.domain.trial import AttemptRecord, ObservedAttempt, Outcome, Trial

AttemptKey = tuple[int, int]
"""Index of the trial, number of the attempt."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What was read once from an ended attempt: its log tail and termination message."""

    records: tuple[Mapping[str, Any], ...] = ()
    """Reports, as the contract has them."""
    source: str | None = None
    """Carrier of the records: `log_tail` or `termination_message`; None without records."""
    metrics_seen: tuple[str, ...] = ()
    text: str = ""
    """Last lines of the log, for messages and for telling one kind of failure from another."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One look at a job: everything a decision may depend on, apart from the time."""

    job: Job
    trials: Sequence[Trial]
    attempts: Sequence[ObservedAttempt]
    recovered: Mapping[AttemptKey, Recovered] = field(default_factory=dict)
    """Logs read since the attempts ended."""
    missing: frozenset[AttemptKey] = frozenset()
    """Attempts the history knows and the cluster itself says are gone."""
    stops: Mapping[int, float] = field(default_factory=dict)
    """When each stop was asked for, Unix seconds."""
    exhausted: bool = False
    """Whether the tracker said that no untried configuration is left."""
    rejected: str | None = None
    """What the cluster said when it refused to create the trial's Job."""
    quota: str | None = None
    """What the cluster said when a quota refused the trial's Job."""
    collision: str | None = None
    """Name of a Job that belongs to somebody else."""
    audit: Mapping[str, Any] | None = None
    """Of the newest proposal that says what past jobs were good for; None: none was made yet."""

    def of(self, index: int) -> Sequence[ObservedAttempt]:
        """Return the observed attempts of a trial, oldest first."""
        return sorted((a for a in self.attempts if a.index == index), key=lambda a: a.number)

    @property
    def by_index(self) -> Mapping[int, Trial]:
        """Trials by index."""
        return {trial.index: trial for trial in self.trials}


@dataclass(frozen=True, kw_only=True)
class Record:
    """Tell the tracker what is known of an attempt that still runs."""

    index: int
    attempt: AttemptRecord


@dataclass(frozen=True, kw_only=True)
class Look:
    """Ask the cluster itself whether an attempt that is not listed is there."""

    index: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Read the ended attempt's log tail and termination message, once."""

    attempt: ObservedAttempt


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Commit an outcome to the history, before anything else happens to the attempt."""

    outcome: Outcome
    attempt: ObservedAttempt


@dataclass(frozen=True, kw_only=True)
class Propose:
    """Ask for the configuration of a new trial."""

    index: int


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start an attempt."""

    index: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ask a running trial to stop."""

    index: int
    rule: str


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Remove an attempt: it did not stop in time, or can't ever start."""

    name: str


@dataclass(frozen=True, kw_only=True)
class SetTtl:
    """Let an ended attempt whose outcome is committed be removed after `seconds`."""

    name: str
    seconds: int


Action = Record | Look | Recover | Commit | Propose | Launch | Stop | Delete | SetTtl
