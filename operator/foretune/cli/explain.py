"""`foretune explain`: why each configuration was proposed, what was expected of it, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from foretune.cli import words
from foretune.cli.exits import COMPLETE
from foretune.cli.output import as_json, table
from foretune.cli.sources import opened
from foretune.domain.history import NINETY
from foretune.errors import NotFoundError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from foretune.domain.history import JobRecord, Proposal
    from foretune.domain.trial import Trial

EXPERTS: Final = {
    "meta": "the model that knows past jobs",
    "plain": "the model that knows this job only",
    "starter": "what has been good elsewhere",
}
"""Who makes a proposal, in words."""

METHODS: Final = {
    "default": "It is the space's default configuration",
    "user": "It was observed, not proposed",
    "sobol": "It is a point of the Sobol sequence, which fills the space evenly",
    "random": "It is a random draw",
    "grid": "It is the next point of the grid",
    "import": "It was imported, not proposed here",
}
"""Proposers without a model, in words."""


def explain(arguments: argparse.Namespace) -> int:
    """Explain every proposal of a job, or one of them.

    Raises `NotFoundError` for a job or trial that is not there.
    """
    with opened(arguments) as source:
        job = source.job(arguments.job)
        trials = {trial.index: trial for trial in source.trials(job)}
        rows = [row_of(proposal, trials.get(proposal.index)) for proposal in source.proposals(job)]
    if arguments.trial is None:
        print(as_json(rows) if arguments.output == "json" else _table(rows))
        return COMPLETE
    found = next((row for row in rows if row["index"] == arguments.trial), None)
    if found is None:
        raise NotFoundError(f"job {job.name!r} has no trial {arguments.trial}: it has {len(rows)}")
    print(as_json(found) if arguments.output == "json" else "\n".join(_story(job, found)))
    return COMPLETE


def row_of(proposal: Proposal, trial: Trial | None) -> dict[str, Any]:
    """Return a proposal, its audit and its outcome as programs read them."""
    audit = proposal.detail
    mean = low = high = inside = None
    if (expected := proposal.expected) is not None:
        mean, half = expected[0], NINETY * expected[1]
        low, high = mean - half, mean + half
    value = trial.value if trial is not None and trial.state.succeeded else None
    if low is not None and high is not None and value is not None:
        inside = low <= value <= high
    shares = sorted(dict(audit.get("sources") or {}).items(), key=lambda one: -abs(one[1]))
    return {
        "index": proposal.index,
        "state": trial.state.value if trial is not None else None,
        "params": dict(proposal.params),
        "proposer": proposal.proposer,
        "expert": audit.get("expert"),
        "prior": audit.get("prior"),
        "reason": audit.get("reason"),
        "weights": audit.get("weights"),
        "sources": [{"task": name, "share": share} for name, share in shares],
        "mean": mean,
        "low": low,
        "high": high,
        "value": value,
        "inside": inside,
        "detail": dict(audit),
    }


def prior_of(proposals: Sequence[Proposal]) -> dict[str, Any] | None:
    """Return what past jobs are good for by the newest proposal that says so, or None."""
    audit = next((p.detail for p in reversed(proposals) if "prior" in p.detail), None)
    if audit is None:
        return None
    return {
        "decision": audit["prior"],
        "reason": audit.get("reason") or "",
        "tasks": [
            {"ref": name, "weight": share}
            for name, share in sorted(
                dict(audit.get("sources") or {}).items(), key=lambda one: -abs(one[1])
            )
        ],
    }


def prior_line(prior: Mapping[str, Any]) -> str:
    """Return a job's prior on one line: `used: local/first 62 %, local/second 21 %`."""
    told = prior["reason"] or ", ".join(
        f"{t['ref']} {_percent(t['weight'])}" for t in prior["tasks"]
    )
    return f"{prior['decision']}: {told}" if told else str(prior["decision"])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "TRIAL",
        "BY",
        "EXPERT",
        "PRIOR",
        "META",
        "SOURCES",
        "EXPECTED",
        "90 %",
        "VALUE",
        "INSIDE",
    ]
    lines = [
        [
            str(row["index"]),
            row["proposer"],
            row["expert"] or "-",
            row["prior"] or "-",
            _percent(row["weights"]["meta"]) if row["weights"] else "-",
            ", ".join(f"{s['task']} {_percent(s['share'])}" for s in row["sources"]) or "-",
            words.number(row["mean"]),
            "-"
            if row["low"] is None
            else f"{words.number(row['low'])} to {words.number(row['high'])}",
            words.number(row["value"]),
            {True: "yes", False: "no", None: "-"}[row["inside"]],
        ]
        for row in rows
    ]
    told = [table(head, lines, right=["TRIAL", "META", "EXPECTED", "VALUE"])]
    scored = [row["inside"] for row in rows if row["inside"] is not None]
    if scored:
        told.append(f"{sum(scored)} of {len(scored)} values lie in their interval of 90 %")
    reasons = dict.fromkeys(row["reason"] for row in rows if row["prior"] and row["reason"])
    return "\n".join(told + [f"past jobs: {reason}" for reason in reasons])


def _story(job: JobRecord, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the whole story of one proposal, a sentence a line."""
    yield f"Trial {row['index']} of {job.namespace}/{job.name}: {words.settings(row['params'])}"
    yield _who(row)
    yield from _past(row)
    metric = job.objective.metric
    if row["low"] is not None:
        expected = f"{metric} {words.number(row['mean'])} was expected"
        interval = f"{words.number(row['low'])} and {words.number(row['high'])}"
        yield f"{expected}, with 90 % between {interval}."
        incumbent = row["detail"].get("incumbent")
        if isinstance(incumbent, int | float):
            yield f"Of the best trial so far {words.number(incumbent)} was expected."
    yield _outcome(row, metric)


def _who(row: Mapping[str, Any]) -> str:
    name, _, stand_in = row["proposer"].partition("/")
    said = METHODS.get(name, f"It was proposed by {name}")
    if name not in METHODS and row["expert"] in EXPERTS:
        said += f", {EXPERTS[row['expert']]}"
    weights = row["weights"]
    if weights:
        said += f" (past jobs have {_percent(weights['meta'])} of the say, this job alone "
        said += f"{_percent(weights['plain'])})"
    failed = [f"{f['from']} ({f['reason']})" for f in row["detail"].get("fallbacks") or ()]
    if stand_in:
        why = ", ".join(failed) or row["reason"] or "the designer gave no answer"
        said += f"; it stood in: {why}"
    return f"{said}."


def _past(row: Mapping[str, Any]) -> Iterator[str]:
    audit, reason = row["detail"], row["reason"]
    because = f": {reason}" if reason else ""
    if row["prior"] == "used":
        yield f"Past jobs were used: {words.plural(int(audit.get('tasks', 0)), 'task')}."
    elif row["prior"] == "rejected":
        yield f"Past jobs are not used any more{because}."
    elif row["prior"] == "none":
        yield f"No past job was used{because}."
    if row["sources"]:
        named = ", ".join(f"{s['task']} ({_percent(s['share'])})" for s in row["sources"])
        yield f"What they say comes from {named}."
    if aside := audit.get("set_aside"):
        counts = ", ".join(f"{count} {why}" for why, count in aside.items())
        yield f"Rows of past jobs that were set aside: {counts}."
    for name, why in (audit.get("rejected") or {}).items():
        yield f"Past job {name} says nothing: {why}."


def _outcome(row: Mapping[str, Any], metric: str) -> str:
    if row["value"] is None:
        return f"It has no value: it is {row['state'] or 'not known'}."
    said = f"It came out at {metric} {words.number(row['value'])}"
    if row["inside"] is None:
        return f"{said}."
    if row["inside"]:
        return f"{said}, within the interval."
    side = "below" if row["value"] < row["low"] else "above"
    return f"{said}, {side} the interval."
