"""`foretune parse`: what a log would tell, before a GPU is spent."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from foretune.cli.main import run
from foretune.contract import report_line

LOGS = Path(__file__).parents[1] / "data" / "logs"
"""Logs as frameworks print them, and in `expected.json` the epochs of each and what the last one has."""

EXPECTED = json.loads((LOGS / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_logs_of_frameworks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each log gives its epochs, and of the last one its metrics."""
    wanted = EXPECTED[name]
    assert run(["parse", str(LOGS / f"{name}.log"), "-o", "json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["epoch"] for point in points] == wanted["epochs"]
    assert points[-1]["metrics"] == pytest.approx(wanted["last"])
    assert points[-1].get("nonfinite", []) == wanted.get("nonfinite", [])


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line an epoch, the wanted metric first; below it every name."""
    text = b"Epoch 1/2\nloss: 0.75 acc: 50%\nEpoch 2/2\nloss: nan acc: 62.5%\n\xff\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert run(["parse", "--metric", "loss"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "epoch  loss    acc",
        "    1  0.75    0.5",
        "    2   nan  0.625",
        "2 points from plain lines",
        "metrics: acc, loss",
    ]


def test_marked_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reports of the contract are read alone, and it is said."""
    record = {"v": 1, "seq": 0, "step": 3, "metrics": {"auc": 0.5}}
    (tmp_path / "log").write_text(f"acc: 0.1\n{report_line(record)}\n")
    assert run(["parse", str(tmp_path / "log")]) == 0
    out = capsys.readouterr().out
    assert "1 points from marked lines\nmetrics: auc\n" in out


@pytest.mark.parametrize(
    ("text", "argument", "says"),
    [
        ("all is well\n", "acc", "no metric was found"),
        ("", "acc", "no metric was found"),
        ("Accuracy: 9911/10000 (99%)\n", "Accuracy", "no metric was found"),
        (
            "epoch 1 val_acc: 0.5\n",
            "val_accuracy",
            "is not among the metrics; did you mean 'val_acc'?",
        ),
    ],
)
def test_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, argument: str, says: str
) -> None:
    """Exit code 1, and one line that says what is missing."""
    (tmp_path / "log").write_text(text)
    assert run(["parse", str(tmp_path / "log"), "--metric", argument]) == 1
    assert says in capsys.readouterr().err


def test_a_long_log_is_cut_as_a_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the end of a long log is read, and it is told how much is left out."""
    lines = [f"epoch {n} loss: {1 / n}" for n in range(1, 6001)]
    (tmp_path / "log").write_text("\n".join(lines))
    assert run(["parse", str(tmp_path / "log"), "-o", "json"]) == 0
    told = capsys.readouterr()
    points = json.loads(told.out)
    assert 1 < points[0]["epoch"] < points[-1]["epoch"] == 6000
    assert "only the last 64 KiB are read" in told.err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with the path."""
    assert run(["parse", "/nonexistent"]) == 2
    assert "/nonexistent: No such file or directory" in capsys.readouterr().err
