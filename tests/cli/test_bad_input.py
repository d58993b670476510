"""What can't be run is told line by line with exit code 2, and nothing is started or written."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.local_jobs import write_job
from tests.support.manifests import Case, cases, good

from foretune.adapters.store import SqlHistory
from foretune.api.manifest import SIZE_LIMIT
from foretune.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder of one's own, with a data folder below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Run a command that must end with 2 and print nothing but lines on stderr; return those."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    return err.splitlines()


@pytest.mark.parametrize("case", cases("load"), ids=lambda case: case.name)
def test_a_bad_manifest_is_refused(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each problem of the table is one line `path: what would be right`, and no history is made."""
    (tmp_path / "bad.yaml").write_text(case.text)
    lines = refused(capsys, "run", "bad.yaml")
    assert len(lines) == len(case.says)
    for path, fragment in case.says:
        wanted = " ".join(fragment.split())
        assert any(line.startswith(f"{path}: ") and wanted in line for line in lines), lines
    assert not (tmp_path / "data").exists()


def test_several_problems_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that is wrong is told by one run."""
    body = good(parallelism=0, space={"lr": {"min": 2, "max": 1, "scale": "log"}})
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(body))
    lines = refused(capsys, "run", "bad.yaml")
    assert {line.partition(":")[0] for line in lines} >= {"spec.parallelism", "spec.space.lr.min"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "job.yaml: there is no such file"),
        ("folder", "job.yaml: can't be read: Is a directory"),
        (b"\xff\xfe\x00", "job.yaml: is not UTF-8 text (byte 0)"),
        (b"# " + b"x" * SIZE_LIMIT + b"\xc3", "job.yaml: is larger than 100 KiB"),
        (b"", "job.yaml: is empty; a TuningJob is expected"),
    ],
)
def test_an_unreadable_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | str | None, said: str
) -> None:
    """A file that is not there, no file, no text or too large is told by its name."""
    path = tmp_path / "job.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert refused(capsys, "run", "job.yaml") == [said]


def test_stdin_is_read_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`foretune run -` reads stdin, and errors say so."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: [1, 2\n")))
    (line,) = refused(capsys, "run", "-")
    assert line.startswith("stdin:2: is not YAML")


def test_a_data_set_that_is_not_there_is_told_before_the_first_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of data that this machine lacks is a problem of the manifest, with its path."""
    body = good(trial={"builtin": {"model": "cnn", "dataset": "mnist", "path": "/no/such/data"}})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    assert refused(capsys, "run", "job.yaml") == [
        "spec.trial.builtin.path: there is no /no/such/data on this machine; where is the data set?"
    ]
    assert not (tmp_path / "data").exists()


def test_what_only_a_cluster_can_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image without a command can't run as a process."""
    body = good(trial={"builtin": None, "image": "example.org/train:1"})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    (line,) = refused(capsys, "run", "job.yaml")
    assert line.startswith("spec.trial.command: is needed by `foretune run`")


@pytest.mark.parametrize("command", ["run", "status"])
def test_an_unusable_history_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A folder, a URL, a file that is no database, one under a file: each is told with its path."""
    job = str(write_job(tmp_path))
    (tmp_path / "text.db").write_text(
        "this is no database, and long enough to be seen as none\n" * 9
    )
    given = [command, *([job] if command == "run" else [])]
    (line,) = refused(capsys, *given, "--history", str(tmp_path))
    assert line == f"foretune: --history: {tmp_path} is a folder; a file is needed"
    (line,) = refused(capsys, *given, "--history", "postgresql://x/y")
    assert line == "foretune: --history: must be a file of this machine, not 'postgresql://x/y'"
    (line,) = refused(capsys, *given, "--history", "text.db")
    assert "text.db: the history's database: file is not a database" in line
    (line,) = refused(capsys, *given, "--history", "text.db/history.db")
    assert "text.db/history.db" in line
    assert "File exists" in line or "there is no history at" in line


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_history_of_a_newer_version_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A schema that this version does not know is left alone, and the user is told to upgrade."""
    path = tmp_path / "new.db"
    history = SqlHistory(str(path))
    history.migrate()
    with history._database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    history.close()
    given = [command, *([str(write_job(tmp_path))] if command == "run" else [])]
    (line,) = refused(capsys, *given, "--history", str(path))
    assert line.startswith(
        f"foretune: --history: {path}: the history was migrated to 9999 by a newer"
    )


def test_data_that_can_not_be_kept_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that can't be written is told by its name."""
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nothing")
    (line,) = refused(capsys, "run", str(write_job(tmp_path)))
    assert line.startswith("foretune: /proc/nothing/foretune/runs/history-")
    assert "can't be written" in line
