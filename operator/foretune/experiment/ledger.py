"""Runs on disk: one line of JSON each, appended as it ends, so that a campaign resumes where it was cut off."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any, Final

from foretune.errors import InvalidInputError
from foretune.experiment.replay import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FIELDS: Final = tuple(field.name for field in dataclasses.fields(Cell))
"""Keys of a record that say which cell it belongs to."""


class Ledger:
    """The runs of a folder. Written by one process at a time: a second one is refused."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which need not exist yet."""
        self._path: Final = folder / "runs.jsonl"

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the last record of each cell, in the order in which they were first run.

        A last line that was cut off by a kill is no record.
        """
        found: dict[Cell, dict[str, Any]] = {}
        for line in self._lines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            found[cell_of(record)] = record
        yield from found.values()

    def done(self) -> set[Cell]:
        """Return the cells that have ended well."""
        return {cell_of(record) for record in self.records() if "error" not in record}

    def _lines(self) -> Iterable[str]:
        if not self._path.is_file():
            return []
        return self._path.read_text(encoding="utf-8").splitlines()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Give a writer; raises `InvalidInputError` while another process writes to this folder."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidInputError(f"out: another replay writes to {self._path}") from None
            _end_line(file)
            yield Writer(file)


class Writer:
    """Appends records."""

    def __init__(self, file: Any) -> None:
        """Append to an open file."""
        self._file = file

    def add(self, cell: Cell, record: dict[str, Any]) -> None:
        """Append one run; it is on disk when this returns."""
        line = json.dumps({**dataclasses.asdict(cell), **record}, allow_nan=True)
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _end_line(file: Any) -> None:
    """End a line that a kill has cut off, so that the next record begins a line of its own."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != "\n":
            file.write("\n")


def cell_of(record: dict[str, Any]) -> Cell:
    """Return the cell a record belongs to."""
    return Cell(**{name: record[name] for name in FIELDS})
