"""`foretune status`, `trials` and `best`: read what is known, also while a job runs."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from foretune.cli import words
from foretune.cli.chart import chart
from foretune.cli.exits import COMPLETE
from foretune.cli.explain import prior_line, prior_of
from foretune.cli.output import as_csv, as_json, table
from foretune.cli.sources import Source, opened
from foretune.domain.exchange import is_imported
from foretune.domain.job import DEFAULT_TRIALS
from foretune.errors import UnavailableError
from foretune.planner import finish

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from foretune.domain.history import JobRecord
    from foretune.domain.trial import Trial

TRIAL_COLUMNS: Final = (
    "index",
    "state",
    "value",
    "value_sd",
    "epochs",
    "seconds",
    "attempts",
    "proposer",
    "reason",
    "message",
)
"""Columns of a trial in CSV, before those of its parameters."""

JOB_COLUMNS: Final = (
    "namespace",
    "name",
    "uid",
    "phase",
    "reason",
    "message",
    "metric",
    "goal",
    "budget",
    "ended",
)
"""Columns of a job in CSV, before its counts and its best trial."""


def status(arguments: argparse.Namespace) -> int:
    """Show how a job stands, or list all jobs."""
    with opened(arguments) as source:
        if arguments.job is None:
            listed = [job_row(source, job) for job in source.jobs()]
            _print(arguments.output, listed, JOB_COLUMNS, _jobs_table(listed))
            return COMPLETE
        job = source.job(arguments.job)
        trials = source.trials(job)
        row = job_row(source, job, trials)
        row["prior"] = prior_of(source.proposals(job))
        if arguments.output == "table":
            print(_job_page(job, row, trials))
        else:
            _print(arguments.output, row, JOB_COLUMNS)
    return COMPLETE


def trials(arguments: argparse.Namespace) -> int:
    """List the trials of a job."""
    with opened(arguments) as source:
        found = source.trials(source.job(arguments.job))
        rows = [trial_row(trial) for trial in found]
        _print(arguments.output, rows, TRIAL_COLUMNS, _trials_table(found))
    return COMPLETE


def best(arguments: argparse.Namespace) -> int:
    """Show the best trial of a job; raises `UnavailableError` while there is none."""
    with opened(arguments) as source:
        job = source.job(arguments.job)
        winner = finish.best(job.objective, source.trials(job))
        if winner is None:
            raise UnavailableError(f"no trial of {job.name!r} has ended with a value")
        if arguments.output == "table":
            print(_best_page(job, winner))
        else:
            _print(arguments.output, trial_row(winner), TRIAL_COLUMNS)
    return COMPLETE


def trial_row(trial: Trial) -> dict[str, Any]:
    """Return a trial as programs read it."""
    return {
        "index": trial.index,
        "state": trial.state.value,
        "params": dict(trial.params),
        "value": trial.value,
        "value_sd": trial.value_sd,
        "epochs": trial.epochs,
        "seconds": words.seconds_of(trial),
        "attempts": len(trial.attempts),
        "proposer": trial.proposer,
        "reason": trial.reason.value if trial.reason else None,
        "message": trial.message,
        "resources": dict(trial.resources),
    }


def job_row(source: Source, job: JobRecord, known: Sequence[Trial] | None = None) -> dict[str, Any]:
    """Return a job as programs read it."""
    found = source.trials(job) if known is None else known
    winner = finish.best(job.objective, found)
    budget = job.manifest.get("budget") or {}
    return {
        "namespace": job.namespace,
        "name": job.name,
        "uid": job.uid,
        "phase": source.phase(job),
        "reason": job.reason,
        "message": job.message,
        "metric": job.objective.metric,
        "goal": job.objective.goal.value,
        "budget": len(found) if is_imported(job) else budget.get("trials", DEFAULT_TRIALS),
        "ended": sum(trial.state.terminal for trial in found),
        "counts": dict(sorted(Counter(trial.state.value for trial in found).items())),
        "best": trial_row(winner) if winner is not None else None,
        "created": stamp(job.created_at),
        "closed": stamp(job.closed_at),
    }


def _print(
    output: str,
    value: dict[str, Any] | list[dict[str, Any]],
    columns: Sequence[str],
    shown: str = "",
) -> None:
    if output == "json":
        print(as_json(value))
    elif output == "csv":
        print(as_csv(value if isinstance(value, list) else [value], columns))
    else:
        print(shown)


def _trials_table(found: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(name for trial in found for name in trial.params))
    head = ["TRIAL", "STATE", "VALUE", "EPOCHS", "TIME", *names]
    rows = [
        [
            str(trial.index),
            trial.state.value + (f" ({trial.reason})" if trial.state in words.FAILURES else ""),
            words.value_of(trial),
            f"{trial.epochs:g}",
            words.duration(words.seconds_of(trial)),
            *(words.setting(trial.params.get(name, "-")) for name in names),
        ]
        for trial in found
    ]
    return table(head, rows, right=["TRIAL", "VALUE", "EPOCHS", "TIME", *names])


def _jobs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["NAMESPACE", "NAME", "PHASE", "TRIALS", "METRIC", "BEST", "CREATED"]
    lines = [
        [
            row["namespace"],
            row["name"],
            row["phase"],
            f"{row['ended']}/{row['budget']}",
            row["metric"],
            words.number(row["best"]["value"] if row["best"] else None),
            row["created"] or "-",
        ]
        for row in rows
    ]
    return table(head, lines, right=["TRIALS", "BEST"])


def _job_page(job: JobRecord, row: Mapping[str, Any], found: Sequence[Trial]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in row["counts"].items())
    lines = [f"{job.namespace}/{job.name}: {row['phase']}"]
    if job.message:
        lines[0] += f" ({job.message})"
    lines.append(f"trials  {row['ended']} of {row['budget']} have ended; {counts or 'none yet'}")
    winner = finish.best(job.objective, found)
    if winner is not None:
        value = f"{job.objective.metric} {words.number(winner.value)}, trial {winner.index}"
        lines.append(f"best    {value}  {words.settings(winner.params)}")
    if row["prior"] is not None:
        lines.append(f"prior   {prior_line(row['prior'])}")
    drawn = chart(found, job.objective, encoding=sys.stdout.encoding or "ascii")
    return "\n".join([*lines, *([""] if drawn else []), *drawn])


def _best_page(job: JobRecord, winner: Trial) -> str:
    epochs = words.plural(int(winner.epochs), "epoch")
    lines = [
        f"{job.objective.metric} {words.number(winner.value)} after {epochs}, trial {winner.index}"
    ]
    width = max(map(len, winner.params), default=0)
    lines += [f"  {name:<{width}}  {words.setting(v)}" for name, v in winner.params.items()]
    if used := words.used(winner.resources):
        lines.append(f"used {used}")
    return "\n".join(lines)


def stamp(seconds: float | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC, or None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
