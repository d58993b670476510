"""Where jobs and trials are read from: the history of local runs, or a cluster's tracker."""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from foretune.constants import LOCAL_NAMESPACE, Phase
from foretune.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from foretune.domain.history import JobRecord, Proposal
    from foretune.domain.trial import Trial

TOKEN: Final = "FORETUNE_TOKEN"
"""Variable with the token for `--tracker` when there is no `--token-file`."""

STOPPED: Final = "Stopped"
"""Phase shown for a local job that has not ended and that nobody runs now."""

SHOWN: Final = 10
"""Names of jobs that an error lists at most."""


class Reader(Protocol):
    """What is asked of a history, in a file or behind a tracker."""

    def find_jobs(
        self, *, namespace: str | None = None, name: str | None = None
    ) -> Sequence[JobRecord]:
        """Return matching jobs, newest first."""

    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial of a job by index."""

    def proposals(self, job_uid: str) -> Sequence[Proposal]:
        """Return every proposal of a job by index."""


class Source:
    """Jobs of one history."""

    def __init__(self, reader: Reader, running: Callable[[JobRecord], bool], where: str) -> None:
        """Take who reads, who knows whether a job's loop runs, and the history's name for errors."""
        self._reader = reader
        self._running = running
        self._where = where

    def jobs(self) -> Sequence[JobRecord]:
        """Return every job, newest first."""
        return self._reader.find_jobs()

    def trials(self, job: JobRecord) -> Sequence[Trial]:
        """Return every trial of a job by index."""
        return self._reader.trials(job.uid)

    def proposals(self, job: JobRecord) -> Sequence[Proposal]:
        """Return every proposal of a job by index."""
        return self._reader.proposals(job.uid)

    def phase(self, job: JobRecord) -> str:
        """Return the job's phase; a local one that nobody runs is `Stopped`."""
        ended = job.phase in {Phase.COMPLETE, Phase.FAILED, "Deleted"}
        return job.phase if ended or self._running(job) else STOPPED

    def job(self, name: str) -> JobRecord:
        """Return the job of that name (or namespace/name) that was active last.

        Raises `NotFoundError` with names that come near.
        """
        namespace, _, short = name.rpartition("/")
        found = self._reader.find_jobs(namespace=namespace or None, name=short)
        if not found:
            raise NotFoundError(f"there is no job {name!r} in {self._where}{self._near(name)}")
        return found[0] if len(found) == 1 else max(found, key=self._active)

    def _active(self, job: JobRecord) -> float:
        """Return when something last happened to a job, Unix seconds."""
        times = [trial.ended_at or trial.created_at for trial in self.trials(job)]
        return max([job.created_at, job.closed_at or 0.0, *times])

    def _near(self, name: str) -> str:
        known = list(dict.fromkeys(job.name for job in self.jobs()))
        if not known:
            return ", which holds none"
        close = difflib.get_close_matches(name.rpartition("/")[2], known, n=3)
        if close:
            return f"; did you mean {' or '.join(repr(one) for one in close)}?"
        more = ", ..." if len(known) > SHOWN else ""
        return f"; it holds {', '.join(known[:SHOWN])}{more}"


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Source]:
    """Yield what the arguments name: `--tracker`, `--history`, or the user's own history."""
    if arguments.tracker is not None:
        with _tracker(arguments.tracker, arguments.token_file) as source:
            yield source
        return
    if arguments.token_file is not None:
        raise InvalidInputError("--token-file: goes with --tracker only")
    from foretune.app.place import open_history, place  # noqa: PLC0415 - SQLAlchemy

    where = place(arguments.history, os.environ)
    if not where.history.exists():
        hint = "`foretune run` makes one; for a cluster use --tracker"
        raise NotFoundError(f"there is no history at {where.history}: {hint}")
    history = open_history(where.history, read_only=True)

    def running(job: JobRecord) -> bool:
        return job.namespace != LOCAL_NAMESPACE or where.running(job.name)

    try:
        yield Source(history, running, f"the history {where.history}")
    finally:
        history.close()


@contextlib.contextmanager
def _tracker(url: str, token_file: str | None) -> Iterator[Source]:
    from foretune.adapters.http.tracker import HttpTracker  # noqa: PLC0415 - httpx

    _check_url(url)
    token = _token(token_file)
    tracker = HttpTracker(url, lambda: token)
    try:
        yield Source(tracker, lambda _job: True, f"the tracker {url}")
    finally:
        tracker.disconnect()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidInputError(f"--tracker: must be a URL as http://127.0.0.1:8080, not {url!r}")


def _token(file: str | None) -> str:
    if file is None:
        token, where = os.environ.get(TOKEN, ""), TOKEN
        if not token:
            raise InvalidInputError(
                f"--tracker: needs a token, from --token-file or {TOKEN}: "
                "kubectl create token default --audience foretune"
            )
    else:
        where = f"--token-file: {file}"
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not text"
            raise InvalidInputError(f"{where}: can't be read: {reason}") from None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError(f"{where}: holds no token")
    return token
