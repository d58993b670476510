"""Optuna's RDB storage in a SQLite file, read by its tables: no Optuna is needed, and nothing is unpickled.

Schema of Optuna 3 to 5: `studies`, `study_directions`, `trials`, `trial_values`, `trial_params` (with the
distribution of each as JSON), `trial_intermediate_values`, and attributes as JSON.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from foretune.adapters.exchange.columns import job_name
from foretune.adapters.exchange.staging import Row
from foretune.api.space import parse_space, render_space
from foretune.domain.exchange import PastTask
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.space import Choice, Const, Float, Int, Scale, Space
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from foretune.domain.space import Parameter, Params, Value

BATCH: Final = 500
"""Trials read at once."""

METRIC_NAMES: Final = "study:metric_names"
"""System attribute with the names of the objectives."""

NEEDED: Final = {
    "studies": ("study_id", "study_name"),
    "study_directions": ("study_id", "direction", "objective"),
    "trials": ("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    "trial_values": ("trial_id", "objective", "value", "value_type"),
    "trial_params": ("trial_id", "param_name", "param_value", "distribution_json"),
    "trial_intermediate_values": ("trial_id", "step", "intermediate_value"),
}
"""Columns read; a storage of before Optuna 3 lacks some."""

ENDS: Final = {
    "COMPLETE": (TrialState.COMPLETED, EndReason.DONE),
    "PRUNED": (TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE),
    "FAIL": (TrialState.FAILED, EndReason.ERROR),
}
"""States of a trial that has ended."""

LOGARITHMIC: Final = frozenset({"LogUniformDistribution", "IntLogUniformDistribution"})
"""Distributions of Optuna 2 whose name tells their scale."""


class OptunaStorage:
    """The reader of a storage."""

    def __init__(self, path: Path) -> None:
        """Take a file; raises `InvalidInputError` when it is no storage, or an old one."""
        self._path = path
        self.unfinished = 0
        """Trials that run or wait: they are left for the next import."""
        self.notes: list[str] = []
        """What was not taken over as it stands."""
        with closing(self._connect()) as connection:
            self._check(connection)

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each ended trial with its study."""
        with closing(self._connect()) as connection:
            query = "SELECT study_id, study_name FROM studies ORDER BY study_id"
            for study, name in connection.execute(query).fetchall():
                yield from self._study(connection, study, name)

    # ------------------------------------------------------------------- parts
    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)

    def _check(self, connection: sqlite3.Connection) -> None:
        try:
            has = {
                table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                for table in NEEDED
            }
        except sqlite3.DatabaseError as error:
            raise InvalidInputError(f"{self._path}: is no SQLite database: {error}") from None
        if not has["studies"]:
            raise InvalidInputError(f"{self._path}: is no storage of Optuna: it has no studies")
        lacks = [
            f"{table}.{column}"
            for table, columns in NEEDED.items()
            for column in columns
            if column not in has[table]
        ]
        if lacks:
            hint = "bring it up to date: optuna storage upgrade --storage sqlite:///FILE"
            raise InvalidInputError(f"{self._path}: has no {lacks[0]}, as of an old Optuna; {hint}")

    def _study(
        self, connection: sqlite3.Connection, study: int, name: str
    ) -> Iterator[tuple[PastTask, Row]]:
        task = self._task(connection, study, name)
        query = "SELECT count(*) FROM trials WHERE study_id = ? AND state NOT IN (?, ?, ?)"
        self.unfinished += connection.execute(query, (study, *ENDS)).fetchone()[0]
        query = (
            "SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials "
            "WHERE study_id = ? AND state IN (?, ?, ?) ORDER BY number"
        )
        ended = connection.execute(query, (study, *ENDS))
        while batch := ended.fetchmany(BATCH):
            ids = [row[0] for row in batch]
            values = {t: row for t, *row in self._of(connection, _VALUES, ids)}
            params: dict[int, list[tuple[str, float, str]]] = defaultdict(list)
            for trial, *param in self._of(connection, _PARAMS, ids):
                params[trial].append(tuple(param))
            curves: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for trial, step, value in self._of(connection, _CURVES, ids):
                if value is not None and math.isfinite(value):
                    curves[trial].append((float(step), value))
            for trial, number, state, start, end in batch:
                told = values.get(trial, (None, "FINITE"))
                times = (_stamp(start), _stamp(end))
                row = _trial(
                    (task.name, number),
                    state,
                    told=told,
                    params=params[trial],
                    curve=curves[trial],
                    times=times,
                )
                yield task, row

    @staticmethod
    def _of(
        connection: sqlite3.Connection, query: str, ids: Sequence[int]
    ) -> Iterator[tuple[Any, ...]]:
        return iter(connection.execute(query.format(", ".join("?" * len(ids))), ids).fetchall())

    def _task(self, connection: sqlite3.Connection, study: int, name: str) -> PastTask:
        query = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
        directions = [row[0] for row in connection.execute(query, (study,))]
        if len(directions) > 1:
            self.notes.append(
                f"study {name!r} has {len(directions)} objectives: the first one is taken"
            )
        metric = "value"
        for key, text in self._attributes(connection, "study_system_attributes", study):
            names = json.loads(text) if key == METRIC_NAMES else None
            if names:
                metric = str(names[0])
        context = {
            key: str(json.loads(text))
            for key, text in self._attributes(connection, "study_user_attributes", study)
            if not isinstance(json.loads(text), list | dict | None)
        }
        goal = Goal.MAXIMIZE if directions[:1] == ["MAXIMIZE"] else Goal.MINIMIZE
        return PastTask(
            name=job_name(name),
            objective=Objective(metric=metric, goal=goal, reduce=Reduce.LAST),
            space=self._space(connection, study, name),
            context=context,
        )

    @staticmethod
    def _attributes(
        connection: sqlite3.Connection, table: str, study: int
    ) -> list[tuple[str, str]]:
        query = f'SELECT "key", value_json FROM {table} WHERE study_id = ? ORDER BY "key"'  # noqa: S608 - a name of ours
        return connection.execute(query, (study,)).fetchall()

    def _space(self, connection: sqlite3.Connection, study: int, name: str) -> Space | None:
        """Return the smallest space that holds all distributions of a study."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for param, text in connection.execute(_DISTRIBUTIONS, (study,)):
            found[param].append(json.loads(text))
        if not found:
            return None
        try:
            space = Space(tuple(_parameter(*one) for one in found.items()))
            return parse_space(render_space(space), "space")
        except InvalidInputError as error:
            first = str(error).partition("\n")[0]
            self.notes.append(f"study {name!r}: its space is not kept: {first}")
            return None


_VALUES: Final = (
    "SELECT trial_id, value, value_type FROM trial_values WHERE objective = 0 AND trial_id IN ({})"
)
_PARAMS: Final = (
    "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params "
    "WHERE trial_id IN ({}) ORDER BY param_id"
)
_CURVES: Final = (
    "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values "
    "WHERE trial_id IN ({}) ORDER BY step"
)
_DISTRIBUTIONS: Final = (
    "SELECT param_name, distribution_json FROM trial_params JOIN trials USING (trial_id) "
    "WHERE study_id = ? GROUP BY param_name, distribution_json ORDER BY min(param_id)"
)


def _trial(
    name: tuple[str, int],
    state: str,
    *,
    told: Sequence[Any],
    params: list[tuple[str, float, str]],
    curve: list[tuple[float, float]],
    times: tuple[float | None, float | None],
) -> Row:
    value, kind = told
    configuration: Params = {key: _value(number, json.loads(text)) for key, number, text in params}
    ended, reason = ENDS[state]
    if state == "PRUNED" and value is None and curve:
        value = curve[-1][1]
    problem = ""
    if state == "COMPLETE" and (value is None or kind != "FINITE" or not math.isfinite(value)):
        problem, value = "value: no finite value", None
    elif not configuration:
        problem = "no parameter has a value"
    start, end = times
    return Row(
        task=name[0],
        key=str(name[1]),
        line=name[1],
        raw={"number": name[1], "state": state, "value": value, "params": dict(configuration)},
        problem=problem,
        params=configuration,
        state=ended,
        reason=reason,
        value=value if ended.succeeded else None,
        counts_as_failure=ended is TrialState.FAILED,
        curve=curve,
        epochs=curve[-1][0] if curve else 0.0,
        seconds=max(0.0, end - start) if start is not None and end is not None else None,
        created_at=start,
        ended_at=end,
    )


def _stamp(text: str | None) -> float | None:
    """Return Unix seconds of a time, which Optuna writes in the time zone of the machine."""
    return datetime.fromisoformat(text).timestamp() if text is not None else None


def _value(number: float, distribution: dict[str, Any]) -> Value:
    """Return a parameter's value: numbers stand as they are, a choice by its position."""
    if "choices" in distribution["attributes"]:
        return _option(distribution["attributes"]["choices"][int(number)])
    return round(number) if distribution["name"].startswith("Int") else number


def _option(choice: Any) -> Value:
    return choice if isinstance(choice, str | int | float | bool) else json.dumps(choice)


def _parameter(name: str, distributions: list[dict[str, Any]]) -> Parameter:
    kinds = [distribution["name"] for distribution in distributions]
    told = [distribution["attributes"] for distribution in distributions]
    if "choices" in told[0]:
        every = [_option(choice) for one in told for choice in one.get("choices", ())]
        return Choice(name=name, options=tuple(dict.fromkeys(every)))
    low, high = min(one["low"] for one in told), max(one["high"] for one in told)
    if low == high:
        return Const(name=name, value=low)
    logs = [one.get("log", kind in LOGARITHMIC) for one, kind in zip(told, kinds, strict=True)]
    scale = Scale.LOG if all(logs) else Scale.LINEAR
    steps = {one.get("step", one.get("q")) for one in told}
    step = steps.pop() if len(steps) == 1 and len(distributions) == 1 else None
    if kinds[0].startswith("Int"):
        return Int(name=name, low=low, high=high, scale=scale, step=step or 1)
    return Float(name=name, low=low, high=high, scale=scale, step=step)
