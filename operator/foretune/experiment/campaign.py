"""Many runs: which ones, in what order, in how many processes, and how far it is."""

from __future__ import annotations

import functools
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import foretune
from foretune.experiment.histories import SPLIT
from foretune.experiment.methods import WITHOUT_HISTORY
from foretune.experiment.replay import Cell, run
from foretune.experiment.tasks import CHOOSING, HALVES, REPORTING, half_of, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foretune.experiment.ledger import Ledger

QUIET_LINE_S: Final = 30.0
"""Seconds between two lines of progress where stderr is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What to run: the product of all that is listed."""

    families: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int = 5
    tasks: int = 0
    """Tasks of each family, as many of either half as there are, spread evenly over their names; 0: all."""
    half: str = ""
    """Only tasks of this half; empty: of both."""
    protocols: tuple[str, ...] = ("pool",)
    batches: tuple[int, ...] = (1,)
    variants: tuple[str, ...] = ("",)
    budget: int = 50
    rows: int = 200
    sources: tuple[int, ...] = (0,)
    """Source tasks, drawn at random by seed; 0 takes all others."""

    def cells(self) -> list[Cell]:
        """Return the runs: all methods of one task and seed together, so that a part is a fair part.

        A method that is given no history has one run for all histories.
        """
        found = [
            self._cell(
                seed=seed,
                family=family,
                task=task,
                method=method,
                protocol=protocol,
                batch=batch,
                variant=variant,
                sources=sources,
            )
            for seed in range(self.seeds)
            for family in self.families
            for task in chosen(
                family, [table.task for table in load(family)], self.tasks, self.half
            )
            for protocol, batch, variant, sources in itertools.product(
                self.protocols, self.batches, self.variants, self.sources
            )
            if variant != SPLIT or half_of(family, task) == REPORTING
            for method in self.methods
        ]
        return list(dict.fromkeys(found))

    def _cell(self, *, variant: str, sources: int, method: str, **place: Any) -> Cell:
        cell = Cell(**place, method=method, budget=self.budget)
        if method in WITHOUT_HISTORY:
            return replace(cell, rows=0)
        return replace(cell, rows=self.rows, sources=sources, variant=variant)


def chosen(family: str, names: Sequence[str], count: int, half: str = "") -> list[str]:
    """Return `count` of a family's tasks, from both halves alike as far as they reach, or from one alone.

    Spread evenly over each half's names; 0 takes all.
    """
    halves = {h: [name for name in names if half_of(family, name) == h] for h in HALVES}
    if half:
        return spread_over(halves[half], count)
    if not 0 < count < len(names):
        return list(names)
    choosing = min(len(halves[CHOOSING]), count // 2)
    choosing = max(choosing, count - len(halves[REPORTING]))
    kept = {
        *(spread_over(halves[REPORTING], count - choosing) if count > choosing else ()),
        *(spread_over(halves[CHOOSING], choosing) if choosing else ()),
    }
    return [name for name in names if name in kept]


def spread_over(names: Sequence[str], count: int) -> list[str]:
    """Return `count` of the names, evenly spaced; all when `count` is 0 or more than there are."""
    if not 0 < count < len(names):
        return list(names)
    return [names[i * len(names) // count] for i in range(count)]


def carry_out(
    cells: Iterable[Cell], ledger: Ledger, *, jobs: int = 1, out: TextIO = sys.stderr
) -> int:
    """Run what the ledger does not hold yet, and return how many runs failed.

    A run that fails is recorded with its error and tried again by the next call; the others go on.
    """
    known = ledger.done()
    cells = list(cells)
    missing = [cell for cell in cells if cell not in known]
    progress = Progress(len(cells), len(cells) - len(missing), out)
    failed = 0
    if not missing:
        return failed
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    with ledger.writing() as writer, pool as workers:
        futures = {workers.submit(attempt, cell): cell for cell in missing}
        try:
            for future in as_completed(futures):
                record = future.result()
                writer.add(futures[future], record)
                failed += "error" in record
                progress.step(futures[future], record)
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    progress.end(failed)
    return failed


def _begin_worker() -> None:
    """Let a worker die silently of Ctrl-C, and with its parent, which kill -9 may have ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def attempt(cell: Cell) -> dict[str, Any]:
    """Return the record of a run, or its error; called in a worker."""
    began = time.time()
    try:
        record = run(cell)
    except Exception as error:  # noqa: BLE001 - one broken run must not end a campaign of thousands
        trace = "".join(traceback.format_exception(error))
        record = {"error": f"{type(error).__name__}: {error}", "trace": trace}
    return record | {
        "code": code_digest(),
        "version": foretune.__version__,
        "seconds": time.time() - began,
    }


@functools.cache
def code_digest() -> str:
    """Return a short digest of the sources that decide what this project's methods propose."""
    root = Path(foretune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(
        [*root.glob("search/**/*.py"), *root.glob("domain/*.py"), root / "optimizer.py"]
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Progress:
    """One line that says how far it is: rewritten on a terminal, now and then anew elsewhere."""

    def __init__(self, total: int, done: int, out: TextIO) -> None:
        """Start at `done` of `total` runs."""
        self._total, self._first, self._done, self._out = total, done, done, out
        self._began = self._told = time.monotonic()
        if done:
            print(f"{done} of {total} runs are there already", file=out)

    def step(self, cell: Cell, record: dict[str, Any]) -> None:
        """Count a run, and say so."""
        self._done += 1
        now = time.monotonic()
        left_s = (now - self._began) / (self._done - self._first) * (self._total - self._done)
        if "error" in record:
            print(f"\n{cell}: {record['error']}", file=self._out)
        line = (
            f"{self._done}/{self._total} runs, about {_duration(left_s)} left "
            f"({cell.family} {cell.method} seed {cell.seed})"
        )
        if self._out.isatty():
            print(f"\r{line:<100.100}", end="", file=self._out, flush=True)
        elif now - self._told >= QUIET_LINE_S or self._done == self._total:
            self._told = now
            print(line, file=self._out, flush=True)

    def end(self, failed: int) -> None:
        """Say how it ended."""
        if self._out.isatty():
            print(file=self._out)
        if failed:
            print(f"{failed} runs failed; the same command tries them again", file=self._out)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
