"""What a run tells while it goes on: plain lines for a pipe; `live` draws them for a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from foretune.cli import words
from foretune.planner.finish import best

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from foretune.app.local import LocalRun
    from foretune.domain.job import Job, JobKey
    from foretune.domain.trial import ObservedAttempt, Outcome, Trial


class Lines:
    """One line for each trial that ends; implements `ports.Telemetry`, called by the run's thread."""

    def __init__(self) -> None:
        """Tell nothing yet: `begin` does."""
        self._run: LocalRun | None = None
        self.started = 0
        """Trials that this run started."""

    def begin(self, run: LocalRun) -> None:
        """Tell what will be run, and what is there already."""
        self._run = run
        job = run.job
        trials = words.plural(job.spec.trials, "trial")
        self.say(f"{job.key.name}: {trials}, {job.spec.parallelism} at once")
        for note in run.notes:
            self.say(f"note: {note}")
        ended = sum(trial.state.terminal for trial in run.trials())
        if run.known is not None:
            self.say(f"going on: {ended} of {trials} have ended")

    def tick(self) -> None:
        """Hear that a moment has passed."""

    def end(self) -> None:
        """Leave the screen as it is."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def say_end(self, text: str, *, well: bool) -> None:  # noqa: ARG002 - for terminals
        """Print the line of a trial that ended, well or not."""
        self.say(text)

    # ---------------------------------------------------------- ports.Telemetry
    def trial_created(self, job: Job, index: int) -> None:
        """A trial begins: the terminal shows it while it runs."""
        del job, index
        self.started += 1

    def attempt_ended(
        self, job: Job, attempt: ObservedAttempt, outcome: Outcome, trial: Trial
    ) -> None:
        """An attempt ended: tell how."""
        assert self._run is not None
        if not trial.state.terminal:
            reason = words.one_line(outcome.message)
            text = f"trial {trial.index}: {outcome.reason}" + (f": {reason}" if reason else "")
            self.say(f"{text}; it will be tried again")
            return
        trials = self._run.trials()
        ended = sum(one.state.terminal for one in trials)
        winner = best(job.spec.objective, trials)
        is_best = winner is not None and winner.index == trial.index
        told = words.end_of(trial, job.spec.objective, is_best=is_best)
        self.say_end(f"[{ended}/{job.spec.trials}] {told}", well=trial.state.succeeded)
        if trial.state in words.FAILURES:
            folder = attempt.pod_name or attempt.name
            self.say(f"  its log: {self._run.state / folder / 'log.txt'}")

    def job_seen(self, job: Job, trials: Sequence[Trial], status: Mapping[str, Any]) -> None:
        """A turn of the loop ended."""

    def job_gone(self, key: JobKey) -> None:
        """A job was deleted, which local mode never does."""


def lines() -> Lines:
    """Return what suits the output: a live display in a terminal, plain lines elsewhere."""
    from foretune.cli.live import Live, fits  # noqa: PLC0415 - rich, for terminals

    return Live() if fits(sys.stdout) else Lines()
