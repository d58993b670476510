"""Numbers, times and trials in words, the same everywhere on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from foretune.domain.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foretune.domain.job import Objective
    from foretune.domain.trial import Trial

MINUTE: Final = 60
HOUR: Final = 3600

FAILURES: Final = frozenset({TrialState.FAILED, TrialState.INFEASIBLE, TrialState.TIMED_OUT})
"""States of a trial whose log its owner may want to read."""

_SAID: Final = {
    TrialState.COMPLETED: "completed",
    TrialState.EARLY_STOPPED: "was stopped early",
    TrialState.INFEASIBLE: "can't be run",
    TrialState.FAILED: "failed",
    TrialState.TIMED_OUT: "ran out of time",
    TrialState.CANCELLED: "was cancelled",
}


def number(value: float | None) -> str:
    """Return a metric's value, short; a dash for none."""
    return "-" if value is None else f"{value:.5g}"


def setting(value: object) -> str:
    """Return a parameter's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings(params: Mapping[str, object]) -> str:
    """Return a configuration on one line."""
    return " ".join(f"{name}={setting(value)}" for name, value in params.items())


def duration(seconds: float | None) -> str:
    """Return seconds as `8.2 s`, `3 min 05 s` or `2 h 07 min`; a dash for none."""
    if seconds is None:
        return "-"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"


def used(resources: Mapping[str, Any]) -> str:
    """Return what a trial used in one line: `12.3 s of CPU, 4.0 s of GPU (busy 2.1 s, gpm), 35 J`; "" if unknown."""
    facts = []
    if "cpu_s" in resources:
        facts.append(f"{duration(resources['cpu_s'])} of CPU")
    if "gpu_held_s" in resources:
        busy = ""
        if "gpu_busy_s" in resources:
            busy = f" (busy {duration(resources['gpu_busy_s'])}, {resources.get('gpu_busy_source', '-')})"
        facts.append(f"{duration(resources['gpu_held_s'])} of GPU{busy}")
    if "energy_j" in resources:
        facts.append(f"{resources['energy_j']:,.0f} J")
    for name, said in (("gpu_mem_peak_bytes", "GPU memory"), ("rss_peak_bytes", "memory")):
        if name in resources:
            facts.append(f"{resources[name] / 2**20:,.0f} MiB of {said}")
    if "samples_per_s" in resources:
        facts.append(f"{resources['samples_per_s']:,.0f} examples/s")
    return ", ".join(facts)


def seconds_of(trial: Trial) -> float | None:
    """Return the seconds that a trial's ended attempts ran; a pause between two of them is none of it."""
    ran = [
        attempt.ended_at - attempt.started_at
        for attempt in trial.attempts
        if attempt.started_at is not None and attempt.ended_at is not None
    ]
    return sum(ran) if ran else None


def plural(count: int, word: str) -> str:
    """Return `1 trial`, `2 trials`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def one_line(text: str, limit: int = 200) -> str:
    """Return the last line of a message that says something, at most `limit` characters of it.

    It may come from a program's log: what would move a terminal's cursor is left out.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else ""
    return last if len(last) <= limit else last[: limit - 3] + "..."


def value_of(trial: Trial) -> str:
    """Return a trial's value; with ~ before it where it is a prediction."""
    return ("~" if trial.value_sd else "") + number(trial.value)


def end_of(trial: Trial, objective: Objective, *, is_best: bool = False) -> str:
    """Return how a trial ended, in one line: `trial 3 completed: accuracy 0.98, 5 epochs, 8.2 s (best)  ...`."""
    head = f"trial {trial.index} {_SAID.get(trial.state, trial.state.lower())}"
    tail = f"  {settings(trial.params)}"
    if trial.value is None or not trial.state.succeeded:
        reason = f" ({trial.reason})" if trial.reason else ""
        message = one_line(trial.message)
        return head + reason + (f": {message}" if message else "") + tail
    facts = [f"{objective.metric} {value_of(trial)}"]
    if trial.epochs:
        facts.append(plural(int(trial.epochs), "epoch"))
    if (seconds := seconds_of(trial)) is not None:
        facts.append(duration(seconds))
    mark = " (best)" if is_best else ""
    return f"{head}: {', '.join(facts)}{mark}{tail}"
