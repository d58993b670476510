"""The history under several threads and processes, under kill -9, and when its database is not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Engine
from tests.support.histories import a_batch, a_job, a_proposal, an_attempt, epochs, running_trial

from foretune.adapters.store import SqlHistory
from foretune.adapters.store import engine as engines
from foretune.errors import HistoryUnavailableError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WORKERS = 3


def start(url: str, what: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that writes to the history; see `tests.support.history_writer`."""
    command = [sys.executable, "-m", "tests.support.history_writer", url, what]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(processes: list[subprocess.Popen[str]]) -> list[list[str]]:
    """Return the lines that each process printed; all must have ended well."""
    ends = [process.communicate(timeout=120) for process in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), [e[1] for e in ends]
    return [out.splitlines() for out, _ in ends]


def test_threads_agree_on_every_proposal(history: SqlHistory) -> None:
    """Eight threads that propose for the same indices at once all get the one that is recorded."""
    history.put_job(a_job())
    barrier = threading.Barrier(8)

    def propose(who: int) -> list[str]:
        barrier.wait()
        return [
            history.put_proposal(a_proposal(index=i, proposer=f"t{who}")).proposer
            for i in range(10)
        ]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(propose, range(8)))
    recorded = [trial.proposer for trial in history.trials("job-1")]
    assert answers == [recorded] * 8


@pytest.mark.slow
def test_processes_agree_on_every_proposal(history: SqlHistory, url: str) -> None:
    """Processes that propose for the same indices at once all get the one that is recorded."""
    history.put_job(a_job())
    told = finished([start(url, "propose", f"p{who}", 15) for who in range(WORKERS)])
    recorded = [f"{trial.index} {trial.proposer}" for trial in history.trials("job-1")]
    assert told == [recorded] * WORKERS


@pytest.mark.slow
def test_no_report_of_many_processes_is_lost(history: SqlHistory, url: str) -> None:
    """Processes and threads that report at once for one trial lose nothing and meet no lock."""
    uid = running_trial(history)
    processes = [start(url, "report", f"pod-{who}", 25) for who in range(WORKERS)]
    with ThreadPoolExecutor(4) as pool:
        mine = [
            pool.submit(history.add_reports, a_batch([one], pod_uid=f"thread-{t}"))
            for t in range(4)
            for one in epochs(*(i / 1000 for i in range(20)))
        ]
    assert [done.result() for done in mine] == [1] * 80
    assert finished(processes) == [[f"{seq} 1" for seq in range(25)]] * WORKERS
    assert history.trial(uid, 0).reports == history.counts()["reports"] == WORKERS * 25 + 80


@pytest.mark.slow
def test_processes_that_migrate_at_once_take_turns(url: str) -> None:
    """Several processes may open an empty database at the same moment."""
    assert finished([start(url, "migrate") for _ in range(WORKERS)]) == [["done"]] * WORKERS
    opened = SqlHistory(url)
    assert opened.job("job-1") == a_job()
    opened.close()


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_it_had_committed(history: SqlHistory, url: str) -> None:
    """After kill -9 in the middle of a write the database is sound, and has each trial as a whole."""
    history.put_job(a_job())
    told = -1
    for wanted in (3, 11, 20):
        writer = start(url, "endless")
        assert writer.stdout is not None
        for line in writer.stdout:
            told = max(told, int(line))
            if int(line) >= wanted:
                break
        writer.kill()
        told = max([told, *map(int, writer.communicate(timeout=60)[0].split())])
        again = SqlHistory(url)
        trials = again.trials("job-1")
        again.close()
        assert [t.index for t in trials] == list(range(len(trials)))
        assert len(trials) > told
        assert {t.reports for t in trials[: told + 1]} == {5}
        assert {t.reports for t in trials} <= {0, 5}
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


@pytest.fixture
def statements() -> Iterator[Counter[str]]:
    """Count the statements that any engine executes, by their first word."""
    counted: Counter[str] = Counter()

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        counted[statement.split(maxsplit=1)[0].upper()] += 1

    event.listen(Engine, "before_cursor_execute", count)
    yield counted
    event.remove(Engine, "before_cursor_execute", count)


def test_reading_trials_takes_three_queries(history: SqlHistory, statements: Counter[str]) -> None:
    """However many trials a job has, all are read at once."""
    history.put_job(a_job())
    for index in range(20):
        history.put_proposal(a_proposal(index=index))
        history.put_attempt("job-1", index, an_attempt())
        history.add_reports(a_batch(epochs(0.1, 0.2, 0.3), index=index))
    statements.clear()
    assert len(history.trials("job-1")) == 20
    assert statements["SELECT"] == 3


def test_the_database_of_a_newer_version_is_refused(history: SqlHistory, url: str) -> None:
    """A schema that this code does not know is neither migrated nor used, and the error says why."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    again = SqlHistory(url)
    with pytest.raises(HistoryUnavailableError, match="9999 by a newer version"):
        again.migrate()
    again.close()
    reader = SqlHistory(url, read_only=True)
    with pytest.raises(HistoryUnavailableError, match="9999 by a newer version"):
        reader.find_jobs()
    reader.close()


def test_a_reader_does_not_wait_for_a_writer(history: SqlHistory, url: str) -> None:
    """What is read while a transaction writes is the state before it, at once."""
    uid = running_trial(history)
    reader = SqlHistory(url, read_only=True)
    with history._database.writing() as connection:
        connection.execute(text("UPDATE trials SET state = 'Failed'"))
        assert reader.trial(uid, 0).state == "Running"
    assert reader.trial(uid, 0).state == "Failed"
    reader.close()


def test_a_reader_writes_nothing(url: str, history: SqlHistory) -> None:
    """A history opened for reading refuses to migrate an older schema, and says what helps."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    engine.dispose()
    reader = SqlHistory(url, read_only=True)
    for ask in (reader.migrate, reader.find_jobs):
        with pytest.raises(HistoryUnavailableError, match="start a job or the tracker"):
            ask()
    reader.close()


def test_a_refused_value_is_not_worth_another_try(history: SqlHistory, url: str) -> None:
    """What PostgreSQL can't store is the caller's mistake; it is not reported as an outage."""
    if url.startswith("sqlite"):
        history.put_job(a_job(phase="x" * 99))  # SQLite knows no lengths
        return
    with pytest.raises(InvalidInputError):
        history.put_job(a_job(phase="x" * 99))


def test_a_migration_that_breaks_off_leaves_nothing(url: str) -> None:
    """An error in the middle of a migration leaves the database as it was, and the next try succeeds."""

    def break_off(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "CREATE TABLE reports" in statement:
            raise OSError("the machine went away")

    opened = SqlHistory(url)
    event.listen(Engine, "before_cursor_execute", break_off)
    try:
        with pytest.raises(OSError, match="went away"):
            opened.migrate()
    finally:
        event.remove(Engine, "before_cursor_execute", break_off)
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    opened.migrate()
    assert opened.counts()["jobs"] == 0
    opened.close()


def test_a_file_that_stays_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that another program keeps is an outage; reading goes on, and writing once it is released."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_S", 0.2)
    path = tmp_path / "history.db"
    history = SqlHistory(str(path))
    history.migrate()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryUnavailableError, match="locked"):
        history.put_job(a_job())
    assert history.find_jobs() == []
    other.execute("ROLLBACK")
    other.close()
    history.put_job(a_job())
    history.close()


def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    """What does not fit is refused as an outage; what was stored stays, and there is a way on."""
    history = SqlHistory(str(tmp_path / "history.db"))
    history.migrate()
    history.put_job(a_job())

    def limit(pages: str) -> None:
        with history._database.reading() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    limit("1")  # which SQLite raises to what there is
    big = a_job("big", manifest={"text": "x" * 1_000_000})
    with pytest.raises(HistoryUnavailableError, match="full"):
        history.put_job(big)
    assert history.find_jobs() == [a_job()]
    limit("4294967294")
    history.put_job(big)
    assert len(history.find_jobs()) == 2
    history.close()


@pytest.mark.parametrize("damage", ["torn", "garbage"])
def test_a_damaged_log_costs_no_commit_before_it(tmp_path: Path, damage: str) -> None:
    """A write-ahead log with a torn or senseless end is read up to there; the database is sound."""
    path, copy = tmp_path / "history.db", tmp_path / "copy.db"
    history = SqlHistory(str(path))
    history.migrate()
    history.put_job(a_job("first"))
    log = path.with_name(path.name + "-wal")
    kept = log.read_bytes()
    history.put_job(a_job("second"))
    whole = log.read_bytes()
    assert len(whole) > len(kept)
    copy.write_bytes(path.read_bytes())
    end = {"torn": whole[len(kept) : -100], "garbage": b"\x7f" * 5000}[damage]
    copy.with_name(copy.name + "-wal").write_bytes(kept + end)
    history.close()
    restored = SqlHistory(str(copy))
    restored.migrate()
    assert [job.uid for job in restored.find_jobs()] == ["first"]
    restored.put_job(a_job("third"))
    assert len(restored.find_jobs()) == 2
    restored.close()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """A PostgreSQL that refuses connections is an outage, to be tried again."""
    away = SqlHistory("postgresql+psycopg://nobody@127.0.0.1:1/none")
    for ask in (away.migrate, away.counts):
        with pytest.raises(HistoryUnavailableError):
            ask()
    away.close()


def test_files_that_are_no_history(tmp_path: Path) -> None:
    """A file that is missing, is something else, or can't be made is an error in words."""
    with pytest.raises(NotFoundError, match="no history at"):
        SqlHistory(str(tmp_path / "none.db"), read_only=True)
    other = tmp_path / "other.db"
    other.write_text("this is a text, and not a database " * 100)
    opened = SqlHistory(str(other))
    with pytest.raises(HistoryUnavailableError, match="not a database"):
        opened.migrate()
    opened.close()
    with pytest.raises(HistoryUnavailableError, match="folder"):
        SqlHistory(str(other / "below.db"))


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/db", "sqlite://", "sqlite:///:memory:", "x://:y"]
)
def test_urls_of_something_else(url: str) -> None:
    """Only a SQLite file and PostgreSQL are known; the error does not show a password."""
    with pytest.raises(InvalidInputError) as caught:
        SqlHistory(url)
    assert "secret" not in str(caught.value)
