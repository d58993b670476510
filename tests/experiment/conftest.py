"""A small family of recorded tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ["a", "b", "c"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recorded data with one small family, and `FORETUNE_DATA` pointing to it."""
    folder = tmp_path / "data" / "history" / "steplaw_llm"
    folder.mkdir(parents=True)
    lrs, sizes = [0.001, 0.002, 0.004, 0.008], [32, 64, 128, 256, 512]
    rows = [
        {"task": task, "lr": lr, "bs": bs, "loss": abs(i - shift) + 0.1 * j}
        for shift, task in enumerate(TASKS)
        for i, lr in enumerate(lrs)
        for j, bs in enumerate(sizes)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "steplaw_dense.parquet")
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"
