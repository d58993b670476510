"""The plan -> act loop of one job, the same for a cluster and for a laptop.

A turn looks, plans, acts until the plan is empty, then writes the status once. Everything that must
survive is in the cluster or in the history; what is kept here only spares questions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from foretune.contract import parse_report_lines
from foretune.domain.logs import parse_log, parse_termination, undelivered
from foretune.domain.trial import KUBEFLOW, AttemptPhase, AttemptRecord, ObservedAttempt, Trial
from foretune.errors import (
    ConflictError,
    HistoryUnavailableError,
    InvalidJobError,
    NotFoundError,
    QuotaExceededError,
    SpaceExhaustedError,
    UnavailableError,
)
from foretune.planner import status as status_page
from foretune.planner.naming import attempt_name
from foretune.planner.prune import next_look
from foretune.planner.reconcile import plan
from foretune.planner.snapshot import (
    Action,
    AttemptKey,
    Commit,
    Delete,
    Launch,
    Look,
    Propose,
    Record,
    Recover,
    Recovered,
    SetTtl,
    Snapshot,
    Stop,
)
from foretune.ports import LaunchRequest

if TYPE_CHECKING:
    from foretune.domain.job import Job, JobKey
    from foretune.ports import Clock, Runner, StatusSink, Telemetry, Tracker

log = logging.getLogger(__name__)

MAX_ROUNDS: Final = 600
"""Rounds of one turn; parallelism is at most 256, and a new trial takes two rounds."""

QUOTA_RETRY_S: Final = 30.0
"""Seconds after which a Job that a quota refused is tried again."""

REJECTED_RETRY_S: Final = 300.0
"""Seconds after which a refused template is tried again: the namespace's policy may have changed."""

HISTORY_PATIENCE_S: Final = 300.0
"""Seconds without the tracker after which the status says so."""

LOG_PATIENCE_S: Final = 60.0
"""Seconds after its end during which an attempt's log is asked for again when it can't be read."""

UNSEEN_RETRY_S: Final = 1.0
"""Seconds until the next turn when an action's effect was not visible within this one."""

MESSAGE_LINES: Final = 20
"""Lines of a log kept for telling one failure from another."""


@dataclass(frozen=True)
class Turn:
    """What one turn found."""

    status: Mapping[str, Any]
    done: bool
    """Whether the job has ended and nothing of it runs."""
    requeue_after_s: float | None
    """When to look again though nothing was heard; None: only when something is."""
    trials: Sequence[Trial] = ()


@dataclass
class _Memory:
    """What is known of a job between turns; rebuilt from nothing after a restart."""

    registered: int | None = None
    recovered: dict[AttemptKey, Recovered] = field(default_factory=dict)
    missing: set[AttemptKey] = field(default_factory=set)
    stops: dict[int, float] = field(default_factory=dict)
    exhausted: bool = False
    rejected: tuple[str, float] | None = None
    quota: tuple[str, float] | None = None
    collision: str | None = None
    history_down_since: float | None = None
    status: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
    closed: str | None = None


class Reconciler:
    """Runs turns. One instance serves many jobs, but never two turns of one job at once."""

    def __init__(
        self,
        *,
        tracker: Tracker,
        runner: Runner,
        sink: StatusSink,
        clock: Clock,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Take the ports that the loop acts through."""
        self._tracker = tracker
        self._runner = runner
        self._sink = sink
        self._clock = clock
        self._telemetry = telemetry
        self._memories: dict[str, _Memory] = {}

    def reconcile(self, job: Job) -> Turn:
        """Run one turn; raises `UnavailableError` when it should be tried again with back-off."""
        memory = self._memories.setdefault(job.uid, _Memory())
        if memory.status is not None:
            job = replace(job, status=memory.status)  # newer than what a watch has shown
        try:
            turn = self._turn(job, memory)
        except NotFoundError as error:
            # The history was emptied, or an older one restored: it must hear of the job anew.
            memory.registered = None
            raise HistoryUnavailableError(f"the tracker does not know the job: {error}") from error
        except HistoryUnavailableError as error:
            self._history_down(job, memory, error)
            raise
        memory.history_down_since = None
        return turn

    def forget(self, key: JobKey, uid: str) -> None:
        """Close a deleted job in the history; its trials that never ended become Cancelled."""
        try:
            self._tracker.close(uid, phase="Deleted", reason="Deleted", message="")
        except NotFoundError:
            log.info("job %s was deleted before it was registered", key)
        self._memories.pop(uid, None)
        if self._telemetry is not None:
            self._telemetry.job_gone(key)

    def _turn(self, job: Job, memory: _Memory) -> Turn:
        if memory.registered != job.generation:
            self._tracker.register(job)
            memory.registered = job.generation
            memory.rejected = memory.quota = memory.collision = None
            memory.exhausted, memory.closed = False, None
        before: Sequence[Action] = ()
        for _ in range(MAX_ROUNDS):
            snapshot = self._look(job, memory)
            actions = plan(snapshot, self._clock.now())
            if (
                not actions or actions == before
            ):  # asked twice alike: what was done is not visible yet
                break
            before = actions
            for action in actions:
                self._act(job, memory, snapshot, action)
        now = self._clock.now()
        status = status_page.build(snapshot, now)
        # Closed first: a job whose status says that it has ended is not looked at after a restart.
        self._close(job, memory, status)
        self._sink.write(job, status)
        memory.status = status
        if self._telemetry is not None:
            self._telemetry.job_seen(job, snapshot.trials, status)
        done = status["phase"] in {"Complete", "Failed"} and not snapshot.rejected
        wait = UNSEEN_RETRY_S if actions else self._next(snapshot, memory, now)
        return Turn(status, done and not actions, wait, snapshot.trials)

    def _look(self, job: Job, memory: _Memory) -> Snapshot:
        now = self._clock.now()
        if memory.rejected is not None and now - memory.rejected[1] >= REJECTED_RETRY_S:
            memory.rejected = None
        if memory.quota is not None and now - memory.quota[1] >= QUOTA_RETRY_S:
            memory.quota = None
        trials = self._tracker.trials(job.uid)
        for trial in trials:  # the tracker asks trials to stop, too
            if trial.stop_requested is not None and not trial.state.terminal:
                memory.stops.setdefault(trial.index, now)
        return Snapshot(
            job=job,
            trials=trials,
            attempts=self._runner.observe(job),
            recovered=memory.recovered,
            missing=frozenset(memory.missing),
            stops=memory.stops,
            exhausted=memory.exhausted,
            rejected=memory.rejected[0] if memory.rejected else None,
            quota=memory.quota[0] if memory.quota else None,
            collision=memory.collision,
            audit=memory.audit,
        )

    def _act(self, job: Job, memory: _Memory, snapshot: Snapshot, action: Action) -> None:
        now = self._clock.now()
        match action:
            case Record():
                self._tracker.record_attempt(job.uid, action.index, action.attempt)
            case Look():
                self._look_up(job, memory, snapshot, action)
            case Recover():
                key = (action.attempt.index, action.attempt.number)
                memory.recovered[key] = self._recover(job, snapshot, action.attempt)
            case Commit():
                self._commit(job, memory, action)
            case Propose():
                self._propose(job, memory, action)
            case Launch():
                self._launch(job, memory, snapshot, action)
            case Stop():
                self._tracker.request_stop(job.uid, action.index, rule=action.rule)
                memory.stops.setdefault(action.index, now)
            case Delete():
                self._runner.delete(job, action.name)
            case SetTtl():
                self._runner.set_ttl(job, action.name, action.seconds)

    def _look_up(self, job: Job, memory: _Memory, snapshot: Snapshot, action: Look) -> None:
        name = attempt_name(job, action.index, action.number)
        if self._runner.lookup(job, name) is None:
            memory.missing.add((action.index, action.number))
            return
        trial = snapshot.by_index[action.index]
        raise UnavailableError(f"{name} of trial {trial.index} is there, but not yet in the cache")

    def _recover(self, job: Job, snapshot: Snapshot, attempt: ObservedAttempt) -> Recovered:
        """Read what the attempt left: its termination message, and its log tail where that is needed."""
        trial, spec = snapshot.by_index[attempt.index], job.spec
        metric, message = spec.objective.metric, attempt.termination_message
        # What was posted has gaps that the log fills; its numbers are the better ones.
        gaps = trial.value is None or trial.source == KUBEFLOW
        points = [
            record
            for record in parse_termination(message)
            if metric in record["metrics"] and _newer(record, trial)
        ]
        if not undelivered(message):
            if points:
                return Recovered(records=tuple(points), source="termination_message")
            if not gaps and attempt.exit_code == 0:
                return Recovered()
        try:
            text = self._runner.log_tail(job, attempt)
        except UnavailableError:
            if self._clock.now() - (attempt.ended_at or 0.0) < LOG_PATIENCE_S:
                raise
            log.warning("the log of %s can't be read; going on without it", attempt.name)
            text = ""
        # Marked lines are the reports themselves: whatever of them did not arrive, arrives now.
        reports, source = parse_report_lines(text), "log_tail"
        if not reports and points:
            reports, source = points, "termination_message"
        elif not reports and gaps:
            reports = parse_log(text)
        seen = sorted({name for report in reports for name in report["metrics"]})
        return Recovered(
            records=tuple(reports),
            source=source if reports else None,
            metrics_seen=tuple(seen),
            text="\n".join(text.splitlines()[-MESSAGE_LINES:]),
        )

    def _commit(self, job: Job, memory: _Memory, action: Commit) -> None:
        outcome = action.outcome
        trial = self._tracker.commit(job.uid, outcome)
        key = (outcome.index, outcome.attempt)
        memory.recovered.pop(key, None)
        memory.missing.discard(key)
        log.info(
            "job %s trial %d attempt %d: %s (%s) value=%s",
            job.key,
            outcome.index,
            outcome.attempt,
            outcome.state,
            outcome.reason,
            trial.value,
        )
        if self._telemetry is not None:
            self._telemetry.attempt_ended(job, action.attempt, outcome, trial)

    def _propose(self, job: Job, memory: _Memory, action: Propose) -> None:
        try:
            proposal = self._tracker.propose(job.uid, action.index)
        except SpaceExhaustedError:
            memory.exhausted = True
            return
        if "prior" in proposal.detail:  # what stood in for a designer has nothing to say of it
            memory.audit = proposal.detail

    def _launch(self, job: Job, memory: _Memory, snapshot: Snapshot, action: Launch) -> None:
        trial = snapshot.by_index[action.index]
        name = attempt_name(job, action.index, action.number)
        request = LaunchRequest(
            job=job,
            name=name,
            index=action.index,
            number=action.number,
            params=trial.params,
            config_hash=trial.config_hash,
        )
        try:
            self._runner.launch(request)
        except QuotaExceededError as error:
            memory.quota = (str(error), self._clock.now())
            return
        except InvalidJobError as error:
            memory.rejected = (str(error), self._clock.now())
            return
        except ConflictError:
            memory.collision = name
            return
        if action.number == 0 and self._telemetry is not None:
            self._telemetry.trial_created(job, action.index)
        # Recorded at once, so that a stale cache makes the next round look it up, not launch it again.
        record = AttemptRecord(number=action.number, state=AttemptPhase.PENDING)
        self._tracker.record_attempt(job.uid, action.index, record)

    def _close(self, job: Job, memory: _Memory, status: Mapping[str, Any]) -> None:
        """Tell the history, once, that the job has ended."""
        phase = status["phase"]
        if phase not in {"Complete", "Failed"} or memory.closed == phase:
            return
        end = next((c for c in status["conditions"] if c["type"] == phase), None)
        if end is not None:
            self._tracker.close(job.uid, phase=phase, reason=end["reason"], message=end["message"])
            memory.closed = phase

    def _next(self, snapshot: Snapshot, memory: _Memory, now: float) -> float | None:
        waits = [next_look(snapshot, now)]
        if memory.quota is not None:
            waits.append(QUOTA_RETRY_S)
        if memory.rejected is not None:
            waits.append(REJECTED_RETRY_S)
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _history_down(self, job: Job, memory: _Memory, error: HistoryUnavailableError) -> None:
        now = self._clock.now()
        memory.history_down_since = memory.history_down_since or now
        before = memory.status or job.status
        if before and now - memory.history_down_since >= HISTORY_PATIENCE_S:
            message = f"the tracker does not answer: {error}"
            self._sink.write(job, status_page.unavailable(before, job.generation, message, now))


def _newer(record: Mapping[str, Any], trial: Trial) -> bool:
    """Whether a record of the termination message tells more than the reports that arrived."""
    return trial.value is None or float(record.get("epoch") or 0.0) > trial.epochs


__all__ = ["Reconciler", "Turn"]
