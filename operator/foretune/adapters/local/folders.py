"""Folders of attempts: what is on disk is the truth about an attempt, whoever asks and after any crash.

```
<state>/<job uid>/checkpoints/t0007/   shared by the attempts of trial 7
<state>/<job uid>/sdk/                 what `trial.inject` puts on PYTHONPATH
<state>/<job uid>/t0007-a0/            attempt 0 of trial 7
    attempt.json    written before the program starts: identity, configuration hash, GPUs, and whether
                    exit code 0 of the program always means that it finished (`honest`)
    lock            held by the supervisor as long as it lives
    child.json      process id and start of the program
    exit.json       exit code, end, and who caused it
    deleting, ttl   marks
    trial.json token log.txt termination.txt
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.adapters.local.supervisor import (
    DEADLINE,
    DELETED,
    INTERRUPTED,
    RUNNER_GONE,
    start_ticks,
    write_json,
)
from foretune.contract import TERMINATION_LIMIT
from foretune.domain.trial import AttemptPhase, ObservedAttempt

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = re.compile(r"(?:.*-)?(t(\d{4,})-a(\d+))")
"""Name of an attempt or its folder; groups: folder, index, number."""

_DISRUPTIONS: Final = {INTERRUPTED: "Interrupted", RUNNER_GONE: "RunnerGone"}


@dataclass(frozen=True)
class Folder:
    """The folder of one attempt."""

    path: Path

    @property
    def log(self) -> Path:
        """Stdout and stderr of the program."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """File whose lock the supervisor holds."""
        return self.path / "lock"

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a JSON record of the folder, or None while it is not there."""
        try:
            record = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        assert isinstance(record, dict)
        return record

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a JSON record whole."""
        write_json(str(self.path / name), record)

    def mark(self, name: str) -> None:
        """Set a mark."""
        (self.path / name).touch()

    def marked(self, name: str) -> bool:
        """Whether a mark is set."""
        return (self.path / name).exists()

    def alive(self) -> bool:
        """Whether the attempt's supervisor lives, whichever process started it."""
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def observe(self) -> ObservedAttempt | None:
        """Return what can be seen of the attempt; None for a folder that is no attempt's."""
        attempt = self.read("attempt.json")
        match = NAME.fullmatch(self.path.name)
        if attempt is None or match is None:
            return None
        # In this order: between the last two looks the supervisor may write its record and leave.
        alive = self.alive()
        end, child = self.read("exit.json"), self.read("child.json")
        code = None if end is None else int(end["exit_code"])
        cause = end["cause"] if end is not None else None
        # A program that leaves with 0 when it is asked to has not finished; our own trainer says 75 then.
        cut_short = cause == DEADLINE or (cause in _DISRUPTIONS and not attempt["honest"])
        finished = code == 0 and not cut_short
        if end is None and not alive:
            self._sweep(child)
        created = float(attempt["created_at"])
        return ObservedAttempt(
            name=str(attempt["name"]),
            index=int(match[2]),
            number=int(match[3]),
            config_hash=str(attempt["config_hash"]),
            phase=_phase(code, finished=finished, started=child is not None, alive=alive),
            created_at=created,
            bound_at=created,
            started_at=None if child is None else float(child["started_at"]),
            ended_at=None if end is None else float(end["ended_at"]),
            exit_code=code,
            disruption=_DISRUPTIONS.get(cause) if cause and not finished else None,
            deadline_exceeded=cause == DEADLINE,
            termination_message=self._termination(),
            pod_name=self.path.name,
            pod_uid=str(attempt["pod_uid"]),
            node=str(attempt["node"]),
            gpus=len(attempt["devices"]),
            ttl_set=self.marked("ttl"),
            deleting=self.marked("deleting") or cause == DELETED,
        )

    def tail(self, limit_bytes: int) -> str:
        """Return the end of the log, at most `limit_bytes`, from a line's beginning; empty without one."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                text = file.read(limit_bytes).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return text.partition("\n")[2] if size > limit_bytes else text

    def _termination(self) -> str:
        try:
            with (self.path / "termination.txt").open("rb") as file:
                return file.read(TERMINATION_LIMIT).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _sweep(self, child: dict[str, Any] | None) -> None:
        """Kill what a supervisor that was killed itself left in the program's process group.

        The program has died with it; its helpers have not. The number is theirs only if no younger
        process leads the group, which only /proc can tell: elsewhere nothing is done.
        """
        if child is None or sys.platform != "linux":
            return
        now = start_ticks(child["pid"])
        if now is None or now == child["start_ticks"]:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
                os.killpg(child["pid"], signal.SIGKILL)


def _phase(code: int | None, *, finished: bool, started: bool, alive: bool) -> AttemptPhase:
    if code is not None:
        return AttemptPhase.SUCCEEDED if finished else AttemptPhase.FAILED
    if not alive:
        return AttemptPhase.GONE
    return AttemptPhase.RUNNING if started else AttemptPhase.PENDING


def attempts(job_folder: Path) -> Iterator[Folder]:
    """Yield the folders of a job's attempts, by index and number."""
    if not job_folder.is_dir():
        return
    found = [(NAME.fullmatch(path.name), path) for path in job_folder.iterdir()]
    named = [(int(match[2]), int(match[3]), path) for match, path in found if match]
    for _, _, path in sorted(named):
        yield Folder(path)
