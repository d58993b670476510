"""`foretune history import`, `export` and `list`: what they print and how they end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.exchange import HEAD, MAPPING, empty_history, opened

from foretune.cli.main import run
from foretune.experiment.tasks import DATA_DEFAULT, DATA_VARIABLE
from foretune.optimizer import Optimizer

ROOT = Path(__file__).parents[2]
RECORDED = "history/deepar_forecasting/deepar_forecasting.parquet"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A table with one bad row, its mapping, and an empty history."""
    (tmp_path / "t.csv").write_text(
        HEAD + "a,-2,2,adam,0.8,1\nb,-2,3,sgd,0.7,1\nb,-2,9,sgd,0.7,1\n"
    )
    (tmp_path / "m.yaml").write_text(MAPPING)
    history = empty_history(tmp_path / "h.db")
    return {
        "table": str(tmp_path / "t.csv"),
        "mapping": str(tmp_path / "m.yaml"),
        "h": str(history),
    }


def test_an_import_tells_what_became_of_it(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of tasks, the reasons, and a warning with the number of rows that were set aside; exit 0."""
    command = ["history", "import", files["table"], "--mapping", files["mapping"]]
    assert run([*command, "--history", files["h"]]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1:] == [
        "local      a         1      0          0",
        "local      b         1      0          1",
        "t.csv (csv): 2 tasks, 2 trials added, 0 known, 1 set aside",
        "set aside  1 x layers: must be between 1 and 8, not 9 (first: row 4)",
    ]
    assert said.err.startswith("foretune: warning: 1 row was set aside; `foretune history list")
    assert run(["status", "b", "--history", files["h"]]) == 0
    assert "local/b: Complete (imported from t.csv)\ntrials  1 of 1" in capsys.readouterr().out
    assert run(["best", "a", "--history", files["h"]]) == 0
    assert "acc 0.8" in capsys.readouterr().out
    assert run([*command, "--history", files["h"], "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], told["known"], told["setAside"]) == (0, 2, 1)


def test_a_dry_run_changes_nothing(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It tells what would get in; without a mapping it prints one that can be given as it is."""
    before = Path(files["h"]).read_bytes()
    assert run(["history", "import", files["table"], "--dry-run", "--history", files["h"]]) == 0
    printed = capsys.readouterr().out
    assert "unit: log10" not in printed  # log_lr does not end with its unit
    Path(files["mapping"]).write_text(printed)
    command = ["history", "import", files["table"], "--mapping", files["mapping"], "--dry-run"]
    assert run([*command, "--history", files["h"]]) == 0
    assert "3 trials would be added" in capsys.readouterr().out
    assert Path(files["h"]).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "nowhere.csv"], "nowhere.csv: can't be read: No such file or directory"),
        (["import", "{table}", "--mapping", "no.yaml"], "--mapping: no.yaml: can't be read"),
        (["import", "{mapping}", "--mapping", "{mapping}"], "--mapping: goes with csv and parquet"),
        (["import", "{h}"], "is no storage of Optuna"),
        (["import", "-"], "--format: is required with standard input"),
        (["import", "{table}", "--format", "xml"], "invalid choice: 'xml'"),
        (["export", "nobody"], "there is no job 'nobody' in the history"),
        (["export", "--format", "parquet"], "--out: is required with --format parquet"),
        (["export", "--out", "/proc/none/x.csv"], "--out: /proc/none/x.csv: can't be written"),
        (["export", "a", "--set-aside"], "--set-aside: gives back all rows"),
        (["list", "--history", "/nowhere/h.db"], "there is no history at /nowhere/h.db"),
        ([], "required: SUBCOMMAND"),
    ],
)
def test_bad_input_is_one_line(
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """What can't be done is told in one line on stderr, with exit code 2, and nothing is imported."""
    given = [argument.format(**files) for argument in arguments]
    if given and "--history" not in given:
        given += ["--history", files["h"]]
    assert run(["history", *given]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
    history = opened(Path(files["h"]))
    assert not history.find_jobs()
    history.close()


@pytest.mark.slow
def test_list_and_export_give_everything_back(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Imports and the rows they set aside are listed and exported, to a file or to stdout."""
    where = ["--history", files["h"]]
    run(["history", "import", files["table"], "--mapping", files["mapping"], *where])
    capsys.readouterr()
    assert run(["history", "list", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        *("1", "t.csv", "csv"),
        capsys_time(files["h"]),
        "1",
    ]
    assert run(["history", "list", "--set-aside", *where, "-o", "json"]) == 0
    (aside,) = json.loads(capsys.readouterr().out)
    assert (aside["line"], aside["row"]["layers"]) == (4, "9")
    assert run(["history", "export", "b", *where]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.startswith("namespace,name,uid,")
    assert ",b,import-" in row
    assert run(["history", "export", "--set-aside", "--format", "jsonl", *where]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == aside["reason"]
    out = str(tmp_path / "all.parquet")
    assert run(["history", "export", "--out", out, *where]) == 0
    assert capsys.readouterr().out == f"{out}: 2 trials\n"
    assert run(["history", "import", out, "--history", str(tmp_path / "new.db")]) == 0


def capsys_time(history: str) -> str:
    """Return when the only import was made, as it is printed."""
    from foretune.app.exchange import open_archive
    from foretune.cli.read import stamp

    with open_archive(history, read_only=True) as archive:
        ((_, imported, _),) = archive.imports()
    return str(stamp(imported.at))


def test_the_trackers_own_database_is_meant_in_its_container(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where FORETUNE_DATABASE_URL is set, as `kubectl exec` finds it, stdin goes into that history."""
    monkeypatch.setenv("FORETUNE_DATABASE_URL", f"sqlite:///{files['h']}")
    text = Path(files["table"]).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    command = ["history", "import", "-", "--format", "csv", "--mapping", files["mapping"]]
    assert run([*command, "--namespace", "team-a"]) == 0
    assert "stdin (csv): 2 tasks, 2 trials added" in capsys.readouterr().out
    history = opened(Path(files["h"]))
    assert {job.namespace for job in history.find_jobs()} == {"team-a"}
    history.close()


@pytest.mark.slow
def test_a_recorded_history_is_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recorded table with the mapping of the guide gives the optimizer its tasks, in the right units."""
    table = ROOT / os.environ.get(DATA_VARIABLE, DATA_DEFAULT) / RECORDED
    if not table.is_file():
        pytest.skip(f"{DATA_VARIABLE} has no {RECORDED}")
    history = empty_history(tmp_path / "h.db")
    mapping = str(ROOT / "docs" / "guides" / "import-history" / "deepar.yaml")
    command = ["history", "import", str(table), "--mapping", mapping, "--history", str(history)]
    assert run(command) == 0
    assert "11 tasks, 2510 trials added, 0 known, 0 set aside" in capsys.readouterr().out
    space = {
        "lr": {"min": 0.0001, "max": 0.1, "scale": "log"},
        "layers": {"min": 2, "max": 4},
        "units": {"min": 30, "max": 120},
        "dropout": {"min": 0.01, "max": 0.5},
    }
    optimizer = Optimizer(space, metric="crps", history=history, algorithm="gp")
    tasks = optimizer._problem.history
    assert len(tasks) == 11
    solar = next(task for task in tasks if task.name.endswith("deepar-solar"))
    assert min(trial.value for trial in solar.trials if trial.value) == pytest.approx(0.31986)
    assert {trial.params["num_layers"] for trial in solar.trials} == {2, 3, 4}
    detail = Optimizer(space, metric="crps", history=history).suggest(1)[0].detail
    assert detail["tasks"] == 11


@pytest.mark.slow
def test_the_trackers_image_can_import(files: dict[str, str]) -> None:
    """CSV, JSON lines, Optuna and Katib need neither torch nor pyarrow, which that image has not."""
    arguments = ["history", "import", files["table"], "--mapping", files["mapping"]]
    arguments += ["--history", files["h"]]
    code = (
        f"import sys; from foretune.cli.main import run; assert run({arguments}) == 0; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"torch", "numpy", "pyarrow", "pandas", "kopf", "httpx"} == set()
