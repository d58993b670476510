"""What the user is told: `status`, built anew each turn from the snapshot and written once.

At most 32 KiB whatever the number of trials: lists are capped here, the full list is in the history.
It changes only when a trial changes its state, never with the clock, since each change is a write.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from foretune.constants import STATUS_LIMIT, Condition, Phase, Reason
from foretune.domain.trial import TrialState
from foretune.planner.finish import HOUR, best, observed, over, verdict
from foretune.planner.prune import quota_of, refused, unpullable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from foretune.domain.trial import Trial
    from foretune.errors import Problem
    from foretune.planner.snapshot import Snapshot

TOP: Final = 10
RUNNING: Final = 64
FAILURES: Final = 5
MESSAGE: Final = 1024
"""Characters of a condition's message; a spec with a hundred problems must not fill the status."""

TASKS: Final = 10
"""Past jobs named in `prior`."""

REF: Final = 384
"""Characters of a past job's name."""

REASON: Final = 256
"""Characters of the reason why past jobs are not used."""

TEXT: Final = 128
"""Characters of a parameter's text that a status which is too large keeps of the best trial."""

_COUNTED: Final = {
    TrialState.PROPOSED: "pending",
    TrialState.PENDING: "pending",
    TrialState.RUNNING: "running",
    TrialState.RETRYING: "pending",
    TrialState.COMPLETED: "succeeded",
    TrialState.EARLY_STOPPED: "stopped",
    TrialState.INFEASIBLE: "infeasible",
    TrialState.FAILED: "failed",
    TrialState.TIMED_OUT: "timedOut",
    TrialState.CANCELLED: "cancelled",
}

Row = tuple[Condition, bool, Reason, str]


def build(snapshot: Snapshot, now: float) -> dict[str, Any]:
    """Return the whole status of an accepted job, camelCase as in the CRD."""
    job, spec = snapshot.job, snapshot.job.spec
    rows = (
        dict(_kept(snapshot)) if over(snapshot) else {row[0]: row for row in _rows(snapshot, now)}
    )
    counts = Counter(_COUNTED[trial.state] for trial in snapshot.trials)
    ended = sum(trial.state.terminal for trial in snapshot.trials)
    status: dict[str, Any] = {
        "observedGeneration": job.generation,
        "phase": _phase(rows).value,
        "conditions": conditions(rows.values(), job.generation, now, job.status),
        "counts": {name: counts.get(name, 0) for name in dict.fromkeys(_COUNTED.values())},
        "progress": f"{ended}/{spec.trials}",
        "allocated": len(snapshot.trials),
        "spent": {
            "gpuHours": round(sum(trial.gpu_s for trial in snapshot.trials) / HOUR, 4),
            "wallSeconds": round(_wall(snapshot)),
        },
        "running": [t.index for t in snapshot.trials if t.state is TrialState.RUNNING][:RUNNING],
        "top": [_row(trial) for trial in _top(snapshot)],
        "recentFailures": [
            {"trial": t.index, "class": str(t.reason or t.state), "message": t.message[:256]}
            for t in sorted(_failures(snapshot), key=lambda t: t.ended_at or 0.0)[-FAILURES:]
        ],
        "optimizer": _optimizer(snapshot),
    }
    if (winner := best(spec.objective, snapshot.trials)) is not None:
        status["best"] = _row(winner)
    if (prior := _prior(snapshot)) is not None:
        status["prior"] = prior
    return _bounded(status)


def rejected(
    problems: Sequence[Problem],
    generation: int,
    now: float,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the status of a spec that can't be run: what is wrong, and where."""
    message = "; ".join(str(problem) for problem in problems)
    rows: list[Row] = [
        (Condition.ACCEPTED, False, Reason.INVALID_SPEC, message),
        (Condition.PROGRESSING, False, Reason.DONE, "waits for a spec that can be run"),
    ]
    return {
        "observedGeneration": generation,
        "phase": Phase.FAILED.value,
        "conditions": conditions(rows, generation, now, previous or {}),
    }


def unavailable(
    snapshot_status: Mapping[str, Any], generation: int, message: str, now: float
) -> dict[str, Any]:
    """Return the status last written with Degraded/HistoryUnavailable in it."""
    kept = [_read(c) for c in snapshot_status.get("conditions", ()) if c.get("type") != "Degraded"]
    rows = [row for row in kept if row is not None]
    rows.append((Condition.DEGRADED, True, Reason.HISTORY_UNAVAILABLE, message))
    return {
        **snapshot_status,
        "conditions": conditions(rows, generation, now, snapshot_status),
    }


def conditions(
    rows: Iterator[Row] | Sequence[Row] | Any,
    generation: int,
    now: float,
    previous: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return conditions whose transition time moves only when the status flips."""
    before = {c.get("type"): c for c in previous.get("conditions", ())}
    stamp = datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for kind, value, reason, message in sorted(rows):
        text = "True" if value else "False"
        same = before.get(kind.value, {}).get("status") == text
        found.append(
            {
                "type": kind.value,
                "status": text,
                "reason": reason.value,
                "message": message[:MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": before[kind.value]["lastTransitionTime"] if same else stamp,
            }
        )
    return found


def _rows(snapshot: Snapshot, now: float) -> Iterator[Row]:
    live = [trial for trial in snapshot.trials if not trial.state.terminal]
    decided = verdict(snapshot, now)
    # Trials that wait for a first or further attempt will get none once the verdict is known.
    busy = [t for t in live if t.state not in {TrialState.PROPOSED, TrialState.RETRYING}]
    if snapshot.rejected:
        yield Condition.ACCEPTED, False, Reason.TEMPLATE_REJECTED, snapshot.rejected
    else:
        yield Condition.ACCEPTED, True, Reason.VALID, "the spec can be run"
    yield _degraded(snapshot)
    if decided is not None and not busy:
        yield decided.condition, True, decided.reason, decided.message
        yield Condition.PROGRESSING, False, Reason.DONE, decided.message
    elif decided is not None:
        message = f"{decided.message}; {len(busy)} trials still run"
        yield Condition.PROGRESSING, True, Reason.STOPPING, message
    elif snapshot.job.spec.suspend:
        message = f"spec.suspend is true; {len(busy)} trials run to their end"
        yield Condition.PROGRESSING, False, Reason.SUSPENDED, message
    elif quota := quota_of(snapshot):
        yield Condition.PROGRESSING, True, Reason.WAITING_FOR_QUOTA, quota
    else:
        message = f"{len(busy)} of at most {snapshot.job.spec.parallelism} trials run"
        yield Condition.PROGRESSING, True, Reason.TRIALS_RUNNING, message


def _degraded(snapshot: Snapshot) -> Row:
    waiting = next((a for a in snapshot.attempts if unpullable(a)), None)
    if waiting is not None:
        message = f"trial {waiting.index}: {waiting.container_reason}: {waiting.waiting_message}"
        return Condition.DEGRADED, True, Reason.IMAGE_PULL, message
    podless = next((a for a in snapshot.attempts if refused(a)), None)
    if podless is not None:
        message = f"trial {podless.index} gets no pod: {podless.waiting_message}"
        return Condition.DEGRADED, True, Reason.POD_REFUSED, message
    if snapshot.collision:
        message = f"Job {snapshot.collision} exists and belongs to somebody else"
        return Condition.DEGRADED, True, Reason.NAME_COLLISION, message
    latest = max(snapshot.trials, key=lambda trial: trial.index, default=None)
    if latest is not None and latest.proposer.endswith("/fallback"):
        message = f"trial {latest.index} was proposed by {latest.proposer}"
        return Condition.DEGRADED, True, Reason.SURROGATE_UNAVAILABLE, message
    return Condition.DEGRADED, False, Reason.AS_EXPECTED, "nothing is wrong"


def _kept(snapshot: Snapshot) -> Iterator[tuple[Condition, Row]]:
    """Yield the rows of a job whose end is written already."""
    for condition in snapshot.job.status.get("conditions", ()):
        row = _read(condition)
        if row is not None:
            yield row[0], row


def _read(condition: Mapping[str, Any]) -> Row | None:
    try:
        kind, reason = Condition(condition["type"]), Reason(condition["reason"])
    except ValueError:
        return None  # written by another version; it will be written anew when it matters
    return kind, condition["status"] == "True", reason, condition.get("message", "")


def _phase(rows: Mapping[Condition, Row]) -> Phase:
    def true(kind: Condition) -> bool:
        return kind in rows and rows[kind][1]

    if true(Condition.FAILED) or not true(Condition.ACCEPTED):
        return Phase.FAILED
    if true(Condition.COMPLETE):
        return Phase.COMPLETE
    progressing = rows.get(Condition.PROGRESSING)
    if progressing is not None and progressing[2] is Reason.SUSPENDED:
        return Phase.SUSPENDED
    return Phase.RUNNING


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.index,
        "value": trial.value,
        "params": dict(trial.params),
        "epochs": trial.epochs,
    }


def _bounded(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status that fits: first with fewer rows in `top`, then with the best's texts cut."""
    while status["top"] and _size(status) > STATUS_LIMIT:
        status["top"].pop()
    if _size(status) > STATUS_LIMIT:
        params = status["best"]["params"]
        cut = {
            k: f"{v[:TEXT]}..." for k, v in params.items() if isinstance(v, str) and len(v) > TEXT
        }
        status["best"]["params"] = {**params, **cut}
    return status


def _size(status: Mapping[str, Any]) -> int:
    return len(json.dumps(status).encode())


def _top(snapshot: Snapshot) -> list[Trial]:
    spec = snapshot.job.spec
    valued = [t for t in snapshot.trials if observed(t)]
    sign = -1.0 if spec.objective.better(1.0, 0.0) else 1.0
    return sorted(valued, key=lambda t: (sign * (t.value or 0.0), t.index))[:TOP]


def _failures(snapshot: Snapshot) -> Iterator[Trial]:
    bad = {TrialState.FAILED, TrialState.INFEASIBLE, TrialState.TIMED_OUT}
    return (trial for trial in snapshot.trials if trial.state in bad)


def _optimizer(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "algorithm": snapshot.job.spec.search.algorithm.value,
        "fallbacks": sum(t.proposer.endswith("/fallback") for t in snapshot.trials),
    }


def _prior(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return what past jobs were good for; after a restart what the status said before."""
    audit = snapshot.audit
    if audit is None:
        return snapshot.job.status.get("prior")
    shares = sorted(dict(audit.get("sources") or {}).items(), key=lambda share: -abs(share[1]))
    return {
        "decision": str(audit["prior"]),
        "reason": str(audit.get("reason") or "")[:REASON],
        "tasks": [{"ref": name[:REF], "weight": share} for name, share in shares[:TASKS]],
    }


def _wall(snapshot: Snapshot) -> float:
    """Return seconds from the first trial to the latest end, so that waiting writes no status."""
    ends = [trial.ended_at for trial in snapshot.trials if trial.ended_at is not None]
    begins = [trial.created_at for trial in snapshot.trials]
    return max(0.0, max(ends) - min(begins)) if ends else 0.0
