"""Foretune's own tables of past tasks: what an export writes, an import reads back as the same tasks.

One row a trial. What is of the whole job (space, context) stands in its first row only.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from foretune.adapters.exchange import cells
from foretune.adapters.exchange.columns import job_name, outside
from foretune.adapters.exchange.staging import Row
from foretune.adapters.exchange.tables import ParquetTable
from foretune.api.space import parse_space
from foretune.domain.exchange import PastTask
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from foretune.adapters.exchange.tables import Table
    from foretune.domain.exchange import PastTrial, SetAside
    from foretune.domain.history import JobRecord
    from foretune.domain.space import Params, Space

JOB: Final = (
    *("namespace", "name", "uid", "metric", "goal", "reduce"),
    *("target", "space", "context", "sharing", "job_created"),
)
"""Columns of a job; from `target` on in its first row only."""

TRIAL: Final = (
    *("key", "state", "reason", "value", "value_sd", "epochs", "curve"),
    *("gpu_seconds", "cpu_seconds", "seconds", "proposer"),
    *("counts_as_failure", "created", "ended", "message"),
)
"""Columns of a trial, besides its parameters."""

PARAM: Final = "params."
"""What stands before a parameter's name in the head."""

BATCH: Final = 1000
"""Rows of one group of a Parquet file."""

WHOLE_LIMIT: Final = 2**53
"""Whole numbers up to here are the same as a column of floats."""


def is_native(columns: Sequence[str]) -> bool:
    """Whether a table is an export of Foretune."""
    return {*JOB, *TRIAL} <= set(columns)


# ------------------------------------------------------------------------- out
class Writer(Protocol):
    """Takes rows of an export."""

    def row(self, told: Mapping[str, Any]) -> None:
        """Write one row: JSON's values by column."""

    def close(self) -> None:
        """Write what is left."""


def export(
    writer: Writer, jobs: Iterable[JobRecord], past: Callable[[JobRecord], Iterator[PastTrial]]
) -> int:
    """Write every ended trial of the jobs; return how many there were."""
    count = 0
    for job in jobs:
        head = _job(job)
        for trial in past(job):
            writer.row({**head, **_trial(trial)})
            head = {name: head[name] for name in JOB[: JOB.index("target")]}
            count += 1
    writer.close()
    return count


def _job(job: JobRecord) -> dict[str, Any]:
    objective = job.objective
    return {
        "namespace": job.namespace,
        "name": job.name,
        "uid": job.uid,
        "metric": objective.metric,
        "goal": objective.goal.value,
        "reduce": objective.reduce.value,
        "target": objective.target,
        "space": job.manifest.get("space"),
        "context": dict(job.context) or None,
        "sharing": job.manifest.get("history") or None,
        "job_created": job.created_at,
    }


def _trial(trial: PastTrial) -> dict[str, Any]:
    return {
        "key": trial.key,
        "state": trial.state.value,
        "reason": trial.reason.value if trial.reason is not None else None,
        "value": trial.value,
        "value_sd": trial.value_sd or None,
        "epochs": trial.epochs or None,
        "curve": [list(point) for point in trial.curve] or None,
        "gpu_seconds": trial.gpu_s,
        "cpu_seconds": trial.cpu_s,
        "seconds": trial.seconds,
        "proposer": trial.proposer,
        "counts_as_failure": trial.counts_as_failure or None,
        "created": trial.created_at,
        "ended": trial.ended_at,
        "message": trial.message or None,
        "params": trial.params,
    }


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as cells: parameters by column, lists and mappings as JSON."""
    flat = {
        name: json.dumps(item, sort_keys=name != "space") if isinstance(item, list | dict) else item
        for name, item in told.items()
        if name != "params"
    }
    return flat | {f"{PARAM}{name}": item for name, item in told["params"].items()}


class CsvWriter:
    """Rows as CSV in UTF-8; no text in it is a formula to a spreadsheet."""

    def __init__(self, file: IO[str], params: Iterable[str]) -> None:
        """Write the head."""
        columns = [*JOB, *TRIAL, *(f"{PARAM}{name}" for name in params)]
        self._writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        self._writer.writerow({name: cells.bare(name) for name in columns})

    def row(self, told: Mapping[str, Any]) -> None:
        """Write one row."""
        self._writer.writerow(
            {
                # JSON in a cell begins with a bracket, and stands as it is.
                name: item if name in _JSON and item is not None else cells.written(item)
                for name, item in _flat(told).items()
            }
        )

    def close(self) -> None:
        """Do nothing: the file is the caller's."""


_JSON: Final = frozenset({"space", "context", "sharing", "curve"})


class JsonlWriter:
    """Rows as objects, one a line."""

    def __init__(self, file: IO[str]) -> None:
        """Take the file."""
        self._file = file

    def row(self, told: Mapping[str, Any]) -> None:
        """Write one row."""
        kept = {name: item for name, item in told.items() if item is not None}
        self._file.write(json.dumps(kept, allow_nan=False, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Do nothing: the file is the caller's."""


class ParquetWriter:
    """Rows as Parquet; a parameter that is a number everywhere has a column of numbers."""

    def __init__(self, path: Path, params: Mapping[str, frozenset[type]]) -> None:
        """Take the file, and the types that each parameter has."""
        import pyarrow as pa  # noqa: PLC0415 - an extra, and heavy
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        self._pa = pa
        self._types = {
            **{name: pa.string() for name in (*JOB, *TRIAL)},
            **{name: pa.float64() for name in _FLOATS},
            "counts_as_failure": pa.bool_(),
            **{f"{PARAM}{name}": self._type(kinds) for name, kinds in params.items()},
        }
        self._schema = pa.schema(list(self._types.items()))
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def row(self, told: Mapping[str, Any]) -> None:
        """Write one row."""
        text = self._pa.string()
        self._rows.append(
            {
                name: cells.written(item)
                if name.startswith(PARAM) and self._types[name] == text
                else item
                for name, item in _flat(told).items()
            }
        )
        if len(self._rows) == BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _type(self, kinds: frozenset[type]) -> Any:
        if kinds == {bool}:
            return self._pa.bool_()
        if kinds == {int}:
            return self._pa.int64()
        return self._pa.float64() if kinds <= {int, float} else self._pa.string()


_FLOATS: Final = (
    *("target", "job_created", "value", "value_sd", "epochs", "gpu_seconds", "cpu_seconds"),
    *("seconds", "created", "ended"),
)


def kinds_of(found: dict[str, set[type]], params: Params) -> None:
    """Add the types of a configuration's values to those found before."""
    for name, value in params.items():
        kind = type(value)
        # Beyond 64 bits no column of numbers holds it.
        huge = kind is int and abs(int(value)) > WHOLE_LIMIT
        found.setdefault(name, set()).add(str if huge else kind)


def write_aside(
    file: IO[str], rows: Callable[[], Iterable[tuple[str, SetAside]]], *, form: str
) -> int:
    """Write rows that were set aside as CSV or JSON lines, each with its reason; return how many.

    `rows` is called twice for CSV, whose head comes first.
    """
    count = 0
    if form == "jsonl":
        for source, one in rows():
            told = {"source": source, "line": one.line, "task": one.task, "reason": one.reason}
            file.write(json.dumps({**told, "row": one.row}) + "\n")
            count += 1
        return count
    names = dict.fromkeys(name for _, one in rows() for name in one.row)
    columns = ["aside.source", "aside.row", "aside.task", "aside.reason", *names]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([cells.bare(name) for name in columns])
    for source, one in rows():
        head = (source, one.line, one.task, one.reason)
        writer.writerow([cells.bare(item) for item in (*head, *(one.row.get(n) for n in names))])
        count += 1
    return count


# -------------------------------------------------------------------------- in
class NativeTable:
    """The reader of an export in a table."""

    unfinished = 0

    def __init__(self, table: Table) -> None:
        """Take a table whose columns `is_native` knows."""
        self._table = table
        self._tasks: dict[str, PastTask] = {}

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each trial with its task."""
        params = [name for name in self._table.columns if name.startswith(PARAM)]
        typed = isinstance(self._table, ParquetTable)
        for row in self._table.rows():
            told: dict[str, Any] = {}
            problem = row.problem
            try:
                for name in (*JOB, *TRIAL):
                    cell = row.cells.get(name)
                    if name in _JSON and isinstance(cell, str) and cell:
                        told[name] = json.loads(cell)
                    elif typed:  # a text is a text there, whatever it reads like
                        told[name] = None if cells.empty(cell) else cell
                    else:
                        told[name] = cells.read(cell)
                found = {
                    name.removeprefix(PARAM): cells.read(row.cells.get(name)) for name in params
                }
                told["params"] = {name: item for name, item in found.items() if item is not None}
            except ValueError as error:
                problem = problem or f"a cell can't be read: {error}"
            yield _row(self._tasks, told, row.line, row.cells, problem)


class NativeLines:
    """The reader of an export in JSON lines."""

    unfinished = 0

    def __init__(self, path: Path) -> None:
        """Take a file."""
        self._path = path
        self._tasks: dict[str, PastTask] = {}

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each trial with its task; raises `InvalidInputError` for what is no line of an export."""
        with self._path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    told = json.loads(text)
                except ValueError:
                    told = None
                if not isinstance(told, dict) or not isinstance(told.get("params", {}), dict):
                    raise InvalidInputError(f"{self._path}: line {line} is no trial of an export")
                yield _row(self._tasks, told, line, told, "")


@dataclass(frozen=True)
class _Told:
    """What a row tells, by column, with what was expected there."""

    told: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        value = self.told.get(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name}: {value!r} is no finite number")
        return float(value)

    def text(self, name: str) -> str:
        value = self.told.get(name)
        return "" if value is None else str(value)


def _row(
    tasks: dict[str, PastTask], told: Mapping[str, Any], line: int, raw: Any, problem: str
) -> tuple[PastTask, Row]:
    one = _Told(told)
    uid = one.text("uid")
    try:
        if uid not in tasks:
            tasks[uid] = _task(one, uid)
        row = _read_trial(one, tasks[uid].space)
    except (ValueError, TypeError) as error:
        problem, row = problem or str(error), {}
    task = tasks.get(uid) or PastTask(
        name=job_name(one.text("name")), objective=Objective(metric="-"), uid=uid
    )
    if not row.get("params"):
        problem = problem or "no parameter has a value"
    key = one.text("key") or str(line)
    return task, Row(task=uid, key=key, line=line, raw=dict(raw), problem=problem, **row)


def _task(one: _Told, uid: str) -> PastTask:
    space, context = one.told.get("space"), one.told.get("context") or {}
    return PastTask(
        name=job_name(one.text("name")),
        namespace=one.text("namespace") or None,
        uid=uid,
        objective=Objective(
            metric=one.text("metric"),
            goal=Goal(one.text("goal")),
            reduce=Reduce(one.text("reduce")),
            target=one.number("target"),
        ),
        space=parse_space(space, "space") if space is not None else None,
        context={str(name): str(item) for name, item in context.items()},
        sharing=dict(one.told.get("sharing") or {}),
        created_at=one.number("job_created"),
    )


def _read_trial(one: _Told, space: Space | None) -> dict[str, Any]:
    state = TrialState(one.text("state"))
    if not state.terminal:
        raise ValueError(f"state: {state} is no end")
    params: dict[str, Any] = dict(one.told.get("params") or {})
    for name, item in params.items():
        finite = isinstance(item, str) or (isinstance(item, int | float) and math.isfinite(item))
        if not finite:
            raise ValueError(f"params.{name}: {item!r} is no value")
    problem = outside(space, params) if space is not None else ""
    if problem:
        raise ValueError(problem)
    curve = [(float(epoch), float(value)) for epoch, value in one.told.get("curve") or ()]
    return {
        "params": params,
        "state": state,
        "reason": EndReason(one.text("reason")) if one.told.get("reason") else None,
        "value": one.number("value"),
        "value_sd": one.number("value_sd") or 0.0,
        "epochs": one.number("epochs") or 0.0,
        "curve": curve,
        "gpu_s": one.number("gpu_seconds"),
        "cpu_s": one.number("cpu_seconds"),
        "seconds": one.number("seconds"),
        "proposer": one.text("proposer"),
        "counts_as_failure": bool(one.told.get("counts_as_failure")),
        "created_at": one.number("created"),
        "ended_at": one.number("ended"),
        "message": one.text("message"),
    }
