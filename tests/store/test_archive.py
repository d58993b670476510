"""Imports into the database itself: beside a process that writes to it, by two at once, and on PostgreSQL."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.support.exchange import HEAD, MAPPING, brought, empty_history, opened
from tests.support.histories import a_batch, a_job, a_proposal, epochs

from foretune.adapters.store import SqlHistory
from foretune.adapters.store.archive import Archive
from foretune.app.exchange import CHUNK, chosen_jobs, export_jobs, open_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 1500


def a_table(path: Path, rows: int = ROWS) -> Path:
    """Write a table with a task of many rows."""
    good = (f"a,-{1 + i % 40 / 10},{1 + i % 8},adam,0.{5000 + i},{i % 9}\n" for i in range(rows))
    path.write_text(HEAD + "".join(good))
    return path


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """An empty PostgreSQL database."""
    from tests.support.postgres import NoPostgresError, running_postgres

    try:
        with running_postgres() as server:
            yield server.new_database()
    except NoPostgresError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_tracker_goes_on_writing_during_an_import(tmp_path: Path) -> None:
    """A second process imports while this one writes reports: both get everything in, and nobody fails."""
    file = empty_history(tmp_path / "h.db")
    table = a_table(tmp_path / "t.csv")
    (tmp_path / "m.yaml").write_text(MAPPING)
    history = SqlHistory(str(file))
    history.put_job(a_job())
    history.put_proposal(a_proposal(index=0))
    command = [sys.executable, "-m", "foretune", "history", "import", str(table)]
    command += ["--mapping", str(tmp_path / "m.yaml"), "--history", str(file)]
    importer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    written = 0
    while written < 5 or importer.returncode is None:
        (one,) = epochs(0.5)
        assert history.add_reports(a_batch([{**one, "seq": written}], pod_uid="p")) == 1
        assert history.trial("job-1", 0).reports == written + 1
        written += 1
        with contextlib.suppress(subprocess.TimeoutExpired):  # trials do not report in one go
            importer.wait(timeout=0.05)
    out, err = importer.communicate(timeout=60)
    assert importer.returncode == 0, err
    assert f"1 task, {ROWS} trials added" in out
    assert history.counts()["reports"] == written
    assert history.counts()["trials"] == ROWS + 1
    history.close()


@pytest.mark.postgres
@pytest.mark.slow
def test_postgres_keeps_the_same(tmp_path: Path, database: str) -> None:
    """Imports, what is set aside, exports and a second import are the same on PostgreSQL."""
    table = a_table(tmp_path / "t.csv", 40)
    with table.open("a") as file:
        file.write("a,-2,9,adam\0,0.8,1\n")
    first = brought(table, database, mapping=MAPPING)
    assert (first.total.added, first.total.set_aside) == (40, 1)
    again = brought(table, database, mapping=MAPPING)
    assert (again.total.known, again.total.set_aside) == (40, 1)
    with open_archive(database, read_only=True) as archive:
        assert [aside.line for _, aside in archive.set_aside()] == [42]
        assert (
            export_jobs(archive, chosen_jobs(archive, ["local/a"]), "csv", tmp_path / "o.csv") == 40
        )
    assert brought(tmp_path / "o.csv", tmp_path / "h.db").total.added == 40


@pytest.mark.parametrize("where", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
@pytest.mark.slow
def test_two_imports_at_once_add_each_row_once(
    tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    """Whoever comes second waits for the first, and finds its rows known."""
    if where == "sqlite":
        url: Path | str = empty_history(tmp_path / "h.db")
    else:
        url = request.getfixturevalue("database")
    table = a_table(tmp_path / "t.csv", 300)
    found = []

    def take() -> None:
        found.append(brought(table, url, mapping=MAPPING, namespace="both").total)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted((one.added, one.known) for one in found) == [(0, 300), (300, 0)]
    history = opened(url)
    (job,) = history.find_jobs(namespace="both")
    assert [trial.index for trial in history.trials(job.uid)] == list(range(300))
    history.close()


def test_what_is_stored_is_never_overwritten(tmp_path: Path) -> None:
    """A row that is known with another value or configuration is set aside, and the stored one stays."""
    history = tmp_path / "h.db"
    table = tmp_path / "t.csv"
    mapping = "id: run\nobjective: {column: y, goal: minimize}\nparams: {lr: lr}\n"
    table.write_text("run,lr,y\na,0.1,5\nb,0.2,6\nc,0.3,7\n")
    brought(table, history, mapping=mapping)
    table.write_text("run,lr,y\na,0.1,5\nb,0.25,6\nc,0.3,8\nd,0.4,9\n")
    summary = brought(table, history, mapping=mapping)
    assert (summary.total.added, summary.total.known, summary.total.set_aside) == (1, 1, 2)
    assert list(summary.reasons) == [
        "is stored with another configuration",
        "is stored with the value 7.0, not 8.0",
    ]
    kept = opened(history)
    trials = kept.trials(summary.tasks[0].uid)
    assert [(t.params["lr"], t.value) for t in trials] == [(0.1, 5), (0.2, 6), (0.3, 7), (0.4, 9)]
    kept.close()


def test_a_job_of_the_cluster_gets_no_trial_from_a_file(tmp_path: Path) -> None:
    """An export of a job that the history runs itself adds nothing to it, whatever was added to the file."""
    file = empty_history(tmp_path / "h.db")
    history = SqlHistory(str(file))
    history.put_job(a_job("live", namespace="team-a"))
    history.put_proposal(a_proposal("live", 0))
    history.close_job("live", phase="Deleted", reason="Deleted", message="", at=2.0)
    with open_archive(str(file), read_only=True) as archive:
        export_jobs(archive, archive.jobs(), "jsonl", tmp_path / "o.jsonl")
    text = (tmp_path / "o.jsonl").read_text()
    (tmp_path / "o.jsonl").write_text(text + text.replace('"key":"0"', '"key":"1"'))
    summary = brought(tmp_path / "o.jsonl", file)
    assert (summary.total.known, summary.total.set_aside) == (1, 1)
    assert list(summary.reasons) == ["is of a job that was not imported: nothing is added"]
    assert len(history.trials("live")) == 1
    history.close()


def test_a_huge_task_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of more rows than one transaction takes is whole in the end, and so after a break in between."""
    monkeypatch.setattr("foretune.app.exchange.CHUNK", 30)
    assert CHUNK > 30
    table = a_table(tmp_path / "t.csv", 100)
    file = empty_history(tmp_path / "h.db")
    calls = []
    add = Archive.add

    def breaking(self: Archive, *arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return add(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "add", breaking)
    with pytest.raises(KeyboardInterrupt):
        brought(table, file, mapping=MAPPING)
    history = opened(file)
    assert history.counts()["trials"] == 60
    assert brought(table, file, mapping=MAPPING).total.added == 40
    assert history.counts()["trials"] == 100
    history.close()
