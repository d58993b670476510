"""`plan(snapshot, now) -> actions`: the policies in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from foretune.domain.trial import AttemptPhase, AttemptRecord, ObservedAttempt, Trial
from foretune.planner.admit import admit
from foretune.planner.finish import over, verdict
from foretune.planner.outcomes import classify, deleted, record_of
from foretune.planner.prune import prune
from foretune.planner.snapshot import Commit, Look, Record, Recover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.planner.snapshot import Action, Snapshot

_UNKNOWN: Final = AttemptRecord(number=-1, state=AttemptPhase.PENDING)


def plan(snapshot: Snapshot, now: float) -> list[Action]:
    """Return what to do next, in order; empty when nothing is left but to wait.

    Level-triggered: the same snapshot gives the same actions, and doing them leads to a snapshot for
    which they are not asked again. Ends come before starts, so that a new proposal knows them.
    """
    ends = list(_ends(snapshot, now))
    if ends:
        return ends
    decided = verdict(snapshot, now)
    actions: list[Action] = list(prune(snapshot, decided, now))
    if decided is None and not over(snapshot):
        actions.extend(admit(snapshot))
    return actions


def _ends(snapshot: Snapshot, now: float) -> Iterator[Action]:
    """Yield what brings the history up to what the cluster shows."""
    by_index = snapshot.by_index
    for attempt in snapshot.attempts:
        trial = by_index.get(attempt.index)
        if trial is None or trial.state.terminal:
            continue
        record = _record(trial, attempt.number)
        if record.reason is None and attempt.phase.ended:
            yield from _conclude(snapshot, trial, attempt, now)
        elif record.reason is None and _news(attempt, record, now):
            yield Record(index=trial.index, attempt=record_of(attempt, now))
    yield from _vanished(snapshot, now)


def _vanished(snapshot: Snapshot, now: float) -> Iterator[Action]:
    """Yield what to do about attempts that the history knows and the cluster does not list."""
    listed = {(attempt.index, attempt.number) for attempt in snapshot.attempts}
    open_records = [
        (trial, record)
        for trial in snapshot.trials
        if not trial.state.terminal
        for record in trial.attempts
        if record.reason is None and (trial.index, record.number) not in listed
    ]
    for trial, record in open_records:
        if (trial.index, record.number) in snapshot.missing:
            gone = _gone(trial, record)
            yield Commit(outcome=deleted(gone, trial, now), attempt=gone)
        else:
            yield Look(index=trial.index, number=record.number)


def _conclude(
    snapshot: Snapshot, trial: Trial, attempt: ObservedAttempt, now: float
) -> Iterator[Action]:
    recovered = snapshot.recovered.get((attempt.index, attempt.number))
    if recovered is None:
        yield Recover(attempt=attempt)
    else:
        outcome = classify(attempt, trial, snapshot.job.spec, recovered, now)
        yield Commit(outcome=outcome, attempt=attempt)


def _record(trial: Trial, number: int) -> AttemptRecord:
    return next((a for a in trial.attempts if a.number == number), _UNKNOWN)


def _news(attempt: ObservedAttempt, known: AttemptRecord, now: float) -> bool:
    """Whether the cluster shows something of a running attempt that the history lacks."""
    shown = record_of(attempt, now)
    return shown != replace(known, held_gpu_s=0.0, message="", reason=None)


def _gone(trial: Trial, record: AttemptRecord) -> ObservedAttempt:
    """Return what is left to say of an attempt whose Job is gone: what was recorded of it."""
    return ObservedAttempt(
        name="",
        index=trial.index,
        number=record.number,
        config_hash=trial.config_hash,
        phase=AttemptPhase.GONE,
        created_at=record.created_at,
        bound_at=record.bound_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        pod_uid=record.pod_uid,
        node=record.node,
        gpus=record.gpus,
    )
