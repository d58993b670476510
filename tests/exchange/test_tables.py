"""The traps of CSV, and what is guessed of a table without a mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.exchange import HEAD, MAPPING, brought, opened

from foretune.adapters.exchange import cells
from foretune.adapters.exchange.guess import guess
from foretune.adapters.exchange.mapping import load
from foretune.adapters.exchange.tables import CsvTable, sample
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def rows(path: Path, text: bytes) -> list[tuple[int, dict[str, object]]]:
    """Write a CSV file, and return its rows with their lines."""
    path.write_bytes(text)
    return [(row.line, row.cells) for row in sample(CsvTable(path), 100)]


@pytest.mark.parametrize(
    "text",
    [
        b"a,b\n1,x\n2,y\n",
        b"\xef\xbb\xbfa;b\r\n1;x\r\n2;y\r\n",
        b"a\tb\n1\tx\n\n2\ty",
        b'"a",b\n"1",x\n,\n2,"y"\n',
    ],
)
def test_separators_marks_and_ends_of_lines(tmp_path: Path, text: bytes) -> None:
    """Commas, semicolons, tabs, a byte order mark, CRLF and empty lines are read alike."""
    found = [cells for _, cells in rows(tmp_path / "t.csv", text)]
    assert found == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def test_a_line_break_in_quotes_keeps_the_count(tmp_path: Path) -> None:
    """A text over three lines is one cell, and the next row has its own line of the file."""
    found = rows(tmp_path / "t.csv", b'a,b\n1,"x\ny\nz"\n2,w\n')
    assert found == [(2, {"a": "1", "b": "x\ny\nz"}), (5, {"a": "2", "b": "w"})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a,b\n1,\xe4\n", "is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"", "has no head"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
    ],
)
def test_what_can_not_be_read_is_told(tmp_path: Path, text: bytes, reason: str) -> None:
    """Another encoding, a missing head and columns of one name are refused."""
    with pytest.raises(InvalidInputError, match=reason):
        rows(tmp_path / "t.csv", text)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 100000),
        ("1.0", 1),
        ("16", 16),
        (".5", 0.5),
        ("-2", -2),
        ("True", True),
        ("false", False),
        (" adam ", "adam"),
        ("", None),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1,5", "1,5"),
        (16.0, 16),
        (None, None),
    ],
)
def test_cells_are_what_they_look_like(cell: object, value: object) -> None:
    """Numbers in each spelling, whole ones as 1.0, booleans, texts and gaps."""
    found = cells.value(cell)
    assert found == value
    assert type(found) is type(value)


@given(st.text() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_cell_is_read_back_and_runs_nowhere(item: object) -> None:
    """Any value comes back with its type, and no cell begins as a formula unless it is a number."""
    cell = cells.written(item)
    back = cells.read(cell)
    assert back == item
    assert type(back) is type(item)
    if isinstance(item, str):
        assert not cell.startswith(cells.FORMULA)
        assert not cells.bare(item).startswith(cells.FORMULA) or cells.number(item) is not None


def test_a_guess_is_a_mapping_that_can_be_given(tmp_path: Path) -> None:
    """Prefixes, known names, logarithms, states, costs and ids are found; the printed file says the same."""
    path = tmp_path / "t.csv"
    path.write_text(
        "study_name,number,params_lr_log10,params_layers,seed,val_accuracy,train_accuracy,state,duration\n"
        "a,0,-3,2,1,0.9,0.99,COMPLETE,12\na,1,-2,3,1,0.8,0.99,FAIL,13\n"
    )
    found = guess(CsvTable(path))
    assert not found.doubts
    assert found.left_out == ("seed", "train_accuracy")
    told = found.mapping
    assert (told.tasks.column, told.objective.column, told.id) == (
        *("study_name", "val_accuracy", "number"),
    )
    assert told.objective.goal == "maximize"
    assert {name: param.unit for name, param in told.params.items()} == {
        "lr": "log10",
        "layers": None,
    }
    assert load(found.printed(), "guess") == told


def test_what_can_not_be_guessed_is_asked(tmp_path: Path) -> None:
    """Two objectives, or one that tells no direction, are doubts; without any there is no guess."""
    path = tmp_path / "t.csv"
    path.write_text("lr,score\n1,2\n")
    assert "objective.goal" in guess(CsvTable(path)).doubts[0]
    path.write_text("lr,val_loss,val_acc\n1,2,3\n")
    assert "objective.column" in guess(CsvTable(path)).doubts[0]
    with pytest.raises(InvalidInputError, match="may be any of val_loss, val_acc"):
        brought(path, tmp_path / "h.db")
    path.write_text("lr,name\n1,x\n")
    with pytest.raises(InvalidInputError, match="no column is known as an objective"):
        guess(CsvTable(path))


@pytest.mark.slow
def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    """A Parquet table with types, gaps and a list as curve gives the trials that a CSV file gives."""
    table = {
        "task": ["a", "a"],
        "log_lr": [-2.0, -3.0],
        "layers": [2.0, None],
        "opt": ["adam", "sgd"],
        "acc": [0.5, 0.75],
        "runtime": [1, 2],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    summary = brought(tmp_path / "t.parquet", tmp_path / "h.db", mapping=MAPPING)
    (tmp_path / "t.csv").write_text(HEAD + "a,-2,2,adam,0.5,1\na,-3,,sgd,0.75,2\n")
    other = brought(tmp_path / "t.csv", tmp_path / "h2.db", mapping=MAPPING)
    told = []
    for name, found in (("h.db", summary), ("h2.db", other)):
        history = opened(tmp_path / name)
        told.append([(t.params, t.value) for t in history.trials(found.tasks[0].uid)])
        history.close()
    assert (
        told[0]
        == told[1]
        == [
            ({"lr": 0.01, "layers": 2, "optimizer": "adam"}, 0.5),
            ({"lr": 0.001, "optimizer": "sgd"}, 0.75),
        ]
    )
    lists = {"lr": [0.1], "curve": [[0.5, 0.25]]}
    pq.write_table(pa.table(lists), tmp_path / "c.parquet")
    mapping = "objective: {metric: y, goal: minimize}\nparams: {lr: lr}\ncurve: {column: curve}\n"
    assert brought(tmp_path / "c.parquet", tmp_path / "h.db", mapping=mapping).total.added == 1
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InvalidInputError, match="is no Parquet file"):
        brought(tmp_path / "bad.parquet", tmp_path / "h.db", mapping=mapping)
