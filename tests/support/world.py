"""A small world to plan in: a tracker and a cluster in memory, with faults on request.

They are for what the real ones can't produce on demand: any order of events, any crash point. The real
tracker and runners have tests of their own, and the same loop runs over them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from foretune.domain.history import JobRecord, Proposal
from foretune.domain.job import (
    Builtin,
    FailurePolicy,
    Job,
    JobKey,
    JobSpec,
    Objective,
    Search,
    TrialSpec,
)
from foretune.domain.space import Float, Int, Space
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    ObservedAttempt,
    Outcome,
    Trial,
    TrialState,
)
from foretune.errors import NotFoundError, SpaceExhaustedError
from foretune.planner.naming import config_hash

if TYPE_CHECKING:
    from foretune.ports import LaunchRequest


def make_job(**changes: Any) -> Job:
    """Return a job of two parameters; keyword arguments replace fields of its spec."""
    spec = JobSpec(
        objective=Objective(metric="accuracy"),
        space=Space((Float(name="lr", low=0.001, high=0.1), Int(name="layers", low=2, high=5))),
        search=Search(),
        trial=TrialSpec(workload=Builtin(model="cnn", dataset="digits"), gpu=1),
        parallelism=2,
        trials=6,
        failure=FailurePolicy(max_failed=2),
    )
    return Job(key=JobKey("default", "demo"), uid="uid-demo", spec=replace(spec, **changes))


class Crash(BaseException):
    """The process was killed between two external calls."""


@dataclass
class World:
    """Time, the history, the cluster, and the statuses written."""

    now_s: float = 1000.0
    trials: dict[int, Trial] = field(default_factory=dict)
    runs: dict[str, ObservedAttempt] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    proposals: dict[int, Proposal] = field(default_factory=dict)
    closed: str | None = None
    capacity: int | None = None
    """Configurations the space holds, or None."""
    calls: int = 0
    crash_at: int | None = None
    """Number of the external call before which the process is killed."""
    launch_error: Exception | None = None

    def _call(self) -> None:
        self.calls += 1
        if self.crash_at is not None and self.calls == self.crash_at:
            self.crash_at = None
            raise Crash

    # -- Clock
    def now(self) -> float:
        """Return the world's time."""
        return self.now_s

    # -- Tracker
    def register(self, job: Job) -> JobRecord:
        """Accept the job."""
        self._call()
        return JobRecord(
            uid=job.uid,
            namespace=job.key.namespace,
            name=job.key.name,
            manifest={},
            objective=job.spec.objective,
        )

    def list_trials(self) -> list[Trial]:
        """Return the trials by index."""
        return [self.trials[index] for index in sorted(self.trials)]

    def propose(self, job_uid: str, index: int) -> Proposal:
        """Record a configuration once."""
        self._call()
        if index in self.proposals:
            return self.proposals[index]
        if self.capacity is not None and len(self.proposals) >= self.capacity:
            raise SpaceExhaustedError("no configuration is left")
        params = {"lr": 0.001 * (index + 1), "layers": 2 + index % 4}
        proposal = Proposal(
            job_uid=job_uid,
            index=index,
            params=params,
            config_hash=config_hash(params),
            proposer="sobol",
        )
        self.proposals[index] = proposal
        self.trials[index] = Trial(
            job_uid=job_uid,
            index=index,
            params=params,
            state=TrialState.PROPOSED,
            config_hash=proposal.config_hash,
            created_at=self.now_s,
        )
        return proposal

    def record_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Keep what is known of an attempt."""
        self._call()
        trial = self.trials[index]
        if trial.state.terminal:
            return
        others = [a for a in trial.attempts if a.number != attempt.number]
        running = attempt.state is AttemptPhase.RUNNING
        self.trials[index] = replace(
            trial,
            attempts=tuple(sorted([*others, attempt], key=lambda a: a.number)),
            state=TrialState.RUNNING if running else TrialState.PENDING,
        )

    def commit(self, job_uid: str, outcome: Outcome) -> Trial:
        """Keep the end of an attempt; a terminal trial stays as it is."""
        self._call()
        trial = self.trials[outcome.index]
        if trial.state.terminal:
            return trial
        assert outcome.attempt_record is not None
        self.outcomes.append(outcome)
        others = [a for a in trial.attempts if a.number != outcome.attempt]
        values = [r["metrics"]["accuracy"] for r in outcome.records if "accuracy" in r["metrics"]]
        self.trials[outcome.index] = replace(
            trial,
            attempts=tuple(sorted([*others, outcome.attempt_record], key=lambda a: a.number)),
            state=outcome.state,
            reason=outcome.reason,
            message=outcome.message,
            counts_as_failure=outcome.counts_as_failure,
            value=max(values, default=trial.value) if values else trial.value,
            gpu_s=trial.gpu_s + outcome.attempt_record.held_gpu_s,
            ended_at=self.now_s if outcome.state.terminal else None,
        )
        return self.trials[outcome.index]

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Ask a trial to stop."""
        self._call()
        self.trials[index] = replace(self.trials[index], stop_requested=rule)

    def close(self, job_uid: str, *, phase: str, reason: str, message: str) -> None:
        """Keep how the job ended."""
        self._call()
        self.closed = phase

    # -- Runner
    def observe(self, job: Job) -> list[ObservedAttempt]:
        """Return what runs, or ran and is still there."""
        return list(self.runs.values())

    def lookup(self, job: Job, name: str) -> ObservedAttempt | None:
        """Return one attempt."""
        return self.runs.get(name)

    def launch(self, request: LaunchRequest) -> None:
        """Start an attempt; the same name twice is adoption."""
        self._call()
        if self.launch_error is not None:
            raise self.launch_error
        if request.name in self.runs:
            assert self.runs[request.name].config_hash == request.config_hash
            return
        self.launches.append(request.name)
        self.runs[request.name] = ObservedAttempt(
            name=request.name,
            index=request.index,
            number=request.number,
            config_hash=request.config_hash,
            phase=AttemptPhase.PENDING,
            created_at=self.now_s,
            gpus=1,
        )

    def delete(self, job: Job, name: str) -> None:
        """Remove an attempt."""
        self._call()
        self.runs.pop(name, None)

    def set_ttl(self, job: Job, name: str, seconds: int) -> None:
        """Let an ended attempt go."""
        self._call()
        self.runs[name] = replace(self.runs[name], ttl_set=True)

    def log_tail(self, job: Job, attempt: ObservedAttempt, *, limit_bytes: int = 65536) -> str:
        """Return the attempt's log."""
        return self.logs.get(attempt.name, "")

    # -- StatusSink
    def write(self, job: Job, status: Any) -> None:
        """Keep the status."""
        if not self.statuses or self.statuses[-1] != status:
            self.statuses.append(dict(status))

    # -- what happens outside
    def start(self, name: str) -> None:
        """Bind the pod and start its container."""
        self.runs[name] = replace(
            self.runs[name],
            phase=AttemptPhase.RUNNING,
            bound_at=self.now_s,
            started_at=self.now_s,
            pod_uid=f"pod-{name}",
        )

    def end(self, name: str, *, code: int = 0, **changes: Any) -> None:
        """End the container with an exit code."""
        phase = AttemptPhase.SUCCEEDED if code == 0 else AttemptPhase.FAILED
        run = replace(self.runs[name], phase=phase, exit_code=code, ended_at=self.now_s)
        self.runs[name] = replace(run, **changes)

    def succeed(self, name: str, value: float) -> None:
        """Report a value and end well."""
        index = self.runs[name].index
        trial = self.trials.get(index)
        if trial is not None and not trial.state.terminal:
            self.trials[index] = replace(trial, value=value, epochs=1.0, reports=1)
        self.end(name)

    def live(self) -> list[str]:
        """Return the names of attempts that have not ended."""
        return [run.name for run in self.runs.values() if not run.phase.ended]


class TrackerView:
    """The world's tracker under the port's own method names (`trials` is a method there)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def trials(self, job_uid: str) -> list[Trial]:
        """Return every trial; unknown jobs raise."""
        if job_uid != "uid-demo":
            raise NotFoundError(job_uid)
        return self._world.list_trials()
