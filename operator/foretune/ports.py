"""The seams: what the inside asks of the outside. Adapters implement these; tests run one suite each.

Every method is synchronous and may block; callers on an event loop use a thread. Errors are those of
`foretune.errors`: `UnavailableError` means try again, anything else means it will not get better.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from foretune.domain.history import SourceTask
from foretune.domain.job import Job, JobKey, Objective, PriorMode
from foretune.domain.space import Params, Space
from foretune.domain.trial import (
    PUSH,
    AttemptPhase,
    Trial,
)

if TYPE_CHECKING:
    from foretune.domain.history import JobRecord, PastJob, Proposal
    from foretune.domain.trial import (
        AttemptRecord,
        ObservedAttempt,
        Outcome,
        Point,
    )


class Clock(Protocol):
    """Where "now" comes from."""

    def now(self) -> float:
        """Return Unix seconds."""


@dataclass(frozen=True, kw_only=True)
class SuggestionRequest:
    """Everything a proposal depends on: the same request gives the same answer."""

    job_uid: str
    index: int
    space: Space
    objective: Objective
    algorithm: str
    seed: int
    trials: Sequence[Trial]
    """Every trial of the job so far, running ones and unstarted proposals included."""
    context: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    initial: int | None = None
    history: tuple[SourceTask, ...] = ()
    """Past tasks to learn from, the most relevant first: the same object while nothing of it changed,
    since designers keep what they made of it."""
    prior: PriorMode = PriorMode.AUTO
    """What may be learned from besides `history`: under `auto` what the service was given, else nothing."""
    budget: float | None = None
    """Share of the budget of cost that is left, in [0, 1]; None where cost doesn't limit the job."""


@dataclass(frozen=True, kw_only=True)
class SuggestionAnswer:
    """One proposed configuration and its audit."""

    params: Params
    proposer: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Suggestions(Protocol):
    """Proposes configurations."""

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Return the next configuration.

        Raises `SpaceExhaustedError` when every configuration was proposed, `SuggestionUnavailableError`
        when there is no answer in time.
        """


class Tracker(Protocol):
    """The owner of the history, as the loop sees it (in process, or over HTTP)."""

    def register(self, job: Job) -> JobRecord:
        """Create or update the job's row; the same uid is the same job."""

    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial by index; raises `NotFoundError` for an unknown job."""

    def propose(self, job_uid: str, index: int) -> Proposal:
        """Return the proposal of trial `index`: the recorded one, or a new one recorded before it is answered.

        Raises `SpaceExhaustedError`; `SuggestionUnavailableError` never (the tracker falls back to Sobol).
        """

    def record_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Record what is known of an attempt: its newest pod, times, phase. Idempotent."""

    def commit(self, job_uid: str, outcome: Outcome) -> Trial:
        """Commit the end of an attempt, its recovered reports and its cost. Idempotent."""

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Ask a running trial to stop: the reply to its next report says so. Idempotent."""

    def close(self, job_uid: str, *, phase: str, reason: str, message: str) -> None:
        """Record how the job ended (or that it was deleted: phase `Deleted` cancels open trials)."""


@dataclass(frozen=True, kw_only=True)
class ReportBatch:
    """Reports of one sender, checked against the contract."""

    job_uid: str
    index: int
    attempt: int
    pod_uid: str
    reports: Sequence[Mapping[str, Any]]
    """Each with `seq`, `kind`, `metrics`, ...; the contract's record."""
    source: str = PUSH
    received_at: float = 0.0


class History(Protocol):
    """The database of everything that was ever tuned. `tests/conformance` holds its suite."""

    def migrate(self) -> None:
        """Bring the schema to the version of this code."""

    def put_job(self, record: JobRecord) -> None:
        """Insert or update a job by uid."""

    def job(self, uid: str) -> JobRecord:
        """Return a job; raises `NotFoundError`."""

    def find_jobs(
        self, *, namespace: str | None = None, name: str | None = None
    ) -> Sequence[JobRecord]:
        """Return matching jobs, newest first."""

    def past_jobs(
        self,
        *,
        namespaces: Collection[str] | None,
        published: Collection[str],
        names: Collection[str] = (),
        metric: str | None = None,
        least: int = 1,
        limit: int,
    ) -> Sequence[PastJob]:
        """Return jobs to learn from, newest first, at most `limit`.

        They are of these namespaces (None is all), published so far (`namespace`, `cluster`), have one of
        the names, where there are some, and this metric, and at least `least` trials that have ended.
        """

    def ended(self, job_uids: Collection[str]) -> Mapping[str, int]:
        """Return how many trials of each job have ended; a job without any is left out."""

    def decisions(self, job_uids: Collection[str]) -> Mapping[str, str]:
        """Return what the last proposal of each job that tells it said of past jobs: `used`, `rejected`, `none`."""

    def lessons(self, job_uid: str, *, limit: int) -> Sequence[Trial]:
        """Return what can be learned from a job, whatever its size: some of its ended trials, by index.

        Of those with a value the best third of `limit` and an even choice of the others; besides, at most
        a quarter of `limit` that failed, the newest. Raises `NotFoundError` for an unknown job.
        """

    def proposals(self, job_uid: str) -> Sequence[Proposal]:
        """Return every proposal of the job by index; raises `NotFoundError`."""

    def put_proposal(self, proposal: Proposal) -> Proposal:
        """Record a proposal and its trial; a second one of the same (job, index) returns the first."""

    def proposal(self, job_uid: str, index: int) -> Proposal | None:
        """Return the recorded proposal, or None."""

    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial of the job by index, values reduced by the job's objective."""

    def trial(self, job_uid: str, index: int) -> Trial:
        """Return one trial; raises `NotFoundError`."""

    def curve(self, job_uid: str, index: int) -> Sequence[Point]:
        """Return the trial's points in order of epoch; the last report of an epoch counts."""

    def curves(self, job_uid: str, indices: Collection[int]) -> Mapping[int, Sequence[Point]]:
        """Return the points of several trials, each as `curve` does; those without reports are left out."""

    def put_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Insert or update an attempt by number; moves the trial to Pending or Running with it."""

    def pods(self, job_uid: str, index: int) -> Sequence[tuple[int, str]]:
        """Return (attempt, pod uid) of every pod known to have run the trial, oldest first.

        Raises `NotFoundError`.
        """

    def add_reports(self, batch: ReportBatch) -> int:
        """Store reports, each identity (trial, attempt, pod uid, seq) once; return how many were new.

        Those of a trial that has ended complete its curve, and change its value no more. Raises
        `NotFoundError` for an unknown trial.
        """

    def commit(self, job_uid: str, outcome: Outcome, *, at: float) -> Trial:
        """Store an outcome in one transaction; a terminal trial stays as it is. Idempotent."""

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Record that a rule wants the trial stopped; the reply to its next report says so."""

    def close_job(self, job_uid: str, *, phase: str, reason: str, message: str, at: float) -> None:
        """Record how a job ended; open trials of a deleted job become Cancelled."""

    def counts(self) -> Mapping[str, int]:
        """Return totals: `jobs`, `trials`, `reports`, `observations` (ended trials with a value)."""

    def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """One attempt to start."""

    job: Job
    name: str
    index: int
    number: int
    params: Params
    config_hash: str


class Runner(Protocol):
    """Starts and watches attempts: Jobs of a cluster, or local processes."""

    def observe(self, job: Job) -> Sequence[ObservedAttempt]:
        """Return every attempt of the job that is there, ended ones included."""

    def lookup(self, job: Job, name: str) -> ObservedAttempt | None:
        """Ask the cluster itself, not a cache, for one attempt; None when it is really gone."""

    def launch(self, request: LaunchRequest) -> None:
        """Start an attempt; one that is there already with the same owner and hash is adopted.

        Raises `ConflictError` when the name belongs to somebody else, `InvalidJobError` when the
        template is refused, `QuotaExceededError`.
        """

    def delete(self, job: Job, name: str) -> None:
        """Stop an attempt and remove it; one that is gone is fine."""

    def set_ttl(self, job: Job, name: str, seconds: int) -> None:
        """Let an ended attempt be removed after `seconds`; only after its outcome is committed."""

    def log_tail(self, job: Job, attempt: ObservedAttempt, *, limit_bytes: int = 65536) -> str:
        """Return the end of the attempt's log; empty when there is none any more."""


class StatusSink(Protocol):
    """Receives a job's status, once per turn of the loop."""

    def write(self, job: Job, status: Mapping[str, Any]) -> None:
        """Write the whole status (camelCase, as in the CRD)."""


class Telemetry(Protocol):
    """Hears what the loop does; an implementation must not raise."""

    def trial_created(self, job: Job, index: int) -> None:
        """A new trial's first attempt was started."""

    def attempt_ended(
        self, job: Job, attempt: ObservedAttempt, outcome: Outcome, trial: Trial
    ) -> None:
        """An attempt's end was committed; `trial` is as committed."""

    def job_seen(self, job: Job, trials: Sequence[Trial], status: Mapping[str, Any]) -> None:
        """A turn of the loop ended with this state of the job."""

    def job_gone(self, key: JobKey) -> None:
        """A job was deleted: its series end."""


__all__ = [
    "AttemptPhase",
    "Clock",
    "History",
    "LaunchRequest",
    "ReportBatch",
    "Runner",
    "StatusSink",
    "SuggestionAnswer",
    "SuggestionRequest",
    "Suggestions",
    "Telemetry",
    "Tracker",
]
