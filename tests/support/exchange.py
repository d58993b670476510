"""Imports of files into histories of their own."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from tests.support.suggesters import SetClock

from foretune.adapters.store import SqlHistory
from foretune.app.exchange import Summary, Wanted, format_of, import_file, open_archive

DATA = Path(__file__).parents[1] / "data"

MAPPING = """
tasks: task
objective: {column: acc, goal: maximize}
params:
  lr: {column: log_lr, unit: log10}
  layers: layers
  optimizer: opt
cost: runtime
space:
  lr: {min: 0.00001, max: 1.0, scale: log}
  layers: {min: 1, max: 8}
  optimizer: {values: [adam, sgd]}
"""

HEAD = "task,log_lr,layers,opt,acc,runtime\n"


def brought(
    path: Path,
    history: Path | str,
    *,
    mapping: str | None = None,
    format: str | None = None,  # noqa: A002 - as the option
    namespace: str | None = None,
    as_is: bool = False,
) -> Summary:
    """Import a file, and return what became of it."""
    wanted = Wanted(
        path=path,
        source=path.name,
        format=format_of(path, format),
        mapping=mapping,
        namespace=namespace,
        as_is=as_is,
    )
    if isinstance(history, Path):
        empty_history(history)
    with open_archive(str(history)) as archive:
        return import_file(wanted, archive, SetClock())


def empty_history(path: Path) -> Path:
    """Make an empty history at a path where there is none, and return the path."""
    if not path.exists():
        path.write_bytes(_empty())
    return path


@functools.cache
def _empty() -> bytes:
    """Return an empty history, so that not each test migrates one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        history = SqlHistory(str(path))
        history.migrate()
        history.close()
        return path.read_bytes()


def opened(history: Path | str) -> SqlHistory:
    """Return a history to look into; close it."""
    return SqlHistory(str(history), read_only=True)
