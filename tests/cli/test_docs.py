"""The pages about the command line are true: the reference is generated, the quickstart runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.local_jobs import foretune, trials

from foretune.cli import docs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> Iterator[str]:
    """Yield the quickstart's blocks of code in a language."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    yield from re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_reference_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/reference/cli.md is what the parser gives."""
    monkeypatch.chdir(ROOT)
    assert docs.main(["--check"]) == 0


def test_a_stale_reference_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that differs is told, and written anew without --check."""
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--check"]) == 1
    assert "is stale: run python -m foretune.cli.docs" in capsys.readouterr().err
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    page = (tmp_path / docs.PAGE).read_text()
    assert "foretune run FILE [--parallel N] [--history FILE]" in page
    assert "| `FORETUNE_LEADER_ELECTION` | `true` | hold the Lease before acting. |" in page


@pytest.mark.slow
def test_the_quickstarts_own_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script and the manifest of the page give a complete job, with a curve for each trial."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    script, _ = blocks("python")
    (manifest,) = blocks("yaml")
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "job.yaml").write_text(manifest)
    code, out, err = foretune(tmp_path, "run", "job.yaml", "--parallel", "2")
    assert (code, err) == (0, ""), out
    rows = trials(tmp_path)
    assert [row["state"] for row in rows] == ["Completed"] * 8
    assert all(row["epochs"] == 5 for row in rows)
    wanted = [
        (row["params"]["lr"] - 0.03) ** 2 + abs(row["params"]["depth"] - 4) / 10 + 1 / 5
        for row in rows
    ]
    assert [row["value"] for row in rows] == pytest.approx(wanted)


@pytest.mark.slow
def test_the_quickstarts_python_runs(tmp_path: Path) -> None:
    """The library's example prints a best observation."""
    _, example = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    assert "lr" in done.stdout
