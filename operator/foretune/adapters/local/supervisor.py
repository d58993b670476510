"""Watches over one attempt's process: a program of its own, standard library only, started by file path.

It holds three things open for the runner: the lock of the attempt's folder (held = alive), the reading
end of the lifeline (end of file = the runner is gone, however it died), and the ready pipe (closed once
the program has started). It leaves `child.json` and `exit.json`, each written whole or not at all.

Arguments: folder, lifeline fd, ready fd, lock fd, timeout (s, 0 = none), grace (s), then the command.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

TERMINATE = b"T"
"""Order on the lifeline: the attempt is deleted."""

INTERRUPT = b"I"
"""Order on the lifeline: the user interrupted the whole run."""

KILL = b"K"
"""Order on the lifeline: end now, without grace."""

DELETED, INTERRUPTED, RUNNER_GONE, DEADLINE = "deleted", "interrupted", "runner-gone", "deadline"
"""Causes of an end that came from outside."""

SIGNAL_BASE = 128
"""Exit codes of a process that signal n ended are this + n, as a container's."""

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""The shell's exit codes for a command that can't be started."""

_PR_SET_PDEATHSIG = 1


def write_json(path: str, record: dict[str, object]) -> None:
    """Write `record` to `path`: after a crash there is the old file or the new one, never half of it."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs start-up time
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - as above


def start_ticks(pid: int) -> int | None:
    """Return when process `pid` began, in the kernel's ticks; None where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the supervisor dies; runs between fork and exec."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(SIGNAL_BASE + signal.SIGKILL)


class Supervisor:
    """Starts the command, carries out orders, enforces the timeout, and writes down the end."""

    def __init__(self, folder: str, lifeline: int, timeout_s: float, grace_s: float) -> None:
        """Take the folder, the lifeline's reading end, and times in seconds."""
        self._folder = folder
        self._lifeline: int | None = lifeline
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._cause: str | None = None
        self._deadline: float | None = None
        self._kill_at: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._wake, wake_end = os.pipe()
        os.set_blocking(wake_end, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        # Handlers, not SIG_IGN: an ignored signal would stay ignored in the command.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._end(DELETED))

    def run(self, command: list[str], ready: int) -> None:
        """Run the command to its end and record it; `ready` is closed once it has started."""
        try:
            self._start(command)
        except OSError as error:
            print(f"foretune: can't start {command[0]!r}: {error.strerror}", flush=True)  # noqa: T201 - stdout is the attempt's log
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            self._record(NOT_FOUND if missing else NOT_EXECUTABLE)
            return
        os.close(ready)
        child = self._child
        assert child is not None
        while child.poll() is None:
            self._wait()
        self._signal(signal.SIGKILL)  # what the command left behind in its group
        code = child.returncode
        self._record(code if code >= 0 else SIGNAL_BASE - code)

    def _start(self, command: list[str]) -> None:
        own = os.getpid()
        guard = (lambda: _die_with(own)) if sys.platform == "linux" else None
        self._child = subprocess.Popen(  # noqa: S603 - running the user's command is the purpose
            command,
            start_new_session=True,
            preexec_fn=guard,  # noqa: PLW1509 - this process has one thread
        )
        now = time.time()
        pid = self._child.pid
        write_json(
            f"{self._folder}/child.json",
            {"pid": pid, "started_at": now, "start_ticks": start_ticks(pid)},
        )
        if self._timeout_s > 0:
            self._deadline = time.monotonic() + self._timeout_s

    def _wait(self) -> None:
        """Sleep until something happens: the child's end, an order, a signal, a time limit."""
        limits = [limit for limit in (self._deadline, self._kill_at) if limit is not None]
        timeout = max(0.0, min(limits) - time.monotonic()) if limits else None
        sources = [fd for fd in (self._wake, self._lifeline) if fd is not None]
        ready, _, _ = select.select(sources, [], [], timeout)
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._lifeline in ready:
            self._obey(os.read(self._lifeline, 64))
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._end(DEADLINE)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._signal(signal.SIGKILL)

    def _obey(self, orders: bytes) -> None:
        if not orders:
            self._lifeline = None
            self._end(RUNNER_GONE)
        if TERMINATE in orders:
            self._end(DELETED)
        if INTERRUPT in orders:
            self._end(INTERRUPTED)
        if KILL in orders:
            self._end(INTERRUPTED)
            self._signal(signal.SIGKILL)

    def _end(self, cause: str) -> None:
        """Ask the command to leave; it has the grace to do so. The first cause is the one recorded."""
        if self._cause is not None:
            return
        self._cause = cause
        self._deadline = None
        self._kill_at = time.monotonic() + self._grace_s
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError, PermissionError):  # nobody is left in the group
                os.killpg(self._child.pid, number)

    def _record(self, exit_code: int) -> None:
        write_json(
            f"{self._folder}/exit.json",
            {"exit_code": exit_code, "ended_at": time.time(), "cause": self._cause},
        )


def main(arguments: list[str]) -> None:
    """Run as `supervisor.py FOLDER LIFELINE READY LOCK TIMEOUT GRACE COMMAND...`."""
    folder, lifeline, ready, lock, timeout, grace = arguments[:6]
    for fd in (lifeline, ready, lock):
        os.set_inheritable(int(fd), False)  # the command must not hold them
    supervisor = Supervisor(folder, int(lifeline), float(timeout), float(grace))
    supervisor.run(arguments[6:], int(ready))


if __name__ == "__main__":
    main(sys.argv[1:])
