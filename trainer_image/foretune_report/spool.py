"""Reports that are not acknowledged yet: in memory, and in a file so that a restart does not lose them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of reports kept; beyond that the oldest are dropped. About 10,000 reports of usual size."""

PREFIX: Final = "reports-"
"""Start of the name of a spool file."""


def encode(record: dict[str, Any]) -> bytes:
    """Return a record as one line without its end; raises `ValueError` for NaN."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


class Spool:
    """A bounded queue by `seq`. Not thread-safe: its owner holds a lock where two threads meet.

    The file begins with a line `{"next": seq}` and has a line a report. It is written before anything is
    sent, so that no number that the tracker may have seen is given to another report after a restart.
    """

    def __init__(self, path: Path | None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        """Read what an earlier process of the same pod left at `path`; None keeps nothing on disk."""
        self._path = path
        self._limit = limit_bytes
        self._pending: dict[int, bytes] = {}
        self._saved_to = -1
        self._file_bytes = 0
        self._lines = 0
        self._bytes = 0
        self.dropped = 0
        """Reports that will never arrive."""
        self.next_seq = 0
        if path is not None:
            records, self.next_seq = read(path)
            for record in records:
                self._put(int(record["seq"]), encode(record))
            self._saved_to = self.next_seq - 1
            self._lines = len(records)
            with suppress(OSError):
                self._file_bytes = path.stat().st_size

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def fresh(self) -> bool:
        """Whether there are reports that `unsaved` has not returned yet."""
        return bool(self._pending) and next(reversed(self._pending)) > self._saved_to

    def take_seq(self) -> int:
        """Return the number of the next report."""
        seq = self.next_seq
        self.next_seq += 1
        return seq

    def put(self, seq: int, line: bytes) -> None:
        """Keep a report; the oldest are dropped where there is no room."""
        self._put(seq, line)
        while self._bytes > self._limit and len(self._pending) > 1:
            self.drop(next(iter(self._pending)))

    def _put(self, seq: int, line: bytes) -> None:
        self._pending[seq] = line
        self._bytes += len(line)

    def batch(self, limit_bytes: int, limit: int) -> dict[int, bytes]:
        """Return the oldest reports, at least one, that fit into a body of `limit_bytes`."""
        found: dict[int, bytes] = {}
        size = 2
        for seq, line in self._pending.items():
            size += len(line) + 1
            if found and (size > limit_bytes or len(found) >= limit):
                break
            found[seq] = line
        return found

    def remove(self, seq: int) -> None:
        """Forget a report that has arrived."""
        line = self._pending.pop(seq, None)
        if line is not None:
            self._bytes -= len(line)

    def drop(self, seq: int) -> None:
        """Forget a report that will never arrive."""
        self.remove(seq)
        self.dropped += 1

    def unsaved(self) -> tuple[bytes, bool]:
        """Return what is to be written, and whether it is the whole file or goes to its end.

        Nothing is returned when the file is right as it is.
        """
        fresh = [line for seq, line in self._pending.items() if seq > self._saved_to]
        whole = (
            self._file_bytes == 0
            or self._file_bytes > 2 * self._limit
            or (not self._pending and self._lines > 0)
        )
        if not fresh and not (whole and self._lines):
            return b"", False
        lines = list(self._pending.values()) if whole else fresh
        self._lines = len(lines) + (0 if whole else self._lines)
        self._saved_to = max(self._saved_to, *self._pending, -1)
        head = [encode({"next": self.next_seq})] if whole else []
        return b"".join(line + b"\n" for line in (*head, *lines)), whole

    def save(self, content: bytes, *, whole: bool) -> None:
        """Write what `unsaved` returned; raises `OSError`. May run while others use the queue."""
        if self._path is None or not content:
            return
        try:
            if whole:
                temporary = self._path.with_suffix(".tmp")
                temporary.write_bytes(content)
                temporary.replace(self._path)
            else:
                with self._path.open("ab") as file:
                    file.write(content)
        except OSError:
            self._file_bytes = 0  # the next time all of it is written
            raise
        self._file_bytes = len(content) + (0 if whole else self._file_bytes)


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the reports of a spool file and the next number; torn lines are passed over."""
    records: list[dict[str, Any]] = []
    following = 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        if isinstance(record.get("next"), int):
            following = max(following, record["next"])
        elif isinstance(record.get("seq"), int):
            records.append(record)
            following = max(following, record["seq"] + 1)
    return records, following


def leftovers(folder: Path, own: Path, trial: str) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return what earlier pods of `trial` could not deliver, oldest first, and the files it stands in."""
    records: list[dict[str, Any]] = []
    files = [path for path in sorted(folder.glob(f"{PREFIX}*.jsonl")) if path != own]
    for path in files:
        records += [record for record in read(path)[0] if record.get("trial") == trial]
    return sorted(records, key=lambda record: (record.get("attempt", 0), record["seq"])), files
