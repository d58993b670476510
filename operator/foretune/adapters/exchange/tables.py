"""CSV and Parquet as streams of rows: the line of each, and its cells by column."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SEPARATORS: Final = (",", ";", "\t", "|")
"""What may stand between the cells of a CSV file."""

CELL_LIMIT: Final = 4 * 1024 * 1024
"""Characters of one cell: a curve may stand in one."""

UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
"""How a file in UTF-16 begins."""

EXTRA: Final = "(more cells)"
"""Name of what a row has beyond its head."""

BATCH: Final = 1000
"""Rows of a Parquet file in memory at once."""

PARQUET: Final = b"PAR1"
"""How a Parquet file begins."""


@dataclass(frozen=True)
class TableRow:
    """One row."""

    line: int
    """Line of the file on which it begins; in Parquet its number, from 1."""
    cells: dict[str, Any]
    problem: str = ""
    """Why it can't be read, if it can't."""


class CsvTable:
    """A CSV file with a head, in UTF-8 with or without byte order mark."""

    def __init__(self, path: Path, *, separator: str | None = None) -> None:
        """Take a file; without a separator it is the one that the head has most often."""
        self._path = path
        csv.field_size_limit(CELL_LIMIT)
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(UTF16):
            raise InvalidInputError(f"{path}: is UTF-16; save it as UTF-8")
        self.separator = separator or self._separator()
        with self._reading() as file:
            head = next(self._parsed(file), None)
        names = [name.strip() for name in head or []]
        while names and not names[-1]:
            names.pop()
        if not names:
            raise InvalidInputError(f"{path}: has no head with the names of columns")
        _check_names(names, f"{path}: line 1")
        self.columns: Sequence[str] = names

    def rows(self) -> Iterator[TableRow]:
        """Yield every row that is not empty."""
        with self._reading() as file:
            reader = self._parsed(file)
            next(reader)
            width, line = len(self.columns), self._line + 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    row: dict[str, Any] = dict(zip(self.columns, cells, strict=False))
                    problem = ""
                    if len(cells) < width:
                        problem = f"has {len(cells)} cells where the head has {width}"
                    elif any(cell.strip() for cell in cells[width:]):
                        problem = (
                            f"has {len(cells)} cells where the head has {width}: a comma in a number "
                            "or a text without quotes?"
                        )
                        row[EXTRA] = cells[width:]
                    yield TableRow(line, row, problem)
                line = self._line + 1

    def _reading(self) -> io.TextIOWrapper:
        return self._path.open(encoding="utf-8-sig", newline="")

    def _parsed(self, file: io.TextIOWrapper) -> Iterator[list[str]]:
        self._line = 0
        reader = csv.reader(file, delimiter=self.separator)
        while True:
            try:
                cells = next(reader, None)
            except UnicodeDecodeError as error:
                raise InvalidInputError(
                    f"{self._path}: is not UTF-8 (byte 0x{error.object[error.start]:02x} after line "
                    f"{self._line}): convert it, for instance with iconv -f latin1 -t utf-8"
                ) from None
            except csv.Error as error:
                raise InvalidInputError(f"{self._path}: line {reader.line_num}: {error}") from None
            self._line = reader.line_num
            if cells is None:
                return
            yield cells

    def _separator(self) -> str:
        with self._reading() as file:
            try:
                head = file.readline(CELL_LIMIT)
            except UnicodeDecodeError:
                raise InvalidInputError(
                    f"{self._path}: is not UTF-8: convert it, for instance with iconv -f latin1 -t utf-8"
                ) from None
        counts = {mark: len(next(csv.reader([head], delimiter=mark), [])) for mark in SEPARATORS}
        return max(SEPARATORS, key=lambda mark: counts[mark])


class ParquetTable:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        """Take a file; raises `InvalidInputError` when it is another kind of file."""
        import pyarrow as pa  # noqa: PLC0415 - an extra, and heavy
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(f"{path}: is no Parquet file: {error}") from None
        self.columns: Sequence[str] = list(self._file.schema_arrow.names)
        _check_names(self.columns, str(path))

    def rows(self) -> Iterator[TableRow]:
        """Yield every row."""
        line = 0
        for batch in self._file.iter_batches(BATCH):
            for cells in batch.to_pylist():
                line += 1
                yield TableRow(line, cells)


Table = CsvTable | ParquetTable


def sample(table: Table, count: int) -> list[TableRow]:
    """Return the first rows."""
    return list(islice(table.rows(), count))


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"{where}: two columns are called {twice[0]!r}")
