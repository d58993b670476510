"""Which past jobs a job learns from, and what of them is handed to a designer.

SQL chooses: some hundred candidates by scope, name, metric and age, and of each that is taken at most
`ROWS` trials, so that a proposal costs the same after a million rows as after a thousand. What was read is
kept while it holds: designers keep what they made of a history by the identity of its tuple.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from foretune.api.space import parse_space
from foretune.domain.history import SourceTask
from foretune.domain.job import PriorMode, PriorSpec, Scope
from foretune.errors import InvalidInputError
from foretune.planner.naming import uid_part
from foretune.search.registry import canonical_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from foretune.domain.history import JobRecord, PastJob
    from foretune.domain.space import Space
    from foretune.domain.trial import Trial
    from foretune.ports import Clock, History

_log = logging.getLogger(__name__)

ROWS: Final = 200
"""Trials with a value read of one job, its best and an even choice of the others: what a designer keeps."""

MIN_ENDED: Final = 5
"""Ended trials below which a job says too little."""

CANDIDATES: Final = 400
"""Jobs looked at, the newest, of those with the same metric; half as many whatever their metric."""

NAMESAKES: Final = 32
"""Jobs of the same name looked at, however old."""

CURVE_JOBS: Final = 16
"""Past jobs whose curves are read."""

REFRESH_S: Final = 60.0
"""Seconds for which a job's history stays as it is: others end trials all the time."""

GROWTH: Final = 1.1
"""Factor by which the ended trials of a running job must have grown before it is read again."""

KEPT_TASKS: Final = 256
"""Past jobs kept in memory, the last used; one of 200 rows takes some 150 KiB."""

KEPT_JOBS: Final = 256
"""Jobs whose history is kept."""

TRIPS: Final = 3
"""Jobs of one family in a row that rejected what past jobs had taught them: then these are left out."""

FAMILY_JOBS: Final = 16
"""Jobs of a family, the newest, whose end is looked at for that."""

EVERYBODY: Final = "*"
"""In the list of namespaces that may publish to the whole cluster: all of them."""

MISLED: Final = (
    f"past jobs have misled the last {TRIPS} jobs with these parameters: only these jobs are used"
)
"""Why a job does not have all past jobs that there are."""

PUBLISHED: Final = (Scope.NAMESPACE.value, Scope.CLUSTER.value)
"""Publications that a job of the same namespace may learn from."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who may learn from whom."""

    scope: Scope = Scope.NAMESPACE
    """Whose jobs a job learns from when its spec does not say."""
    publishers: frozenset[str] = frozenset()
    """Namespaces that may publish to the whole cluster; `*` is all."""
    everywhere: bool = False
    """Whether namespaces do not matter: the file of one user."""


@dataclass(frozen=True)
class Past:
    """What a job may learn from."""

    tasks: tuple[SourceTask, ...] = ()
    """The most relevant first; the same object while nothing changed."""
    reason: str = ""
    """Why there is none, or not all that there are."""


@dataclass(frozen=True)
class _Known:
    """What was found for a job."""

    prior: PriorSpec
    at: float
    past: Past


class Catalogue:
    """Past jobs of one history. Thread-safe; several may read one database."""

    def __init__(self, history: History, clock: Clock, sharing: Sharing | None = None) -> None:
        """Read from `history`, within the limits of `sharing`."""
        self._history = history
        self._clock = clock
        self._sharing = sharing or Sharing()
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, _Known] = OrderedDict()
        self._tasks: OrderedDict[tuple[str, str], tuple[int, SourceTask]] = OrderedDict()

    def past(self, job: JobRecord, prior: PriorSpec) -> Past:
        """Return what `job` may learn from; raises `HistoryUnavailableError`."""
        if prior.mode is PriorMode.OFF:
            return Past(reason="spec.prior.mode is off")
        now = self._clock.now()
        with self._lock:
            known = self._jobs.get(job.uid)
        if known is not None and known.prior == prior and 0 <= now - known.at < REFRESH_S:
            return known.past
        ranked = self._ranked(job, prior)
        kept = ranked if prior.mode is PriorMode.NAMED else self._trusted(job, ranked)
        tasks = tuple(self._read(kept[: prior.max_tasks]))
        if known is not None and _same(tasks, known.past.tasks):
            tasks = known.past.tasks
        reason = MISLED if len(kept) < len(ranked) else ""
        past = Past(tasks, reason if tasks else self._why(prior))
        with self._lock:
            self._jobs[job.uid] = _Known(prior, now, past)
            self._jobs.move_to_end(job.uid)
            while len(self._jobs) > KEPT_JOBS:
                self._jobs.popitem(last=False)
        return past

    def with_curves(self, job: JobRecord, prior: PriorSpec) -> list[str]:
        """Return the uids of past jobs whose curves tell of this one's, the most relevant first.

        They have its metric and goal and had ended before it began, so that the answer does not change.
        """
        if prior.mode is PriorMode.OFF:
            return []
        found = [
            past.uid
            for past in self._ranked(job, prior)[: prior.max_tasks]
            if past.closed_at is not None
            and past.closed_at <= job.created_at
            and past.objective.metric == job.objective.metric
            and past.objective.goal == job.objective.goal
        ]
        return found[:CURVE_JOBS]

    def _why(self, prior: PriorSpec) -> str:
        if prior.mode is PriorMode.NAMED:
            names = ", ".join(prior.names)
            return (
                f"no job to learn from has one of these names and {MIN_ENDED} ended trials: {names}"
            )
        where = "in this namespace"
        if self._sharing.everywhere:
            where = "in this history"
        elif (prior.scope or self._sharing.scope) is Scope.CLUSTER:
            where += " or published to the cluster"
        return f"no past job {where} has {MIN_ENDED} ended trials and a parameter in common"

    # ------------------------------------------------------------- which jobs
    def _ranked(self, job: JobRecord, prior: PriorSpec) -> list[PastJob]:
        """Return the jobs that `job` may learn from, the most relevant first."""
        found = {past.uid: past for past in self._candidates(job, prior) if past.uid != job.uid}
        wanted = {canonical_name(name) for name in job.manifest.get("space", {})}
        ranked = [
            (_relevance(job, past, shared), past)
            for past in found.values()
            if (shared := _shared(wanted, past)) or prior.mode is PriorMode.NAMED
        ]
        ranked.sort(key=lambda one: one[0], reverse=True)
        return [past for _, past in ranked]

    def _trusted(self, job: JobRecord, ranked: Sequence[PastJob]) -> Sequence[PastJob]:
        """Return past jobs without those that have misled this job's family `TRIPS` times in a row.

        Then only the family's own jobs are left, from the first of those that were misled on: what it
        had learned from before is out until a job does not reject what it has.
        """
        family = [past for past in ranked if _kin(job, past)]
        family.sort(key=lambda past: (past.created_at, past.uid), reverse=True)
        newest = family[:FAMILY_JOBS]
        told = (
            self._history.decisions([past.uid for past in newest]) if len(newest) >= TRIPS else {}
        )
        judged = [past for past in newest if told.get(past.uid) in {"used", "rejected"}][:TRIPS]
        if len(judged) < TRIPS or any(told[past.uid] != "rejected" for past in judged):
            return ranked
        since = judged[-1].created_at
        _log.info("job %s/%s: %s", job.namespace, job.name, MISLED)
        return [past for past in ranked if _kin(job, past) and past.created_at >= since]

    def _candidates(self, job: JobRecord, prior: PriorSpec) -> Iterator[PastJob]:
        own = None if self._sharing.everywhere else [job.namespace]
        if prior.mode is PriorMode.NAMED:
            yield from self._find(own, PUBLISHED, limit=CANDIDATES, names=prior.names)
            return
        yield from self._find(own, PUBLISHED, limit=NAMESAKES, names=[job.name])
        yield from self._newest(job, own, PUBLISHED)
        if own is not None and (prior.scope or self._sharing.scope) is Scope.CLUSTER:
            publishers = self._sharing.publishers
            if publishers:
                others = None if EVERYBODY in publishers else sorted(publishers)
                yield from self._newest(job, others, [Scope.CLUSTER.value])

    def _newest(
        self, job: JobRecord, namespaces: Collection[str] | None, published: Sequence[str]
    ) -> Iterator[PastJob]:
        metric = job.objective.metric
        yield from self._find(namespaces, published, limit=CANDIDATES, metric=metric)
        yield from self._find(namespaces, published, limit=CANDIDATES // 2)

    def _find(
        self,
        namespaces: Collection[str] | None,
        published: Sequence[str],
        *,
        limit: int,
        names: Collection[str] = (),
        metric: str | None = None,
    ) -> Sequence[PastJob]:
        return self._history.past_jobs(
            namespaces=namespaces,
            published=published,
            names=names,
            metric=metric,
            least=MIN_ENDED,
            limit=limit,
        )

    # ------------------------------------------------------------- their trials
    def _read(self, chosen: Sequence[PastJob]) -> Iterator[SourceTask]:
        counts = self._history.ended([past.uid for past in chosen])
        names = Counter(f"{past.namespace}/{past.name}" for past in chosen)
        for past in chosen:
            name = f"{past.namespace}/{past.name}"
            if names[name] > 1:  # a job that was made anew under its old name
                name = f"{name}#{uid_part(past.uid)}"
            yield self._task(past, name, counts.get(past.uid, 0))

    def _task(self, past: PastJob, name: str, count: int) -> SourceTask:
        key = (past.uid, name)
        with self._lock:
            known = self._tasks.get(key)
            if known is not None:
                self._tasks.move_to_end(key)
        if known is not None and (
            count == known[0] or (not past.closed and count < GROWTH * known[0])
        ):
            return known[1]
        task = task_of(past, name, self._history.lessons(past.uid, limit=ROWS))
        with self._lock:
            # Of two threads that have read it, one gives the object for both.
            newer = self._tasks.get(key)
            if newer is not None and newer[0] >= count and newer is not known:
                return newer[1]
            self._tasks[key] = (count, task)
            while len(self._tasks) > KEPT_TASKS:
                self._tasks.popitem(last=False)
        return task


def task_of(job: PastJob, name: str, trials: Sequence[Trial]) -> SourceTask:
    """Return what designers look at of a job's ended trials."""
    told = tuple(
        replace(trial, attempts=(), metrics_seen=(), message="")
        for trial in trials
        if trial.state.terminal and (trial.value is None or math.isfinite(trial.value))
    )
    return SourceTask(name, job.objective, told, _space(job), dict(job.context))


def _space(job: PastJob) -> Space | None:
    try:
        return parse_space(job.space, "space")
    except InvalidInputError as error:  # of another version: the trials say enough by themselves
        _log.info("job %s/%s: its space is not read: %s", job.namespace, job.name, error)
        return None


def _same(tasks: Sequence[SourceTask], others: Sequence[SourceTask]) -> bool:
    return len(tasks) == len(others) and all(
        task is other for task, other in zip(tasks, others, strict=True)
    )


def _shared(wanted: set[str], past: PastJob) -> float:
    """Return the share of parameters that both jobs have, by any of their names."""
    offered = {canonical_name(str(name)) for name in past.space}
    return len(wanted & offered) / max(1, len(wanted | offered))


def _kin(job: JobRecord, past: PastJob) -> bool:
    """Return whether a past job is of the same family: parameters, metric, goal, and model."""
    own, theirs = (
        {canonical_name(str(name)) for name in space}
        for space in (job.manifest.get("space", {}), past.space)
    )
    return (
        own == theirs
        and job.objective.metric == past.objective.metric
        and job.objective.goal == past.objective.goal
        and job.context.get("model") == past.context.get("model")
    )


def _relevance(job: JobRecord, past: PastJob, shared: float) -> tuple[float | str, ...]:
    """Return what is compared, first things first, where there are more jobs than may be used."""
    alike = (
        past.objective.metric == job.objective.metric and past.objective.goal == job.objective.goal
    )
    namesake = (past.namespace, past.name) == (job.namespace, job.name)
    twin = namesake or (alike and bool(job.context) and past.context == job.context)
    common = sum(past.context.get(name) == value for name, value in job.context.items())
    return twin, alike, common, shared, past.created_at, past.uid


__all__ = ["MIN_ENDED", "Catalogue", "Past", "Sharing", "task_of"]
