"""Promises and the figures that keep or break them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.support.runs import a_run

from foretune.experiment import thresholds
from foretune.experiment.comparison import experiments

AHEAD = thresholds.AHEAD_IN


def curve(start: float, end: float) -> list[float]:
    """Return a regret curve of 50 evaluations: the start for four, then the end."""
    return [start] * 4 + [end] * 46


def runs(method: str, end: float, tasks: str = "ab", **changes: Any) -> list[dict[str, Any]]:
    """Return a method's runs in the families where nobody may be ahead."""
    history = method in ("plain", "random", "no-history")
    fields = {"rows": 0 if history else 200, **changes}
    return [
        a_run(method, curve(0.5, end), family=family, task=task, dataset=task, **fields)
        for family in AHEAD
        for task in tasks
    ]


def states(of: list[dict[str, Any]], latency: Any = None) -> dict[str, tuple[str, str]]:
    """Return state and figure of each promise by the first word of its name."""
    return {c.name.split()[0]: (c.state, c.figure) for c in thresholds.checks(of, latency)}


def test_what_was_not_run_is_not_measured() -> None:
    """No promise is kept by silence."""
    assert {state for state, _ in states([]).values()} == {"not measured"}


def test_a_method_ahead_of_ours_is_named_with_both_figures() -> None:
    """Ahead of all: met; one family in which another is ahead: not met, and where."""
    field = [*runs("plain", 0.2), *runs("random", 0.3), *runs("ours", 0.04)]
    assert states(field)["ahead"][0] == "met"
    field += runs("zero-shot", 0.05, tasks="ab")
    assert states(field)["ahead"][0] == "met"
    field[-1]["regret"] = field[-2]["regret"] = curve(0.5, 0.01)
    state, figure = states(field)["ahead"]
    assert state == "not met"
    assert f"{AHEAD[-1]} @5 .040, zero-shot .010" in figure
    assert AHEAD[0] not in figure


def test_a_method_that_ran_at_fewer_places_is_compared_there_and_nobody_twice() -> None:
    """Plain is behind on the mean of both tasks, though ahead on the one where the slow peer ran."""
    field = [*runs("plain", 0.2), *runs("random", 0.3), *runs("ours", 0.1)]
    for run in field:
        if run["task"] == "a" and run["method"] == "plain":
            run["regret"] = curve(0.5, 0.05)
    assert states(field)["ahead"][0] == "met"
    slow = runs("quantile", 0.2, tasks="a")
    assert states([*field, *slow])["ahead"][0] == "met"
    slow[0]["regret"] = curve(0.5, 0.07)
    _, figure = states([*field, *slow])["ahead"]
    assert f"{AHEAD[0]} @5 .100, quantile .070" in figure
    assert "plain" not in figure


def test_bars_hold_for_the_mean_over_all_families() -> None:
    """.04 is below every bar, .06 above that of 50 evaluations."""
    plain = runs("plain", 0.2)
    state, figure = states([*plain, *runs("ours", 0.04)])["bars:"]
    assert state == "met"
    assert re.search(r"; 8 tasks; the \d for reporting alone \.040 @5, ", figure)
    assert states([*plain, *runs("ours", 0.06)])["bars:"][0] == "not met"


def test_a_spoilt_history_may_cost_a_tenth_at_most() -> None:
    """1.05 times plain is kept, 1.25 times is not; what was not run is told."""
    plain = runs("plain", 0.2)
    spoilt = [run for i in range(1, 9) for run in runs("ours", 0.21, variant=f"N{i}")]
    assert states([*plain, *spoilt])["A7:"] == ("met", "kept by all that ran")
    spoilt[0]["regret"] = spoilt[1]["regret"] = curve(0.5, 0.25 * len(AHEAD))
    state, figure = states([*plain, *spoilt])["A7:"]
    assert state == "not met"
    assert figure.startswith("not kept by N1@10 (")
    state, figure = states([*plain, *spoilt[2 * len(AHEAD) :]])["A7:"]
    assert (state, figure) == ("not measured", "kept by all that ran; not run: N1")


def test_the_battery_is_told_by_family_and_together() -> None:
    """Each spoilt history has a row a family and one for all, at both budgets."""
    found = experiments([*runs("plain", 0.2), *runs("ours", 0.25, variant="N2")])
    rows = thresholds.spoilt_rows(found)
    assert [(r.family, r.at) for r in rows[:3]] == [("all", 10), ("all", 25), (AHEAD[0], 10)]
    assert len(rows) == 2 * (1 + len(AHEAD))
    assert rows[0].told == "1.25 x, +0.050 [+0.050, +0.050]"
    assert len(thresholds.spoilt_table(rows)) == 2 + len(rows)


def test_never_worse_looks_at_intervals_not_at_means() -> None:
    """One task worse and one better is no evidence; all worse is."""
    ours = runs("ours", 0.2)
    for run in ours:
        run["regret"] = curve(0.5, 0.3 if run["task"] == "a" else 0.15)
    assert states([*runs("plain", 0.2), *ours])["never"][0] == "met"
    state, figure = states([*runs("plain", 0.2), *runs("ours", 0.3)])["never"]
    assert state == "not met"
    assert figure.startswith(f"worse in {AHEAD[0]} @5 +0.100")


def test_without_history_the_same_trials_are_told() -> None:
    """Equal trials are equal by construction; others by their interval."""
    plain, alone = runs("plain", 0.2), runs("no-history", 0.2)
    everything = [*plain, *alone, *runs("ours", 0.1)]
    assert states(everything)["A8:"] == ("met", "the same trials as plain in 8 of 8 runs")
    for run in alone:
        run["tried"], run["regret"] = run["tried"][::-1], curve(0.5, 0.3)
    state, figure = states(everything)["A8:"]
    assert state == "not met"
    assert "in 0 of 8 runs; " in figure


def test_the_split_of_xgb34_is_judged_by_all_its_bars() -> None:
    """Low enough and soon enough: met; too slow to plain's level: not met."""
    fields: dict[str, Any] = {"family": "xgb34", "task": "a", "dataset": "a"}
    plain = a_run("plain", [0.3] * 9 + [0.1] * 16, rows=0, **fields)
    fast = a_run("ours", [0.9] * 5 + [0.3] * 20, variant="split", **fields)
    fast["regret_of_range"] = [0.09] * 5 + [0.03] * 20
    assert states([plain, fast])["A6:"] == (
        "met",
        ".090 @5, .030 @10, .030 @25; 0.30 x plain @10; in 1; 1 tasks; against the median .900 @5, .300 @10, .300 @25",
    )
    slow = a_run("ours", [0.2] * 4 + [0.095] * 4 + [0.03] * 17, variant="split", **fields)
    assert states([plain, slow])["A6:"][0] == "met"
    late = a_run("ours", [0.2] * 4 + [0.101] * 4 + [0.03] * 17, variant="split", **fields)
    assert states([plain, late])["A6:"][0] == "not met"


def test_coverage_and_latency_are_held_against_their_limits() -> None:
    """90 % of the measurements inside: met; all of them: not met. A slow p99: not met."""
    inside, outside = [0.0] * 50, [0.0] * 3 + [9.0] * 5 + [0.0] * 42
    predicted = {"mean": [0.0] * 50, "sd": [1.0] * 50}
    plain = runs("plain", 0.2)
    assert states([*plain, *runs("ours", 0.1, values=outside, **predicted)])["A13:"] == (
        "met",
        "0.894 of 376",
    )
    assert states([*plain, *runs("ours", 0.1, values=inside, **predicted)])["A13:"][0] == "not met"
    case = {"tasks": 100, "rows": 100000, "first_cpu_s": 1.0, "cpu_p50_s": 0.2, "cpu_p99_s": 0.5}
    case |= {"wall_p50_s": 0.3, "wall_p99_s": 0.9, "growth_mib": 99.0}
    assert states([], {"cases": [case]})["A11:"][0] == "met"
    assert states([], {"cases": [case | {"cpu_p99_s": 0.9}]})["A11:"][0] == "not met"


@pytest.mark.slow
def test_latency_is_measured_in_a_process_of_its_own(tmp_path: Any) -> None:
    """A small history: every figure is there, and is read back."""
    from foretune.experiment import latency

    found = latency.measure([(5, 100)], tmp_path, repeats=4)
    assert latency.read([tmp_path / "nowhere", tmp_path]) == found
    (case,) = found["cases"]
    assert case["rows"] == 500
    assert 0 < case["cpu_p50_s"] <= case["cpu_p99_s"]
    assert states([], found)["A11:"][0] != "not measured"
