"""What `foretune` says and returns before any command does its work."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from foretune import __version__
from foretune.cli import main
from foretune.cli.main import COMMANDS, run
from foretune.cli.parser import EXTRAS
from foretune.errors import (
    ForetuneError,
    HistoryUnavailableError,
    InvalidInputError,
    InvalidJobError,
    NotFoundError,
    Problem,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

HEAVY = {"torch", "kopf", "kubernetes", "httpx", "sqlalchemy", "rich", "pydantic", "yaml"}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`foretune --version` prints the package's version and ends with 0."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"foretune {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`foretune --help` lists each command; each has a help of its own."""
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command}" in text
        assert run([command, "--help"]) == 0
        assert f"usage: foretune {command} " in capsys.readouterr().out
    assert set(COMMANDS) == set(EXTRAS)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    """Help and version load nothing that is not Python's own."""
    code = f"import sys; from foretune.cli.main import run; run({arguments}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["tune"], "invalid choice: 'tune'"),
        (["run"], "the following arguments are required: FILE"),
        (["run", "job.yaml", "--parallel", "0"], "must be a whole number from 1 to 256, not '0'"),
        (["run", "job.yaml", "--parallel", "two"], "must be a whole number from 1 to 256"),
        (["run", "job.yaml", "--grace", "nan"], "must be seconds from 0 to 3600, not 'nan'"),
        (["run", "job.yaml", "--grace", "-1"], "must be seconds from 0 to 3600, not '-1'"),
        (["trials", "x", "-o", "xml"], "invalid choice: 'xml'"),
        (["status", "--history", "a", "--tracker", "b"], "not allowed with argument --history"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What argparse refuses is one line on stderr that says where help is; the exit code is 2."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("foretune: ")
    assert err.count("\n") == 1
    assert "--help`" in err


@pytest.mark.parametrize("command", ["operator", "tracker", "suggestion"])
def test_a_process_refuses_unreadable_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A variable that can't be read ends a process at once, by name, with exit code 2."""
    monkeypatch.setenv("FORETUNE_METRICS_PORT", "ninety")
    monkeypatch.setattr(main.importlib, "import_module", _without_logging)
    assert run([command]) == 2
    err = capsys.readouterr().err
    assert err == "foretune: FORETUNE_METRICS_PORT: must be a whole number, not 'ninety'\n"


def _without_logging(name: str) -> object:
    """Import the processes' module, but leave pytest's logging alone."""
    from foretune.cli import serve

    assert name == serve.__name__
    serve._log = lambda level: None
    return serve


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (InvalidInputError("a: must be b"), 2, ["foretune: a: must be b"]),
        (NotFoundError("there is no job 'x'"), 2, ["foretune: there is no job 'x'"]),
        (HistoryUnavailableError("disk\nfull"), 1, ["foretune: disk full"]),
        (ForetuneError("else"), 2, ["foretune: else"]),
        (
            InvalidJobError([Problem("spec.space.lr.min", "must be below"), Problem("x", "y\nz")]),
            2,
            ["spec.space.lr.min: must be below", "x: y z"],
        ),
    ],
)
def test_an_error_is_a_clear_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    lines: list[str],
) -> None:
    """Each error of ours is one line on stderr, each problem of a manifest a line of its own."""
    assert _run_with(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", lines)


def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the packages of a command the user is told which extra to install."""
    assert _run_with(monkeypatch, ModuleNotFoundError("no", name="uvicorn.config")) == 2
    err = capsys.readouterr().err
    assert "needs the package uvicorn: pip install 'foretune[local]'" in err


def test_a_missing_module_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of Foretune that is not there is no matter of installing an extra."""
    with pytest.raises(ModuleNotFoundError):
        _run_with(monkeypatch, ModuleNotFoundError("no", name="foretune.cli.nothing"))


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt that no command catches ends with 130, without a traceback."""
    assert _run_with(monkeypatch, KeyboardInterrupt()) == 130


def test_a_reader_that_leaves_is_no_crash() -> None:
    """`foretune --help | head -0` ends without a word."""
    with subprocess.Popen(
        [sys.executable, "-m", "foretune", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def _run_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Run a command that ends with `error`."""

    def command(arguments: Namespace) -> int:
        raise error

    monkeypatch.setattr(main, "_command", lambda name: command)
    return run(["run", "job.yaml"])


@pytest.mark.slow
def test_names_that_the_output_can_not_write_are_escaped(tmp_path: Path) -> None:
    """In a terminal that knows ASCII only a Greek file name is told, rather than a crash."""
    done = subprocess.run(
        [sys.executable, "-m", "foretune", "run", "αβγ.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert done.stderr == "\\u03b1\\u03b2\\u03b3.yaml: there is no such file\n"


@pytest.mark.slow
def test_reading_needs_no_more_than_the_small_image_has() -> None:
    """`status`, `trials` and `best` work where there is neither torch nor rich nor a cluster's client."""
    code = """
import sys
for name in ("torch", "rich", "kubernetes", "kopf", "botorch", "numpy"):
    sys.modules[name] = None
from foretune.cli.main import run
print(run(["status", "--tracker", "http://127.0.0.1:9"]), run(["trials", "x", "--history", "/no/x"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={**os.environ, "FORETUNE_TOKEN": "x"},
    )
    assert done.stdout == "1 2\n"
    first, second = done.stderr.splitlines()
    assert first.startswith("foretune: http://127.0.0.1:9: ")
    assert second.startswith("foretune: there is no history at /no/x")
