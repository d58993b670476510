"""Where local runs keep things: the history, and beside it the folders of attempts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foretune.adapters.store import SqlHistory
from foretune.errors import ConflictError, HistoryUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCK_PATIENCE_S: Final = 1.0
"""Seconds a run tries to lock its job: somebody who only looks whether it runs holds it for an instant."""


@dataclass(frozen=True)
class Place:
    """A history file and the folder in which attempts of its jobs live."""

    history: Path
    state: Path

    def running(self, name: str) -> bool:
        """Whether some process runs the local job of this name now."""
        try:
            fd = os.open(self._lock(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # never run, or by another user, whose runs are none of ours
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the local job of this name while the block runs; the lock ends with the process.

        Raises `ConflictError` when another process runs it, `InvalidInputError` when the folder can't be
        written.
        """
        path = self._lock(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInputError(f"{path.parent}: can't be written: {error.strerror}") from None
        try:
            if not _lock(fd):
                owner = os.read(fd, 32).decode(errors="replace").strip()
                who = f" by process {owner}" if owner else ""
                message = f"job {name!r} is being run{who} with the history {self.history}"
                raise ConflictError(f"{message}; `foretune status {name}` shows how it stands")
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    def _lock(self, name: str) -> Path:
        return self.state / "locks" / f"{name}.lock"


def place(history: str | None, environ: Mapping[str, str]) -> Place:
    """Return where things are for `--history`, or for the default history of this user.

    Raises `InvalidInputError` for something that is no file.
    """
    if history is not None and "://" in history:
        raise InvalidInputError(f"--history: must be a file of this machine, not {history!r}")
    try:
        data = Path(environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "foretune"
        file = Path(history).expanduser() if history else data / "history.db"
    except RuntimeError as error:  # pathlib's, for ~ without a home
        raise InvalidInputError(
            f"{error} Set XDG_DATA_HOME to a folder that can be written"
        ) from None
    if file.is_dir():
        raise InvalidInputError(f"--history: {file} is a folder; a file is needed")
    file = file.resolve()
    # Histories of one name in two folders are two histories, and their attempts must not meet.
    key = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    return Place(file, data.resolve() / "runs" / f"{file.stem}-{key}")


def open_history(path: Path, *, read_only: bool = False) -> SqlHistory:
    """Return a history whose schema is that of this version.

    Raises `InvalidInputError` when it can't be used, `NotFoundError` when it shall only be read and is not
    there.
    """
    try:
        history = SqlHistory(str(path), read_only=read_only)
        try:
            history.migrate()
        except BaseException:
            history.close()
            raise
    except HistoryUnavailableError as error:
        raise InvalidInputError(f"--history: {path}: {error}") from error
    return history


def _lock(fd: int) -> bool:
    limit = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        else:
            return True


__all__ = ["Place", "open_history", "place"]
