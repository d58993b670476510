"""Rows of a table, read with a mapping."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from foretune.adapters.exchange import cells
from foretune.adapters.exchange.mapping import WORDS, ContextColumn
from foretune.adapters.exchange.staging import Kind, Row
from foretune.domain.exchange import PastTask
from foretune.domain.job import Goal, Objective
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, canonical
from foretune.domain.trial import EndReason, TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Mapping as Map

    from foretune.adapters.exchange.mapping import Mapping, Param
    from foretune.adapters.exchange.tables import Table, TableRow
    from foretune.domain.space import Parameter, Params, Space, Value

ENDS: Final = {
    "completed": (TrialState.COMPLETED, EndReason.DONE),
    "stopped": (TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE),
    "oom": (TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY),
    "diverged": (TrialState.INFEASIBLE, EndReason.DIVERGED),
    "error": (TrialState.FAILED, EndReason.ERROR),
    "timeout": (TrialState.TIMED_OUT, EndReason.TIMED_OUT),
}
"""How a word of a failure column ends a trial."""

UNDO: Final[dict[str, Callable[[float], float]]] = {
    "percent": lambda v: v / 100,
    "ln": math.exp,
    "log2": lambda v: 2.0**v,
    "log10": lambda v: 10.0**v,
    "oneMinus": lambda v: 1 - v,
}
"""From what a column holds to the value."""

BOUNDS: Final = {"percent": (0.0, 100.0), "fraction": (0.0, 1.0)}
"""Where a column of that unit must lie."""

DIGITS: Final = 12
"""Significant digits kept of what was converted: the rest is rounding."""


class Bad(Exception):  # noqa: N818 - no error of the program: the row is set aside
    """A row can't be a trial; the message says why."""


class Columns:
    """The reader of a table with a mapping."""

    def __init__(self, table: Table, mapping: Mapping, *, name: str) -> None:
        """Take the table, whose columns the mapping fits, and the name of a task that has none."""
        self._table = table
        self._mapping = mapping
        self._name = name
        self._space = mapping.parsed_space()
        self._words = _words(mapping)
        goal = mapping.objective.goal_column
        self._telling = (*mapping.tasks.names, *([goal] if goal else []))
        self._tasks: dict[tuple[str, ...], PastTask] = {}
        self._points = mapping.curve is not None and mapping.curve.epoch is not None
        self.unfinished = 0
        """Rows of trials that had not ended: they are left for the next import."""

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each row with its task; raises `InvalidInputError` for a decimal comma."""
        for row in self._table.rows():
            task = self._task(row)
            key, kind = self._identity(row)
            # Two tasks of one name and opposite goals are two tasks.
            place = f"{task.name}\n{task.objective.goal}"
            about: dict[str, Any] = {"task": place, "key": key, "kind": kind, "line": row.line}
            try:
                told = self._told(row)
            except Bad as bad:
                yield task, Row(problem=str(bad), raw=row.cells, **about)
                continue
            if told is None:
                self.unfinished += 1
                continue
            yield task, Row(raw=row.cells, **about, **told)

    # ------------------------------------------------------------------- parts
    def _task(self, row: TableRow) -> PastTask:
        key = tuple(str(cells.value(row.cells.get(column))) for column in self._telling)
        if key not in self._tasks:
            self._tasks[key] = self._new_task(row)
        return self._tasks[key]

    def _new_task(self, row: TableRow) -> PastTask:
        tasks, objective = self._mapping.tasks, self._mapping.objective
        parts = {column: str(cells.value(row.cells.get(column))) for column in tasks.names}
        if tasks.name is not None:
            name = tasks.name.format_map(parts)
        else:
            name = "-".join(parts.values()) or self._name
        goal = objective.goal
        if goal is None:
            goal = _goal(row.cells.get(objective.goal_column or ""))
        context = {
            key: str(cells.value(row.cells.get(told.column)))
            if isinstance(told, ContextColumn)
            else told
            for key, told in self._mapping.context.items()
        }
        return PastTask(
            name=job_name(name),
            objective=Objective(
                metric=self._mapping.metric(), goal=goal or Goal.MINIMIZE, reduce=objective.reduce
            ),
            space=self._space,
            context=context,
        )

    def _identity(self, row: TableRow) -> tuple[str, Kind]:
        named = self._mapping.id
        if named is not None and not cells.empty(row.cells.get(named)):
            return str(cells.value(row.cells[named])), Kind.POINT if self._points else Kind.NAMED
        text = "\x1f".join(f"{name}={row.cells[name]}" for name in sorted(row.cells))
        return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:24], Kind.WHOLE

    def _told(self, row: TableRow) -> dict[str, Any] | None:
        """Return what a row says of its trial; None for one that has not ended. Raises `Bad`."""
        if row.problem:
            raise Bad(row.problem)
        mapping = self._mapping
        if (
            mapping.objective.goal is None
            and _goal(row.cells.get(mapping.objective.goal_column or "")) is None
        ):
            raise Bad(f"{mapping.objective.goal_column}: is neither minimize nor maximize")
        if self._points and cells.empty(row.cells.get(mapping.id or "")):
            raise Bad(f"{mapping.id}: is empty")
        end = self._end(row)
        if end == "unfinished":
            return None
        params = self._params(row)
        curve = self._curve(row)
        value = self._value(row, curve, end)
        if value is None and end in {"completed", "stopped"}:
            end = mapping.failure.missing or ""
            if not end:
                raise Bad(f"{mapping.objective.column or 'curve'}: no finite value")
        state, reason = ENDS[end]
        told: dict[str, Any] = {
            "params": params,
            "state": state,
            "reason": reason,
            "value": value if state.succeeded else None,
            "counts_as_failure": state is TrialState.FAILED,
            "curve": curve,
            "epochs": curve[-1][0] if curve else 0.0,
        }
        return told | self._cost(row)

    def _end(self, row: TableRow) -> str:
        column = self._mapping.failure.column
        if column is None:
            return "completed"
        cell = row.cells.get(column)
        word = "" if cells.empty(cell) else _word(cell)
        if word not in self._words:
            raise Bad(f"{column}: {cell!r} is not known to mean any end; say so in failure.words")
        return self._words[word]

    def _params(self, row: TableRow) -> Params:
        found: Params = {}
        for name, param in self._mapping.params.items():
            column = param.column or name
            cell = row.cells.get(column)
            if cells.empty(cell):
                continue
            cells.refuse_comma(cell, column, row.line)
            known = self._space[name] if self._space is not None else None
            found[name] = _param(cell, column, param, known)
        if self._space is not None:
            problem = outside(self._space, found)
            if problem:
                raise Bad(problem)
        if not found:
            raise Bad("no parameter has a value")
        return found

    def _value(self, row: TableRow, curve: list[tuple[float, float]], end: str) -> float | None:
        objective = self._mapping.objective
        if objective.column is None or self._points:
            goal = objective.goal or Goal.MINIMIZE
            reduced = Objective(metric="-", goal=goal, reduce=objective.reduce)
            return reduced.reduced([value for _, value in curve])
        cell = row.cells.get(objective.column)
        return None if cells.empty(cell) else self._measured(cell, objective.column, row, end)

    def _measured(self, cell: Any, column: str, row: TableRow, end: str) -> float | None:
        """Return a value of the objective in its base unit; None when it is not finite. Raises `Bad`."""
        objective = self._mapping.objective
        cells.refuse_comma(cell, column, row.line)
        number = cells.number(cell)
        if number is None:
            if end not in {"completed", "stopped"}:
                return None
            raise Bad(f"{column}: {cell!r} is not a number")
        if not math.isfinite(number):
            return None
        low, high = BOUNDS.get(objective.unit or "", (-math.inf, math.inf))
        low = low if objective.min is None else objective.min
        high = high if objective.max is None else objective.max
        if not low <= number <= high:
            unit = f" ({objective.unit})" if objective.unit else ""
            raise Bad(f"{column}: {number:g} is not in [{low:g}, {high:g}]{unit}")
        return _rounded(number / 100) if objective.unit == "percent" else float(number)

    def _curve(self, row: TableRow) -> list[tuple[float, float]]:
        mapping = self._mapping.curve
        if mapping is None:
            return []
        if mapping.epoch is not None:
            cells.refuse_comma(row.cells.get(mapping.epoch), mapping.epoch, row.line)
            epoch = cells.number(row.cells.get(mapping.epoch))
            if epoch is None or not math.isfinite(epoch):
                raise Bad(f"{mapping.epoch}: {row.cells.get(mapping.epoch)!r} is no epoch")
            told = [(float(epoch), self._mapping.objective.column or "")]
            pairs = [(at, row.cells.get(column), column) for at, column in told]
        elif mapping.column is not None:
            listed = _listed(row.cells.get(mapping.column), mapping.column)
            pairs = [(float(n), item, mapping.column) for n, item in enumerate(listed, 1)]
        else:
            ordered = sorted(mapping.columns.items())
            pairs = [(at, row.cells.get(column), column) for at, column in ordered]
        found = [
            (at, self._measured(item, column, row, "completed"))
            for at, item, column in pairs
            if not cells.empty(item)
        ]
        return [(at, value) for at, value in found if value is not None]

    def _cost(self, row: TableRow) -> dict[str, float]:
        cost = self._mapping.cost
        cell = row.cells.get(cost.column) if cost is not None else None
        if cost is None or cells.empty(cell):
            return {}
        cells.refuse_comma(cell, cost.column, row.line)
        number = cells.number(cell)
        if number is None or not math.isfinite(number) or number < 0:
            raise Bad(f"{cost.column}: {cell!r} is no cost")
        key = {"seconds": "seconds", "cpuSeconds": "cpu_s", "gpuSeconds": "gpu_s"}[cost.unit]
        return {key: number * cost.factor}


def job_name(text: str) -> str:
    """Return a text as the name of a job: on one line, without slashes, which part it from its namespace."""
    plain = "".join(c if c.isprintable() else " " for c in text.replace("/", "-")).strip()
    return plain[:253] or "task"


def outside(space: Space, params: Map[str, Value]) -> str:
    """Say which values lie outside the space; a parameter that a trial lacks is no problem."""
    found = [problem for problem in space.problems(params) if not problem.endswith(": is missing")]
    return "; ".join(found)


def _param(cell: Any, column: str, param: Param, known: Parameter | None) -> Value:
    if isinstance(known, Choice | Const) and param.unit is None:
        return _option(cell, known)
    numeric = param.unit is not None or param.factor != 1 or param.whole
    numeric = numeric or isinstance(known, Float | Int | Ordinal)
    if not numeric:
        value = cells.value(cell)
        assert value is not None
        if isinstance(value, float) and not math.isfinite(value):
            raise Bad(f"{column}: {cell!r} is not finite")
        return value
    number = cells.number(cell)
    if number is None:
        raise Bad(f"{column}: {cell!r} is not a number")
    try:
        value = UNDO[param.unit](number) if param.unit is not None else number
    except OverflowError:
        value = math.inf
    value *= param.factor
    if not math.isfinite(value):
        unit = f" as {param.unit}" if param.unit else ""
        raise Bad(f"{column}: {cell!r} is not finite{unit}")
    if param.unit is not None or param.factor != 1:
        value = _rounded(value)
    if param.whole or float(value).is_integer():
        return round(value)
    return float(value)


def _option(cell: Any, known: Choice | Const) -> Value:
    """Return the option that a cell means; one that is none is told by the space."""
    options = known.options if isinstance(known, Choice) else (known.value,)
    for option in options:
        if isinstance(option, str) and str(cell).strip() == option:
            return option
    value = cells.value(cell)
    assert value is not None
    for option in options:
        if canonical(option) == canonical(value):
            return option
    return value


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _listed(cell: Any, column: str) -> list[Any]:
    if isinstance(cell, str) and cell.strip():
        try:
            cell = json.loads(cell)
        except ValueError:
            raise Bad(f"{column}: is no list in JSON") from None
    if cells.empty(cell):
        return []
    if not isinstance(cell, list):
        raise Bad(f"{column}: is no list")
    return cell


def _goal(cell: Any) -> Goal | None:
    return {"min": Goal.MINIMIZE, "max": Goal.MAXIMIZE}.get(str(cell).strip().lower()[:3])


def _word(cell: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(cell).lower())


def _words(mapping: Mapping) -> dict[str, str]:
    known = {word: end for end, words in WORDS.items() for word in words}
    told = {_word(word): end for end, words in mapping.failure.words.items() for word in words}
    return {**known, **told}
