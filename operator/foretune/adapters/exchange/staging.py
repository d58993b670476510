"""Rows of a file brought together by task on disk, so that memory holds a batch of them, whatever their order.

The file is read once. Rows of one trial (of the long form of curves, one an epoch) are put together here.
"""

from __future__ import annotations

import contextlib
import enum
import json
import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.domain.exchange import PROPOSER, PastTask
from foretune.domain.space import Params
from foretune.domain.trial import EndReason, TrialState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


BATCH: Final = 1000
"""Rows written at once."""

_MAKE: Final = """
CREATE TABLE rows (task TEXT NOT NULL, trial TEXT NOT NULL, line INTEGER NOT NULL, body TEXT NOT NULL)
"""


class Kind(enum.StrEnum):
    """What rows of one key are to each other."""

    WHOLE = "whole"
    """The key is of all that the row says: equal rows are trials that were run again."""
    NAMED = "named"
    """The key is the trial's name: an equal row is the same trial, another one is a mistake."""
    POINT = "point"
    """Each row is one point of the trial's curve."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one row of a file says, before it is compared with others of its task."""

    task: str
    """Key of its task among those of the file."""
    key: str
    """Rows of one key are one trial, or the same trial again."""
    line: int
    raw: dict[str, Any]
    kind: Kind = Kind.NAMED
    problem: str = ""
    """Why it is no trial, if it is none."""
    params: Params = field(default_factory=dict)
    state: TrialState = TrialState.COMPLETED
    reason: EndReason | None = EndReason.DONE
    value: float | None = None
    value_sd: float = 0.0
    message: str = ""
    counts_as_failure: bool = False
    proposer: str = PROPOSER
    curve: list[tuple[float, float]] = field(default_factory=list)
    epochs: float = 0.0
    gpu_s: float | None = None
    cpu_s: float | None = None
    seconds: float | None = None
    created_at: float | None = None
    ended_at: float | None = None


class Staging:
    """Rows on disk, in a folder that ends with the block."""

    def __init__(self) -> None:
        """Begin without rows; `opened` makes the file."""
        self.tasks: dict[str, PastTask] = {}
        """Every task, in the order of its first row."""
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Staging]:
        """Keep the rows while the block runs."""
        with tempfile.TemporaryDirectory(prefix="foretune-import-") as folder:
            connection = sqlite3.connect(Path(folder) / "rows.db", isolation_level=None)
            try:
                # Nothing of it outlives the block: no need to sync, or to be able to roll back.
                connection.execute("PRAGMA journal_mode=OFF")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_MAKE)
                connection.execute("BEGIN")
                self._connection = connection
                yield self
            finally:
                self._connection = None
                connection.close()

    def fill(self, rows: Iterable[tuple[PastTask, Row]]) -> int:
        """Take rows with their tasks, of which the first of a key counts; return how many there were."""
        assert self._connection is not None
        waiting: list[tuple[str, str, int, str]] = []
        count = 0
        for task, row in rows:
            self.tasks.setdefault(row.task, task)
            body = _encoder.encode(row.__dict__)
            waiting.append((row.task, row.key, row.line, body))
            count += 1
            if len(waiting) == BATCH:
                self._write(waiting)
                waiting = []
        self._write(waiting)
        self._connection.execute("CREATE INDEX by_task ON rows (task, trial)")
        return count

    def rows(self, task: str) -> Iterator[Row]:
        """Yield what the rows of a task say, in the order of the file: one for each trial or bad row."""
        assert self._connection is not None
        # The first line of its trial places a row: curves in the long form may be interleaved.
        found = self._connection.execute(
            "SELECT body, trial FROM (SELECT body, trial, line, min(line) OVER (PARTITION BY trial) AS first"
            " FROM rows WHERE task = ?) ORDER BY first, trial, line",
            (task,),
        )
        for _, group in groupby(found, key=lambda row: row[1]):
            yield from _joined([_row(body) for body, _ in group])

    def _write(self, rows: list[tuple[str, str, int, str]]) -> None:
        assert self._connection is not None
        self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)


def _joined(rows: list[Row]) -> Iterator[Row]:
    """Yield what rows of one key amount to."""
    first = rows[0]
    if first.kind is Kind.WHOLE:
        for again, row in enumerate(rows):
            yield replace(row, key=f"{row.key}.{again}") if again else row
    elif first.kind is Kind.NAMED:
        yield first
        for row in rows[1:]:
            if row.raw != first.raw:
                reason = f"the trial {row.key!r} stands there twice, first in line {first.line}"
                yield replace(row, problem=reason)
    else:
        good = [row for row in rows if not row.problem]
        points = dict(point for row in good for point in row.curve)
        if good:
            curve = sorted(points.items())
            # How the trial ended stands in its last row.
            yield replace(good[-1], line=first.line, params=good[0].params, curve=curve)
        yield from (row for row in rows if row.problem)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a cell of a Parquet file: dates and the like as text."""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_encoder: Final = json.JSONEncoder(default=_plain, check_circular=False)


def _row(body: str) -> Row:
    told = json.loads(body)
    told["state"] = TrialState(told["state"])
    told["reason"] = EndReason(told["reason"]) if told["reason"] else None
    told["kind"] = Kind(told["kind"])
    told["curve"] = [(epoch, value) for epoch, value in told["curve"]]
    return Row(**told)
