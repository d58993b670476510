"""`foretune run`: reads the manifest, runs the job on this machine, and tells how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from foretune.api.manifest import SIZE_LIMIT, load
from foretune.app.local import check_data, open_run
from foretune.app.place import place
from foretune.cli import words
from foretune.cli.chart import chart
from foretune.cli.exits import COMPLETE, FAILED, INTERRUPTED, TERMINATED
from foretune.cli.progress import lines
from foretune.constants import LOCAL_NAMESPACE, Condition
from foretune.errors import InvalidJobError, Problem
from foretune.planner.finish import best

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import FrameType

    from foretune.api.v1alpha1 import TuningJob
    from foretune.app.local import LocalRun
    from foretune.cli.progress import Lines

TICK_S: Final = 0.1
"""Seconds between two looks at signals and at the display."""

REQUESTS: Final = "foretune.services.tracker.http"
"""Logger of refused requests: a trial that reports before the loop has named its process is no news."""

CODES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
"""Signals that stop a run, and the exit code of each."""


def run(arguments: argparse.Namespace) -> int:
    """Run a job to its end, or until the user stops it; return the exit code."""
    manifest = read(arguments.manifest)
    where = place(arguments.history, os.environ)
    display = lines()
    check_data(manifest, os.environ, display.say)
    with (
        open_run(
            manifest,
            where,
            environ=os.environ,
            parallel=arguments.parallel,
            anew=arguments.new,
            grace_s=arguments.grace,
            telemetry=display,
        ) as job_run,
        _logging(display),
        _Interrupts(job_run, display) as interrupts,
    ):
        display.begin(job_run)
        try:
            job_run.start()
            while not job_run.finished.wait(TICK_S):
                interrupts.act()
                display.tick()
        finally:
            display.end()
        return _report(job_run, display, interrupts, arguments)


def read(name: str) -> TuningJob:
    """Return the job of a manifest file, or of stdin for `-`; raises `InvalidJobError`."""
    source = "stdin" if name == "-" else name
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise InvalidJobError([Problem(source, "there is no such file")]) from None
    except OSError as error:
        message = f"can't be read: {error.strerror}"
        raise InvalidJobError([Problem(source, message)]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) <= SIZE_LIMIT:
            message = f"is not UTF-8 text (byte {error.start})"
            raise InvalidJobError([Problem(source, message)]) from None
        text = data.decode(errors="replace")
    return load(text, source)


class _Interrupts:
    """Ctrl-C and SIGTERM: the first one stops the run with grace, the second kills its trials."""

    def __init__(self, job_run: LocalRun, display: Lines) -> None:
        """Listen while the block runs."""
        self._run = job_run
        self._display = display
        self._heard = 0
        self._done = 0
        self.first: signal.Signals | None = None
        """The signal that stopped the run, or None."""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def act(self) -> None:
        """Do what was asked for since the last time."""
        if self._heard == self._done:
            return
        if self._done == 0:
            asked = self._run.interrupt()
            what = words.plural(asked, "running trial")
            self._display.say(f"stopping {what}; Ctrl-C again kills at once")
        if self._heard > 1:
            self._run.kill()
        self._done = self._heard

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        # A handler runs between any two steps of the main thread: it takes no lock and prints nothing.
        self._heard += 1
        self.first = self.first or signal.Signals(number)


class _Handler(logging.Handler):
    """Prints warnings between the display's lines."""

    def __init__(self, display: Lines) -> None:
        """Print to `display`."""
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message on one line; tracebacks are for bug reports, at level debug elsewhere."""
        text = words.one_line(record.getMessage().replace("\n", " "), limit=500)
        self._display.say(f"{record.levelname.lower()}: {text}")


@contextlib.contextmanager
def _logging(display: Lines) -> Iterator[None]:
    """Show our own warnings, and nobody else's, while the block runs."""
    logger, handler = logging.getLogger("foretune"), _Handler(display)
    handler.addFilter(lambda record: record.name != REQUESTS)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _report(
    job_run: LocalRun, display: Lines, interrupts: _Interrupts, arguments: argparse.Namespace
) -> int:
    """Tell how the run ended; return the exit code. Raises what broke the run."""
    turn, name = job_run.turn, job_run.job.key.name
    history = f" --history {shlex.quote(arguments.history)}" if arguments.history else ""
    again = f"foretune run {shlex.quote(arguments.manifest)}{history}"
    done = turn is not None and turn.done
    if job_run.error is not None:
        display.say(f"{name}: broken off; the same command goes on: {again}")
        raise job_run.error
    if interrupts.first is not None and not done:
        ended = sum(trial.state.terminal for trial in job_run.trials())
        of = f"{ended} of {words.plural(job_run.job.spec.trials, 'trial')} have ended"
        display.say(f"{name}: stopped, {of}; the same command goes on: {again}")
        return CODES[interrupts.first]
    assert turn is not None
    end = {c["type"]: c for c in turn.status["conditions"] if c["status"] == "True"}
    refused = next((c for c in turn.status["conditions"] if c["type"] == Condition.ACCEPTED), None)
    trials = job_run.trials()
    for line in _summary(job_run):
        display.say(line)
    if Condition.COMPLETE in end:
        head = "was complete already" if not display.started and job_run.known else "complete"
        display.say(f"{name}: {head}: {end[Condition.COMPLETE]['message']}")
        display.say(f"more:  foretune trials {name}{history}")
        display.say(f"       foretune best {name} -o json{history}")
        if not display.started and job_run.known:
            display.say("a larger budget.trials goes on; --new starts anew")
        return COMPLETE
    failure = end.get(Condition.FAILED) or refused
    message = failure["message"] if failure else "its trials can't be started"
    said = " ".join(str(message).split())
    print(f"{name}: failed: {said}", file=sys.stderr)
    display.say(f"more:  foretune trials {name}{history}" if trials else f"logs:  {job_run.state}")
    display.say(f"once the cause is mended: {again} --new")
    return FAILED


def _summary(job_run: LocalRun) -> Iterator[str]:
    """Yield the best configuration and the chart, if a trial gave a value."""
    objective, trials = job_run.job.spec.objective, job_run.trials()
    winner = best(objective, trials)
    if winner is None:
        return
    yield ""
    lines_of_chart = chart(trials, objective, encoding=sys.stdout.encoding or "ascii")
    yield from lines_of_chart
    if lines_of_chart:
        yield ""
    epochs = f" after {words.plural(int(winner.epochs), 'epoch')}" if winner.epochs else ""
    yield f"best: {objective.metric} {words.number(winner.value)}{epochs}, trial {winner.index}"
    width = max(map(len, winner.params), default=0)
    for name, value in winner.params.items():
        yield f"  {name:<{width}}  {words.setting(value)}"
    yield ""


__all__ = ["LOCAL_NAMESPACE", "read", "run"]
