"""`foretune prior`: from the jobs of a history to a prior that is judged, promoted, and taken elsewhere."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from tests.support.histories import a_job, tuned

from foretune.adapters.store import SqlHistory
from foretune.app import learn
from foretune.app.artefact import HEADER, TENSORS, packed, unpacked
from foretune.app.history import lessons_of_file
from foretune.app.learn import trained
from foretune.app.priors import PriorStore
from foretune.app.starter import FOLDER, starter
from foretune.cli.main import run
from foretune.errors import InvalidInputError
from foretune.experiment.tasks import data_folder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

try:
    DATA = data_folder()
except InvalidInputError:
    DATA = None

recorded = pytest.mark.skipif(DATA is None, reason="FORETUNE_DATA: no recorded histories here")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history with four jobs of 14 trials, whose best learning rates lie close together."""
    path = tmp_path_factory.mktemp("history") / "h.db"
    history = SqlHistory(str(path))
    history.migrate()
    for i in range(4):
        values = [math.exp(-((k - 6 - i / 2) ** 2) / 8) for k in range(14)]
        tuned(history, a_job(f"uid-{i}", name=f"j{i}"), values)
    history.close()
    return path


@pytest.fixture
def own(file: Path, tmp_path: Path) -> str:
    """A copy of that history, without priors."""
    copy = tmp_path / "history.db"
    copy.write_bytes(file.read_bytes())
    return str(copy)


def made(own: str, *, promote: bool) -> str:
    """Put an unjudged prior of the history into its store; return the id."""
    from pathlib import Path

    files = packed(lessons_of_file(Path(own)), version="1")
    return PriorStore.beside(Path(own)).add(files, note="by a test", promote=promote).id


@pytest.mark.slow
def test_a_history_is_trained_on_and_judged(
    own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress goes to stderr a line a step; the result tells id, figures and verdict, and is listed."""
    monkeypatch.setattr(learn, "HELD_OUT", 1)
    monkeypatch.setattr(learn, "BUDGET", 5)
    assert run(["prior", "train", "--history", own]) == 0
    out, err = capsys.readouterr()
    assert "[0/2] team-a/j" in err
    assert "[2/2] judged" in err
    lines = out.splitlines()
    assert "4 tasks" in lines[0]
    assert any(line.startswith("  regret 5: prior 0.") for line in lines)
    assert lines[-1].startswith(("promoted: no worse than", "not promoted: "))
    assert run(["prior", "list", "--history", own, "-o", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["id"], entry["tasks"]) == (lines[0].partition(":")[0], 4)
    assert entry["state"] == ("champion" if lines[-1].startswith("promoted") else "challenger")


def test_a_timer_trains_only_when_something_is_new(
    own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--if-new` a second training on the same jobs does nothing, an imported prior notwithstanding."""
    monkeypatch.setattr(learn, "ENOUGH", 1000)  # nothing is held out
    arguments = ["prior", "train", "--if-new", "--history", own]
    assert run(["prior", "export", "starter", f"{own}.out"]) == 0
    assert run(["prior", "import", f"{own}.out", "--history", own]) == 0
    assert run(arguments) == 0
    assert "not promoted: no task could be held out" in capsys.readouterr().out
    assert run(arguments) == 0
    assert "nothing worth a new prior has happened since" in capsys.readouterr().out


def test_priors_are_listed_shown_and_promoted(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """States are told, a prior is shown by the start of its id, and promoted by hand."""
    found = made(own, promote=False)
    assert run(["prior", "list", "--history", own]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "STATE", "MADE", "TASKS", "FAVOUR", "NOTE"]
    assert lines[1].split()[:2] == [found, "challenger"]
    assert lines[2].split()[:2] == ["starter", "ships"]
    assert run(["prior", "promote", found[:5], "--history", own]) == 0
    assert capsys.readouterr().out == f"{found}: is the champion\n"
    assert run(["prior", "show", "champion", "--history", own]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"id        {found}\n")
    assert "team-a/j3  accuracy  maximize" in shown
    assert run(["prior", "show", found, "--history", own, "-o", "json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [task["rows"] for task in whole["tasks"]] == [14] * 4


def test_the_starter_is_shown_with_sources_licences_and_limits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What ships says where it comes from, and can be exported like any other."""
    assert run(["prior", "show", "starter"]) == 0
    text = capsys.readouterr().out
    assert "fcnet: HPOLib" in text
    assert "BSD-3-Clause" in text
    assert "limits" in text
    assert run(["prior", "export", "starter", str(tmp_path / "s")]) == 0
    for name in (HEADER, TENSORS):
        assert (tmp_path / "s" / name).read_bytes() == (FOLDER / name).read_bytes()


def test_a_prior_is_taken_to_another_history(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export here, import there; it is used once it is promoted."""
    found = made(own, promote=True)
    out, there = str(tmp_path / "out"), str(tmp_path / "there.db")
    assert run(["prior", "export", found, out, "--history", own]) == 0
    assert run(["prior", "import", out, "--history", there]) == 0
    assert f"`foretune prior promote {found}`" in capsys.readouterr().out
    assert run(["prior", "show", "champion", "--history", there]) == 2
    assert "has no champion" in capsys.readouterr().err
    assert run(["prior", "promote", found, "--history", there]) == 0


def test_what_a_stranger_wrote_moves_no_cursor(
    own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card's control characters are shown as question marks, its deep lists as text."""
    from pathlib import Path

    figures = {"card": {"a\x1b[2J": [["b\x07"]], "deep": {"x": {"y": {"z": {"w": {"v": 1}}}}}}}
    files = packed(lessons_of_file(Path(own)), version="1", figures=figures)
    found = PriorStore.beside(Path(own)).add(files, note="", promote=False).id
    assert run(["prior", "show", found, "--history", own]) == 0
    text = capsys.readouterr().out
    assert "a?[2J" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "there is no history at"),
        (["show", "abcd"], "there is no prior 'abcd'"),
        (["show", "../../etc"], "there is no prior '../../etc'"),
        (["promote", "starter"], "there is no prior 'starter'"),
        (["import", "/nowhere"], "there is no /nowhere/prior.json"),
        (["train", "--from", "/nowhere", "--out", "/tmp/x"], "/nowhere"),
        (["polish"], "invalid choice"),
        ([], "SUBCOMMAND"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can't be used ends with 2 and one line on stderr."""
    more = ["--history", str(tmp_path / "h.db")] if arguments and arguments[0] != "polish" else []
    assert run(["prior", *arguments, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_history_with_too_few_jobs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs are no prior: the line says how many are needed."""
    path = tmp_path / "h.db"
    history = SqlHistory(str(path))
    history.migrate()
    for i in range(2):
        tuned(history, a_job(f"uid-{i}", name=f"j{i}"), [0.1 * k for k in range(6)])
    history.close()
    assert run(["prior", "train", "--history", str(path)]) == 2
    assert "needs at least 3 tasks with 5 values each; there are 2" in capsys.readouterr().err


def test_a_namespace_alone_is_trained_on(own: str, tmp_path: Path) -> None:
    """`--namespace` leaves out the jobs of others, and `--out` changes nothing but its folder."""
    out = tmp_path / "out"
    assert (
        run(["prior", "train", "--history", own, "--namespace", "team-b", "--out", str(out)]) == 2
    )
    arguments = ["prior", "train", "--history", own, "--namespace", "team-a", "--out", str(out)]
    assert run(arguments) == 0
    first = {name: (out / name).read_bytes() for name in (HEADER, TENSORS)}
    assert len(unpacked(first, "x").tasks) == 4
    assert run(arguments) == 0
    assert {name: (out / name).read_bytes() for name in (HEADER, TENSORS)} == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.db", "out"]


def test_a_damaged_champion_is_told_and_passed_over(
    own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A champion that was changed on disk is named in a warning, listed as broken, and never used."""
    from pathlib import Path

    found = made(own, promote=True)
    store = PriorStore.beside(Path(own))
    (store.folder / found / TENSORS).write_bytes(b"changed")
    seen: list[object] = []

    def quick(tasks: object, *, champion: object, progress: object) -> learn.Trained:
        seen.append(champion)
        return trained(tasks, champion=champion)

    monkeypatch.setattr("foretune.cli.prior.trained", quick)
    monkeypatch.setattr(learn, "ENOUGH", 1000)  # nothing is held out
    assert run(["prior", "train", "--history", own]) == 0
    assert "going on as without a champion" in capsys.readouterr().err
    assert seen == [None]
    assert run(["prior", "list", "--history", own, "-o", "json"]) == 0
    states = {entry["id"]: entry["state"] for entry in json.loads(capsys.readouterr().out)}
    assert states[found] == "broken"


@pytest.mark.slow
@recorded
def test_the_starter_is_rebuilt_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same data gives the bytes that ship, but for the version of the code."""
    monkeypatch.setattr("foretune.cli.prior.__version__", starter().version)
    card = str(FOLDER / "card.json")
    arguments = ["--from", str(DATA), "--out", str(tmp_path), "--card", card]
    assert run(["prior", "train", *arguments]) == 0
    for name in (HEADER, TENSORS):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
