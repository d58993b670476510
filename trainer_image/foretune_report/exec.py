"""`foretune-exec [--shims] -- COMMAND`: a foreign command as a trial's first process.

It hands SIGTERM and SIGINT on to the command's whole process group, ends what the command leaves behind,
names the signal that ended it in the termination message, and ends with the command's own code (128 + n
for signal n). With `--shims` the modules of `foretune_report.shims` stand in for those that are missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune_report import shims

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE: Final = 64
"""Exit code for a wrong call: a configuration that no retry can mend."""

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""A shell's codes for a command that can't be run."""

HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that go to the command's process group."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    environ = dict(os.environ)
    if words[:1] == ["--shims"]:
        environ = shims.activated(environ)
        words = words[1:]
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words[0].startswith("-"):
        print("usage: foretune-exec [--shims] -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return USAGE
    return run(words, environ)


def run(words: Sequence[str], environ: dict[str, str]) -> int:
    """Run `words` in a process group of its own until it ends; return its code as a shell would."""
    early: list[int] = []
    for number in HANDED_ON:  # before the command starts, so that none is lost
        signal.signal(number, lambda given, _: early.append(given))
    try:
        child = subprocess.Popen(words, env=environ, start_new_session=True)  # noqa: S603 - the user's
    except OSError as error:
        print(f"foretune-exec: {words[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE

    def hand_on(given: int, _: Any) -> None:
        _signal(child.pid, given)

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    for given in early:
        _signal(child.pid, given)
    code = child.wait()
    _signal(child.pid, signal.SIGKILL)  # what it left behind would hold the pod's devices
    if code >= 0:
        return code
    _leave_message(words[0], code)
    return 128 - code


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # it has ended; that is all one could want


def _leave_message(word: str, code: int) -> None:
    """Name the signal that ended the command, which no log does, unless it left words of its own."""
    path = Path(os.environ.get(contract.ENV_TERMINATION_LOG) or contract.TERMINATION_LOG)
    try:
        if path.exists() and not path.read_bytes():
            path.write_text(f"{word}: ended by {signal.Signals(-code).name}", encoding="utf-8")
    except OSError as error:
        print(f"foretune-exec: no termination message: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
