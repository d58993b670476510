"""Many runs: what is stored, what a kill leaves, what a second call does."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from tests.support.until import until

from foretune.errors import InvalidInputError
from foretune.experiment.campaign import Campaign, Progress, chosen, spread_over
from foretune.experiment.command import main
from foretune.experiment.histories import SPLIT
from foretune.experiment.ledger import Ledger
from foretune.experiment.replay import Cell
from foretune.experiment.tasks import half_of

if TYPE_CHECKING:
    from pathlib import Path

THREE = "random,sobol,again=foretune.search.simple:RandomDesigner"
"""Three methods that need no torch, so that a worker starts fast."""


def a_cell(**changes: object) -> Cell:
    """Return a cell."""
    return Cell(**{"seed": 0, "family": "tst_svm", "task": "a", "method": "random", **changes})


def replay(out: Path, *more: str) -> list[str]:
    """Return the arguments of a small replay."""
    return [
        *("replay", "--families", "steplaw_dense", "--methods", "random,sobol"),
        *("--seeds", "2", "--budget", "6", "--out", str(out), *more),
    ]


def alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def lines(out: Path) -> list[str]:
    """Return the lines of a ledger, as far as they are written."""
    path = out / "runs.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def test_what_is_stored_is_known_and_a_cut_off_line_is_not(tmp_path: Path) -> None:
    """A kill in the middle of a line loses that run only, and the next run starts a new line."""
    ledger = Ledger(tmp_path)
    with ledger.writing() as writer:
        writer.add(a_cell(), {"regret": [0.5]})
        writer.add(a_cell(seed=1), {"error": "boom"})
    path = tmp_path / "runs.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"seed": 2, "fam')
    assert ledger.done() == {a_cell()}
    with ledger.writing() as writer:
        writer.add(a_cell(seed=1), {"regret": [0.4]})
    assert ledger.done() == {a_cell(), a_cell(seed=1)}
    assert [record["regret"] for record in ledger.records()] == [[0.5], [0.4]]


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    """A second replay into the same folder says so at once."""
    ledger = Ledger(tmp_path)
    refused = pytest.raises(InvalidInputError, match="another replay writes to")
    with ledger.writing(), refused, Ledger(tmp_path).writing():
        pass
    with ledger.writing() as writer:
        writer.add(a_cell(), {})


def test_every_field_of_a_cell_makes_it_another_run() -> None:
    """A changed budget, protocol or battery is not taken for the same run."""
    changed = {
        "seed": 1,
        "family": "x",
        "task": "x",
        "method": "x",
        "protocol": "nearest",
        "batch": 4,
    }
    changed |= {"budget": 9, "rows": 9, "sources": 9, "variant": "N1"}
    assert set(changed) == {field.name for field in dataclasses.fields(Cell)}
    assert len({a_cell(), *(a_cell(**{k: v}) for k, v in changed.items())}) == 1 + len(changed)


def test_tasks_are_chosen_evenly() -> None:
    """Four of ten tasks are spread over their order; 0 and too many mean all."""
    names = [str(i) for i in range(10)]
    assert spread_over(names, 4) == ["0", "2", "5", "7"]
    assert spread_over(names, 0) == spread_over(names, 99) == names


@pytest.mark.usefixtures("data")
def test_a_method_without_history_has_one_run_for_all_histories() -> None:
    """Random is run once a place, whatever the histories; past bests once for each of them."""
    campaign = Campaign(
        families=("steplaw_dense",),
        methods=("random", "past-bests"),
        seeds=1,
        variants=("", "N1", "N2"),
        sources=(2, 3),
    )
    counts = Counter((cell.method, cell.variant, cell.sources) for cell in campaign.cells())
    assert counts == {
        ("random", "", 0): 3,
        **{("past-bests", v, sources): 3 for v in ("", "N1", "N2") for sources in (2, 3)},
    }


def test_tasks_come_from_both_halves_as_far_as_they_reach() -> None:
    """Four tasks are two of each half; more than the one half has come from the other."""
    names = [f"t{i}" for i in range(9)] + ["u10"]
    halves = {name: half_of("toy", name) for name in names}
    sizes = Counter(halves.values())
    assert min(sizes.values()) >= 2, "the names were chosen so that both halves have some"

    def of(count: int, half: str = "") -> Counter[str]:
        return Counter(halves[name] for name in chosen("toy", names, count, half))

    assert of(4) == {"choosing": 2, "reporting": 2}
    assert of(1) == {"reporting": 1}
    assert of(9).total() == 9
    assert of(0) == of(99) == sizes
    assert of(0, "reporting") == {"reporting": sizes["reporting"]}
    assert of(1, "choosing") == {"choosing": 1}


@pytest.mark.usefixtures("data")
def test_a_split_has_tasks_for_reporting_alone_as_targets() -> None:
    """Whatever the other histories of the same campaign have."""
    campaign = Campaign(
        families=("steplaw_dense",), methods=("past-bests",), seeds=1, variants=("", SPLIT)
    )
    targets = {cell.task for cell in campaign.cells() if cell.variant == SPLIT}
    assert targets == {task for task in "abc" if half_of("steplaw_dense", task) == "reporting"}


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_a_replay_runs_once_and_a_second_call_only_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All places are run; a second call runs none; more seeds run only the new ones."""
    out = tmp_path / "out"
    assert main(replay(out)) == 0
    first = lines(out)
    assert len(first) == 2 * 3 * 2
    shown = capsys.readouterr().out
    assert "steplaw_dense: 3 tasks, 3 data sets, 2 seeds" in shown
    assert main(replay(out)) == 0
    assert lines(out) == first
    second = capsys.readouterr()
    assert second.out == shown
    assert "12 of 12 runs are there already" in second.err
    assert main(replay(out, "--seeds", "3")) == 0
    assert len(lines(out)) == 3 * 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("data")
def test_a_replay_that_was_ended_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    """After kill -9 or Ctrl-C no worker is left, and the rest gives what an unbroken replay gives."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    command = [sys.executable, "-m", "foretune.experiment", *replay(broken)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        until(
            lambda: len(lines(broken)) >= 2 or process.poll() is not None,
            "two runs on disk",
            limit_s=240,
        )
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        until(lambda: not alive(process.pid), "the end of the workers", limit_s=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if number == signal.SIGINT and process.returncode != 0:
        assert process.returncode == 130
        assert "Traceback" not in said
        assert "the same command goes on" in said
    kept = lines(broken)
    assert len(kept) >= 2, said
    assert main(replay(broken)) == 0
    assert main(replay(whole)) == 0
    assert lines(broken)[:2] == kept[:2]

    def outcome(out: Path) -> dict[Cell, list[int]]:
        return {
            Cell(**{f.name: r[f.name] for f in dataclasses.fields(Cell)}): r["tried"]
            for r in Ledger(out).records()
        }

    assert outcome(broken) == outcome(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_a_run_that_fails_is_recorded_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken method ends with its name and exit code 1; the others are run all the same."""
    out = tmp_path / "out"
    methods = ["--methods", "random,broken=foretune.domain.space:Space"]
    assert main(replay(out, *methods, "--seeds", "1")) == 1
    records = [json.loads(line) for line in lines(out)]
    assert [r["method"].partition("=")[0] for r in records if "error" in r] == ["broken"] * 3
    assert all("TypeError" in r["error"] for r in records if "error" in r)
    said = capsys.readouterr()
    assert "3 runs failed" in said.err
    assert main(replay(out, "--methods", "random", "--seeds", "1")) == 0
    assert len(lines(out)) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_a_report_is_made_of_stored_runs(tmp_path: Path) -> None:
    """Tables, parquet with a row a run, and plots; the same runs give the same page."""
    out, pages = tmp_path / "out", tmp_path / "pages"
    assert main(replay(out, "--methods", THREE, "--protocol", "pool,nearest")) == 0
    arguments = ["report", "--out", str(out), "--to", str(pages), "--command", "make it"]
    assert main(arguments) == 0
    page = (pages / "README.md").read_text(encoding="utf-8")
    assert "Runs: `make it`." in page
    assert page.count("\n## ") == 3
    assert "\n## Thresholds\n" in page
    assert "| random |" in page
    assert "![regret of steplaw_dense](1-steplaw_dense.svg)" in page
    assert len(pq.read_table(pages / "runs.parquet")) == 2 * 3 * 2 * 3
    for name in ("1-steplaw_dense.svg", "2-steplaw_dense-ranks.svg"):
        assert (pages / name).read_text(encoding="utf-8").startswith("<svg ")
    assert main(arguments) == 0
    assert (pages / "README.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "hpobench"], "family: must be one of"),
        (["--methods", "hebo"], "method: must be one of"),
        (["--protocol", "swim"], "protocol: must be one of pool, nearest, not 'swim'"),
        (["--battery", "N9"], "battery: must be one of N1"),
        (["--batch", "four"], "batch: must be whole numbers"),
        (["--seeds", "0"], "seeds: must be at least 1, not 0"),
        (["--sources", "few"], "sources: must be whole numbers of at least 0, not few"),
        (["--half", "better"], "half: must be one of choosing, reporting, not 'better'"),
    ],
)
@pytest.mark.usefixtures("data")
def test_wrong_arguments_are_named_before_anything_runs(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, exit code 2, no folder."""
    assert main(replay(tmp_path / "out", *arguments)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder is no report."""
    assert main(["report", "--out", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    assert "no run in" in capsys.readouterr().err


def test_progress_says_how_far_it_is_and_what_failed() -> None:
    """The last line is always told, and a failure at once."""
    out = io.StringIO()
    progress = Progress(3, 1, out)
    progress.step(a_cell(), {})
    progress.step(a_cell(seed=1), {"error": "ValueError: no"})
    progress.end(1)
    text = out.getvalue()
    assert "1 of 3 runs are there already" in text
    assert "ValueError: no" in text
    assert "3/3 runs, about 0 s left" in text
    assert "1 runs failed" in text
