"""The SDK alone: what it prints, what it takes, what it leaves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from foretune import contract
from foretune.adapters.http import wire
from foretune.domain.logs import parse_log, parse_termination
from foretune_report import Reply, Reporter
from foretune_report.reporter import plain_line
from foretune_report.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.trials import Pod

    Make = Callable[..., Pod]


class Scalar:
    """A 0-d tensor as far as `float()` is concerned."""

    def __float__(self) -> float:
        return 0.25


class Hostile:
    """A value whose conversion fails in an unusual way."""

    def __float__(self) -> float:
        raise KeyError("no")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return contract.parse_report_lines(capsys.readouterr().out)


def test_outside_a_trial_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a trial's environment a report is a plain line, and nothing is ever asked."""
    assert Reporter({}).report({"accuracy": 0.5, "loss": math.nan}, epoch=3) == Reply()
    assert capsys.readouterr().out == "epoch 3: accuracy=0.5 loss=nan\n"


def test_a_plain_line_is_read_back_by_the_log_parser() -> None:
    """What is printed outside a trial is what the log's parser understands."""
    line = plain_line({"epoch": 2, "metrics": {"accuracy": 0.875}, "nonfinite": ["val_loss"]})
    (found,) = parse_log(line)
    assert found["epoch"] == 2
    assert found["metrics"] == {"accuracy": 0.875}
    assert found["nonfinite"] == ["val_loss"]


def test_in_a_trial_each_report_is_a_marked_line(
    pod: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines carry the identity, count from 0, and are reports by the tracker's own schema."""
    reporter = Reporter(pod().env)
    reporter.report({"accuracy": 0.5, "loss": math.inf}, epoch=1)
    reporter.report({"loss": 0.1}, step=7)
    first, second = lines(capsys)
    assert (first["trial"], first["attempt"], first["pod"]) == ("job-1/0", 0, "pod-0")
    assert (first["seq"], first["kind"], first["epoch"]) == (0, "epoch", 1)
    assert (first["metrics"], first["nonfinite"]) == ({"accuracy": 0.5}, ["loss"])
    assert (second["seq"], second["kind"], second["step"]) == (1, "step", 7)
    assert len(wire.read_reports(json.dumps([first, second]).encode())) == 2


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Scalar(), 0.25),
        (True, None),
        ("0.5", None),
        (None, None),
        ([0.5, 0.6], None),
        (10**400, None),
        (Hostile(), None),
        (3, 3.0),
    ],
)
def test_values(
    pod: Make, capsys: pytest.CaptureFixture[str], given: object, kept: float | None
) -> None:
    """Whatever `float` takes is a number; anything else is left out and never raises."""
    reporter = Reporter(pod().env)
    reporter.report({"x": given, "accuracy": 0.5}, epoch=1)
    (found,) = lines(capsys)
    assert found["metrics"].get("x") == kept
    assert found["metrics"]["accuracy"] == 0.5


@pytest.mark.parametrize("epoch", [-1, math.nan, math.inf, "three", object()])
def test_wrong_epochs(pod: Make, capsys: pytest.CaptureFixture[str], epoch: Any) -> None:
    """An epoch that no tracker takes is left out; the metrics are not."""
    Reporter(pod().env).report({"accuracy": 0.5}, epoch=epoch, step=2**40)
    (found,) = lines(capsys)
    assert "epoch" not in found
    assert "step" not in found
    assert found["metrics"] == {"accuracy": 0.5}
    assert wire.read_reports(json.dumps([found]).encode())


def test_too_much(pod: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """More metrics or longer names than a tracker takes do not spoil a report."""
    Reporter(pod().env).report({**{f"m{n}": n for n in range(300)}, "": 1}, epoch=1)
    Reporter(pod(uid="pod-1").env).report({"n" * 200: 1, "accuracy": 1}, epoch=1)
    many, long = lines(capsys)
    assert len(many["metrics"]) == 256
    assert long["metrics"] == {"accuracy": 1.0}
    for found in (many, long):
        assert wire.read_reports(json.dumps([found]).encode())


def test_unserialisable_fields_never_raise(pod: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """A field that is no JSON costs this report, and says so on stderr once."""
    reporter = Reporter(pod().env)
    reporter.report({"a": 1}, epoch=1, tags={"x": object()})
    reporter.report({"a": 1}, epoch=2, tags={"x": object()})
    assert capsys.readouterr().err.count("a report was lost") == 1


def test_closed_stdout_is_no_error(pod: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose stdout is gone trains on."""
    with Path(os.devnull).open("w", encoding="utf-8") as gone:
        monkeypatch.setattr("sys.stdout", gone)
    assert Reporter(pod().env).report({"a": 1}, epoch=1) == Reply()


class TestTerminationMessage:
    """The carrier that needs neither network nor log."""

    def test_best_and_last(self, pod: Make) -> None:
        """The message holds the best and the last point, as the operator's parser reads them."""
        here = pod()
        reporter = Reporter(here.env)
        for epoch, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
            reporter.report({"accuracy": accuracy}, epoch=epoch, resources={"cpu_s": epoch})
        reporter.finish("done")
        best, last = parse_termination(here.message)
        assert (best["epoch"], best["metrics"]) == (2, {"accuracy": 0.9})
        assert (last["epoch"], last["metrics"]) == (3, {"accuracy": 0.7})
        told = json.loads(here.message)
        assert (told["reason"], told["epochs"], told["dropped"]) == ("done", 3, 0)
        assert told["resources"] == {"cpu_s": 3}

    def test_goal(self) -> None:
        """For a loss the best is the lowest."""
        summary = Summary("val_loss", "minimize")
        for epoch, loss in ((1, 0.5), (2, 0.2), (3, 0.7)):
            summary.add({"epoch": epoch, "metrics": {"val_loss": loss}})
        assert json.loads(summary.message("done", 0))["best"]["epoch"] == 2

    def test_size(self) -> None:
        """However many metrics there are, 4096 bytes are enough, and the objective is among them."""
        summary = Summary("zz", "maximize")
        metrics = {**{f"{n:03}{'x' * 120}": 1 / 3 for n in range(255)}, "zz": 0.5}
        summary.add({"epoch": 1, "metrics": metrics, "resources": {"r" * 100: 1}})
        text = summary.message("done", 0)
        assert len(text.encode()) <= contract.TERMINATION_LIMIT
        assert all("zz" in report["metrics"] for report in parse_termination(text))

    def test_not_by_others(self, pod: Make) -> None:
        """A file that nobody made is not made: outside a pod nobody reads it."""
        here = pod()
        (here.folder / "termination.txt").unlink()
        reporter = Reporter(here.env)
        reporter.report({"accuracy": 1}, epoch=1)
        reporter.finish("done")
        assert not (here.folder / "termination.txt").exists()

    @pytest.mark.parametrize(
        ("end", "written"), [("pass", True), ("raise RuntimeError('CUDA out of memory')", False)]
    )
    def test_at_exit(self, pod: Make, end: str, written: bool) -> None:
        """Python's end writes it by itself; after a traceback it is left to the log's end."""
        here = pod()
        program = f"from foretune_report import report; report(epoch=1, accuracy=0.5); {end}"
        code, out, _ = here.run("-c", program)
        assert code == (0 if written else 1)
        assert contract.parse_report_lines(out)
        assert bool(here.message) == written


def test_forked_children_do_not_report(pod: Make) -> None:
    """A forked worker that calls report() neither prints nor sends under its parent's numbers."""
    program = """
import os
from foretune_report import report
report(epoch=1, accuracy=0.5)
child = os.fork()
if child == 0:
    report(epoch=9, accuracy=0.9)
    os._exit(0)
os.waitpid(child, 0)
report(epoch=2, accuracy=0.6)
"""
    code, out, err = pod().run("-W", "ignore", "-c", program)
    assert code == 0, err
    assert [(r["seq"], r["epoch"]) for r in contract.parse_report_lines(out)] == [(0, 1), (1, 2)]


def test_the_documented_line_is_a_report() -> None:
    """The marked line that the guide shows is taken as a report when it is found in a log."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "own-script.md"
    (found,) = wire.recovered(parse_log(guide.read_text()))
    assert (found["epoch"], found["metrics"]) == (3, {"val_loss": 0.31})


def test_imports_the_standard_library_only() -> None:
    """The SDK loads nothing but the standard library and the contract."""
    program = """
import sys
before = set(sys.modules)
import foretune_report
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {'foretune', 'foretune_report'}))
print(sorted(name for name in sys.modules if name.startswith('foretune.')))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['foretune.contract']"]
