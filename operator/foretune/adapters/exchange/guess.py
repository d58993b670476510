"""A mapping guessed from the head and the first rows of a table: to be looked at, and mended by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from foretune.adapters.exchange import cells
from foretune.adapters.exchange.checks import GAINS, LOSSES, goal_of, words
from foretune.adapters.exchange.mapping import Mapping
from foretune.adapters.exchange.tables import sample
from foretune.domain.job import Goal
from foretune.errors import InvalidInputError
from foretune.search.registry import DIMENSIONS, canonical_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foretune.adapters.exchange.tables import Table

SAMPLE: Final = 500
"""Rows looked at."""

PREFIXES: Final = ("params.", "params_", "param_", "hp_", "hp.", "config.", "config/", "config_")
"""How columns of parameters start in tables that mark them."""

TASKS: Final = (
    "task",
    "task_id",
    "dataset",
    "data_set",
    "study",
    "study_name",
    "experiment",
    "job",
)
"""Columns that tell tasks apart."""

FAILURES: Final = ("state", "status", "failure", "failed", "outcome")
"""Columns that tell how a trial ended."""

COSTS: Final = (
    *("runtime", "runtime_s", "seconds", "duration", "time_s", "elapsed", "time_total_s"),
    *("train_time", "metric_time", "walltime"),
)
"""Columns with wall seconds."""

IDS: Final = ("trial_id", "number", "trial", "config_id", "run_id", "trial_name")
"""Columns that name a trial within its task."""

VALUES: Final = ("value", "values_0", "objective", "metric", "score", "result", "target")
"""Columns of an objective whose name tells nothing else."""

PREFERRED: Final = ("valid", "validation", "val", "eval", "dev")
"""Words of a metric that was measured on what was not trained on."""

LOGARITHMS: Final = {"log10": "log10", "log2": "log2", "ln": "ln", "log": "ln"}
"""Last word of a column, and the unit it tells."""


@dataclass(frozen=True)
class Guess:
    """What a table seems to mean."""

    mapping: Mapping
    left_out: tuple[str, ...]
    """Columns that it does not use."""
    doubts: tuple[str, ...]
    """What can't be told: to be settled by whoever knows the table, before anything is imported."""

    def printed(self) -> str:
        """Return the mapping file that gives it back, with what is doubtful above."""
        told = self.mapping.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        lines = [f"# check: {doubt}\n" for doubt in self.doubts]
        lines += [f"# not used: {', '.join(self.left_out)}\n"] if self.left_out else []
        return "".join(lines) + yaml.safe_dump(
            told, sort_keys=False, allow_unicode=True, width=1000
        )


def guess(table: Table) -> Guess:
    """Return what the head and the first rows tell; raises `InvalidInputError` without any objective."""
    free = list(table.columns)
    rows = [row.cells for row in sample(table, SAMPLE)]
    doubts: list[str] = []
    told: dict[str, Any] = {}
    task = _taken(free, TASKS)
    if task is not None:
        told["tasks"] = {"column": task}
    params = [c for c in free if c.lower().startswith(PREFIXES)]
    free = [c for c in free if c not in params]
    failure, cost, trial = _taken(free, FAILURES), _taken(free, COSTS), _taken(free, IDS)
    told["objective"] = _objective(free, rows, doubts)
    params = params or [c for c in free if canonical_name(c) in DIMENSIONS]
    if not params:
        params = [c for c in free if not (LOSSES | GAINS) & set(words(c))]
        marks = ", ".join(PREFIXES[:4])
        doubts.append(f"params: no column is known as a parameter, or starts with {marks}...")
    told["params"] = {_name(c): _param(c) for c in params if _filled(c, rows)}
    if not told["params"]:
        raise InvalidInputError("no column is left that could be a parameter")
    if trial is not None and _unique(rows, [task, trial] if task else [trial]):
        told["id"] = trial
    if failure is not None:
        told["failure"] = {"column": failure}
    if cost is not None:
        told["cost"] = {"column": cost}
    mapping = Mapping.model_validate(told)
    used = {column for _, column in mapping.columns()}
    return Guess(mapping, tuple(c for c in table.columns if c not in used), tuple(doubts))


def _taken(free: list[str], names: Iterable[str]) -> str | None:
    """Return the first of the names that is a free column, and take it."""
    by_name = {column.lower().replace(" ", "_"): column for column in reversed(free)}
    for name in names:
        if name in by_name:
            free.remove(by_name[name])
            return by_name[name]
    return None


def _objective(free: list[str], rows: list[dict[str, Any]], doubts: list[str]) -> dict[str, str]:
    numeric = [c for c in free if any(cells.number(row.get(c)) is not None for row in rows)]
    known = [c for c in numeric if (LOSSES | GAINS) & set(words(c))]
    plain = [c for c in numeric if c.lower() in VALUES]
    chosen = plain[:1] or [c for c in known if set(PREFERRED) & set(words(c))] or known
    if not chosen:
        raise InvalidInputError(
            f"no column is known as an objective among {', '.join(free)}: write a mapping"
        )
    if len(chosen) > 1:
        doubts.append(f"objective.column: it may be any of {', '.join(chosen)}")
    free.remove(chosen[0])
    goal = goal_of(chosen[0])
    if goal is None:
        doubts.append(f"objective.goal: {chosen[0]!r} does not tell whether less or more is better")
    return {"column": chosen[0], "goal": (goal or Goal.MINIMIZE).value}


def _filled(column: str, rows: list[dict[str, Any]]) -> bool:
    return any(not cells.empty(row.get(column)) for row in rows)


def _logarithm(column: str) -> str | None:
    parts = words(column)
    return parts[-1] if len(parts) > 1 and parts[-1] in LOGARITHMS else None


def _name(column: str) -> str:
    for prefix in PREFIXES:
        if column.lower().startswith(prefix) and len(column) > len(prefix):
            column = column[len(prefix) :]
    last = _logarithm(column)
    if last is not None:
        column = column[: -len(last)].rstrip("_-. ")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in column)
    return name if name[0].isalpha() else f"_{name}"


def _param(column: str) -> dict[str, str]:
    last = _logarithm(column)
    return {"column": column} | ({"unit": LOGARITHMS[last]} if last is not None else {})


def _unique(rows: list[dict[str, Any]], columns: Sequence[str]) -> bool:
    keys = [tuple(str(row.get(column)) for column in columns) for row in rows]
    return len(set(keys)) == len(keys)
