"""Imports of past tasks into a history, and exports of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from foretune.adapters.exchange import mapping as mappings
from foretune.adapters.exchange.checks import Comparison
from foretune.adapters.exchange.columns import Columns, job_name
from foretune.adapters.exchange.guess import guess
from foretune.adapters.exchange.katib import KatibObjects
from foretune.adapters.exchange.native import (
    CsvWriter,
    JsonlWriter,
    NativeLines,
    NativeTable,
    ParquetWriter,
    export,
    is_native,
    kinds_of,
    write_aside,
)
from foretune.adapters.exchange.optuna import OptunaStorage
from foretune.adapters.exchange.staging import Kind, Row, Staging
from foretune.adapters.exchange.tables import PARQUET, CsvTable, ParquetTable
from foretune.adapters.store.archive import Archive
from foretune.api.space import render_space
from foretune.app.place import place
from foretune.constants import LOCAL_NAMESPACE, Phase
from foretune.domain.exchange import (
    REASON,
    Counts,
    Import,
    PastTask,
    PastTrial,
    SetAside,
    storable,
)
from foretune.domain.history import JobRecord
from foretune.errors import HistoryUnavailableError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from foretune.ports import Clock

CHUNK: Final = 20_000
"""Trials of one transaction: with a task of more there are several, so that no writer waits for long."""

SQLITE: Final = b"SQLite format 3\0"
"""How a SQLite file begins."""

SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".yaml": "katib",
    ".yml": "katib",
    ".json": "katib",
}
"""Format by the end of a file's name, where its first bytes do not tell."""

TABLES: Final = frozenset({"csv", "parquet"})
"""Formats that go with a mapping."""

DATABASE: Final = "FORETUNE_DATABASE_URL"
"""The tracker's own variable: in its container its history is the one that is meant."""


class Reader(Protocol):
    """Reads a file of past tasks."""

    @property
    def unfinished(self) -> int:
        """Trials that were left out since they had not ended."""

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each trial with its task."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be imported, and how."""

    path: Path
    source: str
    """What the file is called in the history."""
    format: str
    mapping: str | None = None
    """Text of the mapping file."""
    mapping_source: str = "mapping"
    namespace: str | None = None
    """None is the export's own, else `local`."""
    as_is: bool = False
    """Take rows that seem to be of another unit, sign or direction."""


@dataclass
class TaskSummary:
    """What became of one task."""

    namespace: str
    name: str
    uid: str
    counts: Counts = field(default_factory=Counts)


@dataclass
class Summary:
    """What became of a file."""

    source: str
    format: str
    sha256: str
    tasks: list[TaskSummary] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """How often each reason set a row aside."""
    first: dict[str, int] = field(default_factory=dict)
    """Line of the first row of each reason."""
    unfinished: int = 0
    notes: list[str] = field(default_factory=list)
    guess: str | None = None
    """The mapping file that was guessed, where none was given."""

    def set_aside(self, row: SetAside) -> None:
        """Count a row that is no trial."""
        self.reasons[row.reason] += 1
        self.first.setdefault(row.reason, row.line)

    @property
    def total(self) -> Counts:
        """Sums over the tasks."""
        total = Counts()
        for task in self.tasks:
            total += task.counts
        return total


def import_file(wanted: Wanted, archive: Archive | None, clock: Clock) -> Summary:
    """Import a file into a history; without one only tell what would get in.

    Raises `InvalidInputError` (or `InvalidJobError`, of a mapping) when the file can't be read; nothing is
    imported then.
    """
    at = clock.now()
    summary = Summary(wanted.source, wanted.format, _sha256(wanted.path))
    reader = _reader(wanted, summary, dry=archive is None)
    if reader is None:
        return summary
    with Staging().opened() as staging:
        staging.fill(reader.rows())
        summary.unfinished = reader.unfinished
        summary.notes += getattr(reader, "notes", [])
        told = json.dumps(
            [summary.sha256, wanted.mapping, wanted.format, wanted.namespace, wanted.as_is]
        )
        imported = Import(
            source=wanted.source,
            format=wanted.format,
            sha256=summary.sha256,
            at=at,
            digest=hashlib.sha256(told.encode()).hexdigest(),
        )
        into = None
        if archive is not None and staging.tasks:
            into = (archive, archive.begin(imported))
        for key, task in staging.tasks.items():
            one = _Task(key, task, staging, as_is=wanted.as_is or isinstance(reader, NATIVE))
            target = wanted.namespace or task.namespace or LOCAL_NAMESPACE
            _import_task(one, target, imported, summary, into)
    return summary


NATIVE: Final = (NativeTable, NativeLines)
"""Readers of our own exports, whose rows were compared when they first got in."""


# --------------------------------------------------------------------- reading
def format_of(path: Path, given: str | None) -> str:
    """Return the format of a file: the given one, what its first bytes tell, or the end of its name."""
    try:
        with path.open("rb") as file:
            start = file.read(len(SQLITE))
    except OSError as error:
        raise InvalidInputError(f"{path}: can't be read: {error.strerror}") from None
    if given is not None:
        return given
    if start.startswith(PARQUET):
        return "parquet"
    if start == SQLITE:
        return "optuna"
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise InvalidInputError(
            f"{path}: say its --format: csv, parquet, jsonl, optuna or katib"
        ) from None


@contextlib.contextmanager
def standard_input() -> Iterator[Path]:
    """Yield a file with all of standard input, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="foretune-stdin-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _reader(wanted: Wanted, summary: Summary, *, dry: bool) -> Reader | None:
    """Return the reader of a file; None for a dry run of a table that no mapping can be guessed for."""
    if wanted.format in TABLES:
        return _table_reader(wanted, summary, dry=dry)
    if wanted.mapping is not None:
        raise InvalidInputError(f"--mapping: goes with csv and parquet, not with {wanted.format}")
    if wanted.format == "optuna":
        return OptunaStorage(wanted.path)
    return KatibObjects(wanted.path) if wanted.format == "katib" else NativeLines(wanted.path)


def _table_reader(wanted: Wanted, summary: Summary, *, dry: bool) -> Reader | None:
    table: CsvTable | ParquetTable
    given = None
    if wanted.mapping is not None:
        given = mappings.load(wanted.mapping, wanted.mapping_source)
    if wanted.format == "parquet":
        table = ParquetTable(wanted.path)
    else:
        table = CsvTable(wanted.path, separator=given.separator if given else None)
    if given is None and is_native(table.columns):
        return NativeTable(table)
    if given is None:
        guessed = guess(table)
        summary.guess = guessed.printed()
        if guessed.doubts and dry:
            return None
        if guessed.doubts:
            doubts = "; ".join(guessed.doubts)
            raise InvalidInputError(
                f"{doubts}; write a mapping: --dry-run prints one to begin with"
            )
        given = guessed.mapping
    given.check(table.columns, wanted.mapping_source)
    return Columns(table, given, name=job_name(Path(wanted.source).stem))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------- writing
class _Task:
    """The rows of one task, compared with each other."""

    def __init__(self, key: str, task: PastTask, staging: Staging, *, as_is: bool) -> None:
        self.task = task
        self._key = key
        self._staging = staging
        comparison, objective = Comparison(), task.objective
        self.good, self.begun = 0, task.created_at
        for row in self._rows():
            if not row.problem:
                comparison.see(row.params, row.value)
                self.good += 1
                if self.begun is None:
                    self.begun = row.created_at
        self._against = "" if as_is else comparison.against(objective.metric, objective.goal)
        self._misplaced: Mapping[int, str] = {}
        if not as_is and not self._against:
            self._misplaced = comparison.misplaced(objective.metric, objective.goal)
        if self._against:
            self.good = 0

    def judged(self) -> Iterator[PastTrial | SetAside]:
        """Yield what each row is."""
        place = -1
        for row in self._rows():
            place += not row.problem
            reason = row.problem or self._against or self._misplaced.get(place) or _unkept(row)
            if reason:
                yield SetAside(task=self.task.name, line=row.line, row=row.raw, reason=reason)
            else:
                told = {name: getattr(row, name) for name in _SAME}
                told |= {"key": storable(row.key), "message": storable(row.message)}
                yield PastTrial(**told, curve=tuple(row.curve))

    def _rows(self) -> Iterator[Row]:
        for row in self._staging.rows(self._key):
            if row.kind is Kind.POINT and row.state.succeeded and not row.problem:
                values = [value for _, value in row.curve]
                last = row.curve[-1][0]
                yield replace(row, value=self.task.objective.reduced(values), epochs=last)
            else:
                yield row


def _unkept(row: Row) -> str:
    """Say which text no database can keep, or return an empty text."""
    for name, value in row.params.items():
        if isinstance(value, str) and storable(value) != value:
            return f"{name}: {value!r} holds a character that can't be kept"
    return ""


_SAME: Final = (
    *("key", "line", "params", "state", "reason", "value", "value_sd", "message", "epochs"),
    *(
        "counts_as_failure",
        "proposer",
        "gpu_s",
        "cpu_s",
        "seconds",
        "created_at",
        "ended_at",
        "raw",
    ),
)
"""Fields that a trial has of its row."""


def _import_task(
    one: _Task,
    namespace: str,
    imported: Import,
    summary: Summary,
    into: tuple[Archive, int] | None,
) -> None:
    task = one.task
    uid = task.uid_in(namespace)
    if into is not None and task.uid and namespace == task.namespace:
        # An export that comes back to where it was made says nothing new.
        uid = task.uid if into[0].job(task.uid) is not None else uid
    job = _job(one, uid, namespace, imported)
    told = TaskSummary(namespace, task.name, uid)
    summary.tasks.append(told)
    rows = _counted(one.judged(), summary)
    if into is None:
        kinds = Counter(type(row) for row in rows)
        told.counts = Counts(added=kinds[PastTrial], set_aside=kinds[SetAside])
        return
    archive, number = into
    if not one.good:
        told.counts = archive.keep(number, (row for row in rows if isinstance(row, SetAside)))
    else:
        while (first := next(rows, None)) is not None:
            chunk = chain([first], islice(rows, CHUNK - 1))
            told.counts += archive.add(
                number, job, chunk, at=imported.at, refused=summary.set_aside
            )


def _counted(
    rows: Iterable[PastTrial | SetAside], summary: Summary
) -> Iterator[PastTrial | SetAside]:
    for row in rows:
        if isinstance(row, SetAside):
            summary.set_aside(row)
        yield row


def _job(one: _Task, uid: str, namespace: str, imported: Import) -> JobRecord:
    task = one.task
    objective: dict[str, Any] = {
        "metric": task.objective.metric,
        "goal": task.objective.goal.value,
        "reduce": task.objective.reduce.value,
    }
    if task.objective.target is not None:
        objective["target"] = task.objective.target
    manifest: dict[str, Any] = {
        "objective": objective,
        "imported": {
            "source": imported.source,
            "format": imported.format,
            "sha256": imported.sha256,
            "at": imported.at,
        },
    }
    if task.space is not None:
        manifest["space"] = render_space(task.space)
    if task.sharing:
        manifest["history"] = dict(task.sharing)
    return JobRecord(
        uid=uid,
        namespace=namespace,
        name=task.name,
        manifest=manifest,
        objective=task.objective,
        context=storable(dict(task.context)),
        created_at=imported.at if one.begun is None else one.begun,
        closed_at=imported.at,
        phase=Phase.COMPLETE.value,
        reason=REASON,
        message=f"imported from {imported.source}",
    )


# ------------------------------------------------------------------- histories
def history_url(given: str | None, environ: Mapping[str, str]) -> str:
    """Return where the history is: as given, in a tracker's container its own, else the user's."""
    chosen = given or environ.get(DATABASE)
    if chosen is not None and "://" in chosen:
        return chosen
    return str(place(chosen, environ).history)


@contextlib.contextmanager
def open_archive(url: str, *, read_only: bool = False) -> Iterator[Archive]:
    """Yield an archive whose schema is that of this version.

    Raises `InvalidInputError` for a file that is no history, `NotFoundError` when one that shall only be
    read is not there.
    """
    archive = Archive(url, read_only=read_only)
    try:
        try:
            archive.migrate()
        except HistoryUnavailableError as error:
            if "://" in url:
                raise
            raise InvalidInputError(f"--history: {url}: {error}") from error
        yield archive
    finally:
        archive.close()


def chosen_jobs(archive: Archive, names: Sequence[str]) -> list[JobRecord]:
    """Return the jobs of these names (or namespace/name); all without any. Raises `NotFoundError`."""
    if not names:
        return list(archive.jobs())
    found: dict[str, JobRecord] = {}
    for name in names:
        namespace, _, short = name.rpartition("/")
        matching = archive.jobs(namespace=namespace or None, name=short)
        if not matching:
            raise NotFoundError(f"there is no job {name!r} in the history")
        found |= {job.uid: job for job in matching}
    return list(found.values())


def export_jobs(archive: Archive, jobs: Sequence[JobRecord], form: str, out: Path | None) -> int:
    """Write the ended trials of jobs to a file, or to standard output; return how many there were.

    A file is replaced as a whole, once it is complete. Raises `InvalidInputError` when it can't be written.
    """
    kinds: dict[str, set[type]] = {}
    if form != "jsonl":
        for job in jobs:
            for params in archive.configurations(job):
                kinds_of(kinds, params)
    if form == "parquet":
        if out is None:
            raise InvalidInputError("--out: is required with --format parquet")
        with _replaced(out) as path:
            types = {name: frozenset(found) for name, found in kinds.items()}
            return export(ParquetWriter(path, types), jobs, archive.past)
    with _text(out) as file:
        writer = CsvWriter(file, kinds) if form == "csv" else JsonlWriter(file)
        return export(writer, jobs, archive.past)


def export_aside(archive: Archive, form: str, out: Path | None) -> int:
    """Write the rows that were set aside, as they stood, each with its reason; return how many."""
    if form == "parquet":
        raise InvalidInputError("--set-aside: goes with --format csv or jsonl")
    with _text(out) as file:
        return write_aside(file, archive.set_aside, form=form)


@contextlib.contextmanager
def _text(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    with _replaced(out) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(out)
    except OSError as error:
        raise InvalidInputError(f"--out: {out}: can't be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
