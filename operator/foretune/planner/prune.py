"""What to stop and what to remove: runs that are asked to stop, that can't start, that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.domain.trial import AttemptPhase, EndReason
from foretune.planner.outcomes import unstartable
from foretune.planner.snapshot import Commit, Delete, SetTtl, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.domain.trial import ObservedAttempt, Outcome
    from foretune.planner.finish import Verdict
    from foretune.planner.snapshot import Action, Snapshot

STOP_GRACE_S: Final = 90.0
"""Seconds a trial has to stop by itself, at its next report, before its Job is deleted."""

IMAGE_PATIENCE_S: Final = 600.0
"""Seconds an image may fail to be pulled before the job fails."""

MAX_REPLACED_PODS: Final = 5
"""Pods of one attempt that may leave with 75 or 143 before the attempt is ended."""

DEFAULT_TTL_S: Final = 3600
"""Seconds an ended trial's Job stays for `kubectl logs` when the spec is silent."""

PULL_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)
"""Waiting reasons under which a pod stays Pending for ever."""


POD_REFUSED: Final = "FailedCreate"
"""Reason of an attempt whose pod the cluster refuses to create: Pod Security, a quota, a webhook."""

QUOTA_MARK: Final = "exceeded quota"
"""Words of the cluster's quota in such a refusal, which then may pass by itself."""

PODLESS_LOOK_S: Final = 15.0
"""Seconds until an attempt without a pod is looked at again: nothing is heard of a refused pod."""


def unpullable(attempt: ObservedAttempt) -> bool:
    """Whether the attempt's container waits for an image or a setting that can't be had."""
    return attempt.phase is AttemptPhase.PENDING and attempt.container_reason in PULL_REASONS


def refused(attempt: ObservedAttempt) -> bool:
    """Whether the cluster refuses to create the attempt's pod, other than for want of quota."""
    return _podless(attempt) and QUOTA_MARK not in attempt.waiting_message


def quota_of(snapshot: Snapshot) -> str | None:
    """Return what a quota said when it refused a trial's Job or its pod; None if none does."""
    pods = (
        attempt.waiting_message
        for attempt in snapshot.attempts
        if _podless(attempt) and QUOTA_MARK in attempt.waiting_message
    )
    return snapshot.quota or next(pods, None)


def _podless(attempt: ObservedAttempt) -> bool:
    return attempt.phase is AttemptPhase.PENDING and attempt.container_reason == POD_REFUSED


def prune(snapshot: Snapshot, verdict: Verdict | None, now: float) -> Iterator[Action]:
    """Yield stops, deletions, give-ups and TTLs."""
    by_index = snapshot.by_index
    ttl = snapshot.job.spec.ttl_s if snapshot.job.spec.ttl_s is not None else DEFAULT_TTL_S
    for attempt in snapshot.attempts:
        trial = by_index.get(attempt.index)
        if trial is None:
            continue
        concluded = any(a.number == attempt.number and a.reason for a in trial.attempts)
        if concluded or trial.state.terminal:
            yield from _remove(attempt, ttl)
            continue
        if attempt.phase.ended:
            continue
        if (outcome := _given_up(attempt, now)) is not None:
            yield Commit(outcome=outcome, attempt=attempt)
        elif trial.stop_requested is None and verdict is not None and verdict.stop_rule:
            yield Stop(index=trial.index, rule=verdict.stop_rule)
        elif trial.stop_requested is not None and not attempt.deleting:
            asked = snapshot.stops.get(trial.index)
            waiting = attempt.phase in {AttemptPhase.PENDING, AttemptPhase.QUEUED}
            if waiting or (asked is not None and now - asked >= STOP_GRACE_S):
                yield Delete(name=attempt.name)


def _given_up(attempt: ObservedAttempt, now: float) -> Outcome | None:
    """Return the outcome of an attempt that will never run to an end, or None."""
    if unpullable(attempt) and now - (attempt.bound_at or now) >= IMAGE_PATIENCE_S:
        message = f"{attempt.container_reason}: {attempt.waiting_message}"
        return unstartable(attempt, EndReason.IMAGE_UNPULLABLE, message, now)
    if refused(attempt) and now - (attempt.created_at or now) >= IMAGE_PATIENCE_S:
        return unstartable(attempt, EndReason.CONFIG_BUG, attempt.waiting_message, now)
    if attempt.ignored_pods > MAX_REPLACED_PODS:
        message = f"{attempt.ignored_pods} pods left with 75 or 143 without a disruption"
        return unstartable(attempt, EndReason.ERROR, message, now)
    return None


def _remove(attempt: ObservedAttempt, ttl: int) -> Iterator[Action]:
    if attempt.deleting:
        return
    if not attempt.phase.ended:
        yield Delete(name=attempt.name)
    elif not attempt.ttl_set and attempt.phase is not AttemptPhase.GONE:
        yield SetTtl(name=attempt.name, seconds=ttl)


def next_look(snapshot: Snapshot, now: float) -> float | None:
    """Return the seconds until time alone changes a decision, or None."""
    waits = [
        asked + STOP_GRACE_S - now
        for index, asked in snapshot.stops.items()
        if (trial := snapshot.by_index.get(index)) is not None and not trial.state.terminal
    ]
    waits += [
        (attempt.bound_at or now) + IMAGE_PATIENCE_S - now
        for attempt in snapshot.attempts
        if unpullable(attempt)
    ]
    waits += [
        PODLESS_LOOK_S
        for attempt in snapshot.attempts
        if attempt.phase is AttemptPhase.PENDING
        and (attempt.pod_uid, attempt.bound_at) == (None, None)
    ]
    return max(0.5, min(waits)) if waits else None
