"""The live display of a terminal: a bar, the best so far, and a row for each running trial."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foretune.cli import words
from foretune.cli.progress import Lines
from foretune.domain.trial import TrialState
from foretune.errors import UnavailableError
from foretune.planner.finish import best

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from foretune.app.local import LocalRun
    from foretune.domain.job import JobSpec
    from foretune.domain.trial import Trial

REFRESH_S: Final = 0.5
"""Seconds between two looks into the history; trials report once an epoch."""

BAR: Final = 30
"""Columns of the bar."""

ROWS: Final = 12
"""Running trials that are shown; a line tells how many more there are."""


def fits(stream: TextIO) -> bool:
    """Whether a live display can be drawn there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


class Live(Lines):
    """Draws the state of the run below the lines that it has told."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        super().__init__()
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._began = time.time()
        self._next_s = 0.0

    def begin(self, run: LocalRun) -> None:
        """Tell what will be run, and begin to draw."""
        super().begin(run)
        self._live.start()

    def tick(self) -> None:
        """Draw what has changed."""
        now = time.monotonic()
        if now >= self._next_s and self._run is not None:
            self._next_s = now + REFRESH_S
            with contextlib.suppress(UnavailableError):  # the run itself tells, and tries again
                self._live.update(picture(self._run, time.time(), self._began), refresh=True)

    def end(self) -> None:
        """Take the picture away; the lines stay."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the picture."""
        self._console.print(Text(text))

    def say_end(self, text: str, *, well: bool) -> None:
        """Print a trial's line; a narrow terminal cuts its parameters, but never why it failed."""
        how: dict[str, Any] = (
            {"soft_wrap": False, "no_wrap": True, "overflow": "ellipsis"} if well else {}
        )
        self._console.print(Text(text), **how)


def picture(run: LocalRun, now: float, began: float) -> RenderableType:
    """Return what is drawn of a run at Unix time `now`; it was begun at `began`."""
    spec, trials = run.job.spec, run.trials()
    ended = sum(trial.state.terminal for trial in trials)
    failed = sum(trial.counts_as_failure for trial in trials)
    running = [t for t in trials if t.state in {TrialState.RUNNING, TrialState.PENDING}]
    left = eta(spec, trials, now)
    head = Table.grid(padding=(0, 2))
    facts = [f"{ended}/{spec.trials} trials", f"{len(running)} running"]
    if failed:
        facts.append(f"{failed} failed")
    facts.append(words.duration(now - began))
    if left is not None:
        facts.append(f"about {words.duration(left)} left")
    bar = ProgressBar(total=spec.trials, completed=ended, width=BAR)
    head.add_row(Text(run.job.key.name, style="bold"), bar, Text(" · ".join(facts)))
    parts: list[RenderableType] = [head]
    winner = best(spec.objective, trials)
    if winner is not None:
        text = f"best: {spec.objective.metric} {words.number(winner.value)}, trial {winner.index}"
        parts.append(Text(f"{text}  {words.settings(winner.params)}", style="green"))
    parts.append(_running(spec, running, now))
    if len(running) > ROWS:
        parts.append(Text(f"  and {len(running) - ROWS} more"))
    return Group(*parts)


def _running(spec: JobSpec, running: Sequence[Trial], now: float) -> RenderableType:
    rows = []
    for trial in running[:ROWS]:
        starts = [a.started_at for a in trial.attempts if a.started_at is not None]
        value = f"{spec.objective.metric} {words.number(trial.value)}" if trial.reports else ""
        rows.append(
            (
                f"  trial {trial.index}",
                f"epoch {trial.epochs:g}" if trial.reports else "starting",
                value,
                words.duration(now - min(starts)) if starts else "",
                words.settings(trial.params),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = Text(no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts a line's end
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        text.append("\n" if number else "")
        text.append(cells[0], style="cyan")
        text.append("  " + "  ".join(cells[1:-1]))
        text.append(f"  {row[-1]}", style="dim")
    return text


def eta(spec: JobSpec, trials: Sequence[Trial], now: float) -> float | None:
    """Return the seconds that are left by the mean of the trials so far; None without any."""
    ran = [words.seconds_of(trial) for trial in trials if trial.state.terminal]
    seconds = [one for one in ran if one is not None]
    if not seconds:
        return None
    mean = sum(seconds) / len(seconds)
    spent = 0.0
    for trial in trials:
        starts = [a.started_at for a in trial.attempts if a.started_at is not None]
        if not trial.state.terminal and starts:
            spent += min(mean, now - min(starts))
    open_trials = spec.trials - sum(trial.state.terminal for trial in trials)
    at_once = max(1, min(spec.parallelism, open_trials))
    return max(0.0, (mean * open_trials - spent) / at_once)
