"""Runs a command and turns how it went into an exit code and at most a few clear lines on stderr."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from foretune.cli.exits import BAD_INPUT, FAILED, INTERRUPTED
from foretune.cli.parser import EXTRAS, make_parser
from foretune.errors import ForetuneError, InvalidJobError, UnavailableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

COMMANDS: Final = {
    "run": "foretune.cli.tune:run",
    "status": "foretune.cli.read:status",
    "trials": "foretune.cli.read:trials",
    "best": "foretune.cli.read:best",
    "explain": "foretune.cli.explain:explain",
    "history": "foretune.cli.history:run",
    "prior": "foretune.cli.prior:run",
    "parse": "foretune.cli.parse:parse",
    "sdk": "foretune.cli.sdk:copy",
    "data": "foretune.cli.data:warm",
    "operator": "foretune.cli.serve:operator",
    "tracker": "foretune.cli.serve:tracker",
    "suggestion": "foretune.cli.serve:suggestion",
    "experiment": "foretune.experiment.command:from_cli",
}
"""Where each command is; imported only when it is called, since each needs other packages."""


def run(argv: Sequence[str]) -> int:
    """Run the command that `argv` (without the program's name) names, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a name in Greek is no reason to crash
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as end:  # argparse has printed help or what is wrong
        return int(end.code or 0)
    try:
        return _command(arguments.command)(arguments)
    except ForetuneError as error:
        return _tell(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "foretune", "foretune_trainer", "foretune_report"}:
            raise
        extra = EXTRAS[arguments.command] or "local"
        text = f"`foretune {arguments.command}` needs the package {package}"
        print(f"foretune: {text}: pip install 'foretune[{extra}]'", file=sys.stderr)
        return BAD_INPUT


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    module, _, function = COMMANDS[name].partition(":")
    found: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), function)
    return found


def _tell(error: ForetuneError) -> int:
    """Print an error: a line for each problem of a manifest, one line for anything else."""
    if isinstance(error, InvalidJobError):
        for problem in error.problems:
            print(" ".join(str(problem).split()), file=sys.stderr)
    else:
        print("foretune:", " ".join(str(error).split()), file=sys.stderr)
    return FAILED if isinstance(error, UnavailableError) else BAD_INPUT
