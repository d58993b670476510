"""`TrackerService`: the port `Tracker` in process, and the intake of reports."""

from __future__ import annotations

import logging
import threading
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from foretune.adapters.http import wire
from foretune.api.space import parse_space
from foretune.api.spec import Budget, Prior, Search
from foretune.api.v1alpha1 import prior_of
from foretune.contract import Action
from foretune.domain.budget import share_left
from foretune.domain.history import JobRecord, Proposal
from foretune.domain.job import Algorithm, PriorMode
from foretune.domain.trial import KUBEFLOW, TrialState
from foretune.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    SuggestionUnavailableError,
    UnavailableError,
)
from foretune.planner.naming import config_hash
from foretune.ports import ReportBatch, SuggestionAnswer, SuggestionRequest
from foretune.search.fallback import sobol_proposal
from foretune.services.tracker.catalogue import Catalogue, Past
from foretune.services.tracker.early import EarlyStops
from foretune.services.tracker.kubeflow import report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foretune.domain.job import Job, PriorSpec
    from foretune.domain.space import Space
    from foretune.domain.trial import AttemptRecord, Outcome, Point, Trial
    from foretune.ports import Clock, History, Suggestions
    from foretune.services.tracker.catalogue import Sharing
    from foretune.services.tracker.kubeflow import Status

log = logging.getLogger(__name__)

T = TypeVar("T")

DELETED: Final = "Deleted"
"""Phase of a job whose object is gone; its uid never comes back."""

REASON_LIMIT: Final = 512
"""Characters of the reason why past jobs are not used."""

ENDED: Final = frozenset({"Complete", "Failed", DELETED})
"""Phases of a closed job."""


class Meter(Protocol):
    """Hears what the tracker does; an implementation must not raise."""

    def written(self, result: str) -> None:
        """The history was written to: `ok` or `error`."""

    def duplicate(self, algorithm: str) -> None:
        """A suggestion was refused, being equal to an earlier one."""

    def proposed(self, expert: str, prior: str) -> None:
        """A proposal was recorded: who made it, and what past jobs were good for; `none` for neither."""

    def guard_tripped(self) -> None:
        """From this proposal on a job does without past jobs, which have misled it."""

    def came_out(self, model: str, mean: float, sd: float, value: float) -> None:
        """A trial completed of which a model had expected a mean and a standard deviation."""

    def stopped(self, rule: str, spared: float) -> None:
        """A trial that `rule` stopped has ended, `spared` epochs before its time."""


class NoMeter:
    """A meter that nobody reads."""

    def came_out(self, model: str, mean: float, sd: float, value: float) -> None:
        """Do nothing."""

    def written(self, result: str) -> None:
        """Do nothing."""

    def duplicate(self, algorithm: str) -> None:
        """Do nothing."""

    def proposed(self, expert: str, prior: str) -> None:
        """Do nothing."""

    def guard_tripped(self) -> None:
        """Do nothing."""

    def stopped(self, rule: str, spared: float) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Reply:
    """The answer to reports."""

    ack: int
    """Highest seq of the batch; everything up to it is stored."""
    action: Action = Action.CONTINUE
    reason: str | None = None
    interval: float | None = None
    """Seconds the sender should leave between batches, or None."""


class PodUnknownError(UnavailableError):
    """The operator has not named the reporting pod yet: the sender keeps its reports and tries again."""


class StalePodError(ConflictError):
    """A newer pod runs this trial: the sender should stop."""


class TrackerService:
    """Owns the history. Thread-safe; several instances may share one database."""

    def __init__(
        self,
        *,
        history: History,
        suggestions: Suggestions,
        clock: Clock,
        meter: Meter | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """Take the ports that the service acts through, and who may learn from whom."""
        self._catalogue = Catalogue(history, clock, sharing)
        self._early = EarlyStops(history, self._catalogue)
        self._history = history
        self._suggestions = suggestions
        self._clock = clock
        self._meter = meter or NoMeter()
        self._locks: dict[str, threading.Lock] = {}

    # ---------------------------------------------------------- for the loop
    def register(self, job: Job) -> JobRecord:
        """Create or update the job's row; raises `ConflictError` when its immutable parts changed."""
        record = JobRecord(  # as one that has not ended: a changed budget opens a job again
            uid=job.uid,
            namespace=job.key.namespace,
            name=job.key.name,
            manifest=job.spec.manifest,
            objective=job.spec.objective,
            context=job.spec.context,
            created_at=job.created_at or self._clock.now(),
            phase="Running",
        )
        try:
            known = self._history.job(job.uid)
        except NotFoundError:
            known = None
        if known is not None:
            changed = [
                part
                for part in ("objective", "space", "trial")
                if known.manifest.get(part) != record.manifest.get(part)
            ]
            if changed:
                names = ", ".join(f"spec.{part}" for part in changed)
                raise ConflictError(f"job {job.key} ({job.uid}) has another {names} in the history")
            if known.phase == DELETED or (
                known.manifest == record.manifest and known.phase in ENDED
            ):
                return known
        self._write(lambda: self._history.put_job(record))
        return self._history.job(job.uid)

    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial by index; raises `NotFoundError` for an unknown job."""
        return self._history.trials(job_uid)

    def propose(self, job_uid: str, index: int) -> Proposal:
        """Return the recorded proposal, or a new one, recorded before it is answered."""
        job = self._history.job(job_uid)
        # One at a time for a job, so that each proposal knows the one before it; the lock stays, since
        # somebody may hold or await it.
        with self._locks.setdefault(job_uid, threading.Lock()):
            known = self._history.proposal(job_uid, index)
            if known is not None:
                return known
            space = parse_space(job.manifest["space"])
            trials = self._history.trials(job_uid)
            request, reason = self._request(job, index, space, trials)
            answer = _told(self._ask(request), request, reason)
            proposal = Proposal(
                job_uid=job_uid,
                index=index,
                params=answer.params,
                config_hash=config_hash(answer.params),
                proposer=answer.proposer,
                detail=answer.detail,
                created_at=self._clock.now(),
            )
            recorded = self._write(lambda: self._history.put_proposal(proposal))
            if recorded is proposal:
                self._count(proposal)
            return recorded

    def record_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Record what is known of an attempt: its newest pod, times, phase. Idempotent."""
        self._write(lambda: self._history.put_attempt(job_uid, index, attempt))

    def commit(self, job_uid: str, outcome: Outcome) -> Trial:
        """Commit the end of an attempt, its recovered reports and its cost. Idempotent."""
        now = self._clock.now()
        # What comes from a log is anybody's text: what is no report is left out.
        clean = replace(outcome, records=wire.recovered(outcome.records))
        spared = 0.0
        if outcome.state is TrialState.EARLY_STOPPED:
            job = self._history.job(job_uid)
            predicted, spared = self._early.final(job, clean)
            clean = replace(clean, predicted=predicted)
            before = self._history.trial(job_uid, outcome.index)
            if not before.state.terminal:
                self._meter.stopped(before.stop_requested or "", spared)
        new = outcome.state is TrialState.COMPLETED and (
            not self._history.trial(job_uid, outcome.index).state.terminal
        )
        trial = self._write(lambda: self._history.commit(job_uid, clean, at=now))
        if new:
            self._score(trial)
        return trial

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Ask a running trial to stop: the reply to its next report says so. Idempotent."""
        self._write(lambda: self._history.request_stop(job_uid, index, rule=rule))

    def close(self, job_uid: str, *, phase: str, reason: str, message: str) -> None:
        """Record how the job ended, or that it was deleted."""
        now = self._clock.now()
        self._write(
            lambda: self._history.close_job(
                job_uid, phase=phase, reason=reason, message=message, at=now
            )
        )

    # ------------------------------------------------------------ for readers
    def job(self, uid: str) -> JobRecord:
        """Return a job; raises `NotFoundError`."""
        return self._history.job(uid)

    def find_jobs(
        self, *, namespace: str | None = None, name: str | None = None
    ) -> Sequence[JobRecord]:
        """Return matching jobs, newest first."""
        return self._history.find_jobs(namespace=namespace, name=name)

    def proposals(self, job_uid: str) -> Sequence[Proposal]:
        """Return every proposal of the job by index; raises `NotFoundError`."""
        return self._history.proposals(job_uid)

    def trial(self, job_uid: str, index: int) -> Trial:
        """Return one trial; raises `NotFoundError`."""
        return self._history.trial(job_uid, index)

    def curve(self, job_uid: str, index: int) -> Sequence[Point]:
        """Return the trial's points in order of epoch."""
        return self._history.curve(job_uid, index)

    def counts(self) -> Mapping[str, int]:
        """Return the history's totals; raises `HistoryUnavailableError` when it does not answer."""
        return self._history.counts()

    # ------------------------------------------------------------- for trials
    def receive(
        self, job_uid: str, index: int, pod_uid: str, reports: Sequence[Mapping[str, Any]]
    ) -> Reply:
        """Store the reports of one pod and say what it should do.

        `pod_uid` is the authenticated sender. Raises `PodUnknownError` while the operator has not named
        it, `StalePodError` when a newer pod runs the trial, `ForbiddenError` when the reports speak for
        another pod, `NotFoundError` for an unknown trial.
        """
        attempt = reports[0]["attempt"]
        if any(report["pod"] != pod_uid for report in reports):
            raise ForbiddenError("pod: the reports name another pod than the token's")
        self._check_sender(job_uid, index, attempt, pod_uid)
        batch = ReportBatch(
            job_uid=job_uid,
            index=index,
            attempt=attempt,
            pod_uid=pod_uid,
            reports=reports,
            received_at=self._clock.now(),
        )
        self._write(lambda: self._history.add_reports(batch))
        return self._reply(job_uid, index, max(report["seq"] for report in reports))

    def receive_status(self, job_uid: str, index: int, pod_uid: str, status: Status) -> Reply:
        """Store what is new in a status as posted to Kubeflow Trainer, and say what the pod should do.

        Who posts it hardly reads the answer. Raises as `receive`; the attempt is the pod's.
        """
        trial = self._history.trial(job_uid, index)
        pods = self._history.pods(job_uid, index)
        newest = pods[-1][0] if pods else 0
        attempt = next((number for number, uid in pods if uid == pod_uid), newest)
        self._check_sender(job_uid, index, attempt, pod_uid)
        report = report_of(status, self._history.curve(job_uid, index))
        if report is not None:
            if trial.source is None:
                log.info("job %s trial %d reports as to Kubeflow Trainer", job_uid, index)
            batch = ReportBatch(
                job_uid=job_uid,
                index=index,
                attempt=attempt,
                pod_uid=f"{KUBEFLOW}:{pod_uid}"[:64],  # numbers of its own, beside the SDK's
                reports=[{**report, "seq": trial.reports}],
                source=KUBEFLOW,
                received_at=self._clock.now(),
            )
            self._write(lambda: self._history.add_reports(batch))
        return self._reply(job_uid, index, trial.reports)

    def _reply(self, job_uid: str, index: int, ack: int) -> Reply:
        """Say what a trial should do, now that its reports up to `ack` are stored."""
        trial = self._history.trial(job_uid, index)
        if trial.stop_requested is not None:
            return Reply(ack, Action.STOP, trial.stop_requested)
        if trial.state.terminal:
            return Reply(ack, Action.STOP, f"the trial is {trial.state}")
        job = self._history.job(job_uid)
        if job.phase in ENDED:
            return Reply(ack, Action.STOP, "the job has ended")
        decision = self._early.decide(job, trial)
        if decision is not None:
            log.info("job %s trial %d is stopped: %s", job_uid, index, decision.message)
            self.request_stop(job_uid, index, rule=decision.rule)
            return Reply(ack, Action.STOP, decision.rule)
        return Reply(ack)

    def _check_sender(self, job_uid: str, index: int, attempt: int, pod_uid: str) -> None:
        pods = self._history.pods(job_uid, index)
        newest, newest_uid = pods[-1] if pods else (-1, None)
        if (attempt, pod_uid) == (newest, newest_uid):
            return
        if (attempt, pod_uid) in pods or attempt < newest:
            raise StalePodError(f"trial {index} runs in a newer pod (attempt {newest})")
        if any(uid == pod_uid for _, uid in pods):
            raise ForbiddenError(f"attempt: this pod does not run attempt {attempt}")
        if self._history.trial(job_uid, index).state.terminal:
            raise StalePodError(f"trial {index} has ended")
        # The watch has not shown it yet, or it is not a pod of this trial: then nobody ever names it.
        raise PodUnknownError(f"trial {index} is not known to run in this pod yet")

    # ---------------------------------------------------------------- helpers
    def _ask(self, request: SuggestionRequest) -> SuggestionAnswer:
        try:
            answer = self._suggestions.suggest(request)
        except (SuggestionUnavailableError, InvalidInputError) as error:
            # Refused or late, the job goes on: what the spec allows was checked when it was accepted.
            log.warning("job %s trial %d: %s", request.job_uid, request.index, error)
            return sobol_proposal(request.space, request.trials, request.seed, reason=str(error))
        reason = "; ".join(request.space.problems(answer.params))
        keys = {request.space.key(trial.params) for trial in request.trials}
        if not reason and request.space.key(answer.params) in keys:
            reason = "equal to an earlier one"
            self._meter.duplicate(request.algorithm)
        if reason:
            log.warning("job %s trial %d: refused: %s", request.job_uid, request.index, reason)
            return sobol_proposal(request.space, request.trials, request.seed, reason=reason)
        return answer

    def _request(
        self, job: JobRecord, index: int, space: Space, trials: Sequence[Trial]
    ) -> tuple[SuggestionRequest, str]:
        """Return the request for trial `index`, and why it has no past jobs, or not all.

        What the manifest leaves open has the API's defaults.
        """
        search = Search.model_validate(job.manifest.get("search") or {})
        budget = Budget.model_validate(job.manifest.get("budget") or {})
        prior = prior_of(Prior.model_validate(job.manifest.get("prior") or {}))
        learns = search.algorithm is Algorithm.AUTO
        past = self._past(job, prior) if learns else Past()
        request = SuggestionRequest(
            job_uid=job.uid,
            index=index,
            space=space,
            objective=job.objective,
            algorithm=search.algorithm.value,
            seed=search.seed if search.seed is not None else zlib.crc32(job.uid.encode()),
            trials=trials,
            context=job.context,
            timeout_s=float(search.timeout_seconds),
            initial=search.initial,
            history=past.tasks,
            prior=prior.mode if learns else PriorMode.OFF,
            budget=share_left(trials, gpu_hours=budget.gpu_hours, wanted=budget.trials),
        )
        return request, past.reason

    def _past(self, job: JobRecord, prior: PriorSpec) -> Past:
        try:
            return self._catalogue.past(job, prior)
        except Exception as error:  # past jobs are a help, never a condition
            log.warning("job %s: past jobs can't be read", job.uid, exc_info=True)
            return Past(reason=f"past jobs can't be read: {error}"[:REASON_LIMIT])

    def _score(self, trial: Trial) -> None:
        """Tell what came of a prediction."""
        proposal = self._history.proposal(trial.job_uid, trial.index)
        if proposal is None or proposal.expected is None or trial.value is None:
            return
        mean, sd = proposal.expected
        self._meter.came_out(proposal.proposer.partition("/")[0], mean, sd, trial.value)

    def _count(self, proposal: Proposal) -> None:
        """Count a new proposal, and a guard that has just let go of the prior."""
        detail = proposal.detail
        prior = str(detail.get("prior", "none"))
        self._meter.proposed(str(detail.get("expert", "none")), prior)
        if prior == "rejected":
            before = self._history.proposal(proposal.job_uid, proposal.index - 1)
            if before is None or before.detail.get("prior") != prior:
                self._meter.guard_tripped()

    def _write(self, action: Callable[[], T]) -> T:
        try:
            result = action()
        except UnavailableError:
            self._meter.written("error")
            raise
        self._meter.written("ok")
        return result


def _told(answer: SuggestionAnswer, request: SuggestionRequest, reason: str) -> SuggestionAnswer:
    """Return the answer with why its designer was given no past jobs, or not all."""
    if request.history and reason:
        return replace(answer, detail={"reason": reason, **answer.detail})
    silent = request.history or "prior" in answer.detail or answer.proposer.endswith("/fallback")
    if silent or request.algorithm != Algorithm.AUTO:
        return answer
    return replace(answer, detail={**answer.detail, "prior": "none", "reason": reason})
