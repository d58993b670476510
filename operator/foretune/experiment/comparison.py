"""Which runs compare with which, and the tables that compare them.

An experiment is what `CONDITIONS` say. A run of a method without history belongs to all that differ in the
history alone, and, one proposal at a time, to those with a smaller budget: its beginning is the shorter run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune.experiment import statistics as st
from foretune.experiment.histories import SPLIT
from foretune.experiment.markdown import difference, head, number, p_value, row
from foretune.experiment.methods import ABLATIONS, WITHOUT_HISTORY
from foretune.experiment.replay import COLUMNS, CURVES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foretune.experiment.statistics import Run

PLAIN: Final = "plain"
"""The method that the others are compared with."""

OURS: Final = "ours"
"""The method whose claims are checked."""

OWN: Final = frozenset({*ABLATIONS, "no-history"})
"""Forms of this project's own designer, which are no rivals of it."""

FEWEST_TESTED: Final = 6
"""Tasks from which on Wilcoxon's test can give a p below .05 at all: 2 x (1/2)^6."""

CONDITIONS: Final = ("variant", "protocol", "batch", "rows", "sources", "budget")
"""Fields of a run that make it another experiment: each combination gets its own section."""

Key = tuple[Any, ...]
"""Values of `CONDITIONS`."""


def experiments(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    """Return the sound runs by experiment, the sound history first."""
    found: dict[Key, list[Run]] = defaultdict(list)
    shared: list[Run] = []
    for run in runs:
        if "error" not in run:
            labelled = {**run, "method": run["method"].partition("=")[0]}
            alone = labelled["method"] in WITHOUT_HISTORY
            (shared if alone else found[_key(run)]).append(labelled)
    if not found:
        for run in shared:
            found[_key(run)].append(run)
        return dict(sorted(found.items()))
    longest_last = sorted(shared, key=lambda run: -run["budget"])
    return {
        key: [*(shortened(run, key) for run in longest_last if _belongs(run, key)), *found[key]]
        for key in sorted(found)
    }


def _key(run: Run) -> Key:
    return tuple(run[name] for name in CONDITIONS)


def _belongs(run: Run, key: Key) -> bool:
    _, protocol, batch, _, _, budget = key
    enough = run["budget"] >= budget if batch == 1 else run["budget"] == budget
    return bool(run["protocol"] == protocol and run["batch"] == batch and enough)


def shortened(run: Run, key: Key) -> Run:
    """Return a run of a method without history as one of this experiment."""
    budget = key[CONDITIONS.index("budget")]
    lists = {name: run[name][:budget] for name in (*COLUMNS, *CURVES)}
    return {**run, **lists, **dict(zip(CONDITIONS, key, strict=True))}


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs that are compared with each other, by heading: each of places that all of them have.

    First the methods that ran wherever ours and plain did; then those that ran at fewer places, at the same ones together;
    then the ablations; the latter beside plain and ours.
    """
    places = {name: {st.place(run) for run in of} for name, of in by_method(runs).items()}
    anchors = [name for name in (PLAIN, OURS) if name in places]
    wanted = set.intersection(*(places[name] for name in anchors or places))
    whole = [n for n in places if n not in OWN and places[n] >= wanted]
    fewer: dict[frozenset[Any], list[str]] = defaultdict(list)
    for name in places:
        if name not in OWN and name not in whole:
            fewer[frozenset(places[name] & wanted)].append(name)
    named = {"": whole}
    for names in fewer.values():
        named[f"at fewer places: {', '.join(names)}"] = [*anchors, *names]
    own = [name for name in places if name in OWN]
    for heading, names in (
        ("ablations", [name for name in own if name in ABLATIONS]),
        ("without history", [name for name in own if name not in ABLATIONS]),
    ):
        if names:
            named[heading] = [*anchors, *names]
    found = {
        heading: st.complete(run for run in runs if run["method"] in names)
        for heading, names in named.items()
    }
    return {heading: of for heading, of in found.items() if of}


def title_of(key: Key) -> str:
    """Say which experiment a section is."""
    variant, protocol, batch, rows, sources, budget = key
    what = {"": "Sound history", SPLIT: "Sound history of the tasks for choosing alone"}
    many = f"of {sources} other tasks" if sources else "of each other task"
    given = f"{what.get(variant, f'Spoilt history {variant}')}, {rows} rows {many}"
    how = "one at a time" if batch == 1 else f"in batches of {batch}"
    return f"{given if rows else 'No history'}; protocol {protocol}, {budget} evaluations {how}"


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run["method"]].append(run)
    return found


def regret_table(runs: Sequence[Run], *, intervals: bool, key: str = "regret") -> list[str]:
    """Return a Markdown table of mean normalised regret; the lowest of a column is bold."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in st.BUDGETS if n <= budget]
    found = {name: st.matrix(of, budget, key) for name, of in by_method(runs).items()}
    lines = head(["method", *(f"@{n}" for n in at)])
    for name, m in found.items():
        cells = []
        for n in at:
            lowest = min(float(other.curves[:, n - 1].mean()) for other in found.values())
            estimate = st.interval(m.curves[:, n - 1], m.datasets)
            text = number(estimate.value)
            if estimate.value <= lowest + 5e-4:  # equal as printed
                text = f"**{text}**"
            if intervals:
                text += f" [{number(estimate.low)}, {number(estimate.high)}]"
            cells.append(text)
        lines.append(row([name, *cells]))
    return lines


def compared_table(runs: Sequence[Run]) -> list[str]:
    """Return how each method fares against plain Bayesian optimisation."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in (5, 10, 25, 50) if n <= budget]
    runs_of = by_method(runs)
    if PLAIN not in runs_of:
        return []
    found = {name: st.matrix(of, budget) for name, of in runs_of.items()}
    plain = found[PLAIN]
    rivals = [name for name in found if name != PLAIN]
    levels, shares = at[-2:], [n for n in at if n >= min(10, at[-1])]
    adjusted = {
        n: st.holm({name: st.wilcoxon(found[name], plain, n) for name in rivals}) for n in at
    }
    lines = head(
        [
            "method",
            *(f"minus plain @{n}" for n in at),
            *(f"plain @{n} reached at" for n in levels),
            *(f"runs worse @{n}" for n in shares),
        ]
    )
    for name in rivals:
        cells = []
        for n in at:
            d = st.paired(found[name], plain, n)
            text = difference(d)
            if len(plain.tasks) >= FEWEST_TESTED:
                text += f", p {p_value(adjusted[n][name])}"
            cells.append(text)
        for level_at in levels:
            level = float(plain.curves[:, level_at - 1].mean())
            reached = st.reaches(found[name].curves.mean(axis=0), level)
            cells.append(f"> {budget}" if reached is None else str(reached))
        for n in shares:
            share = st.worse_share(runs_of[name], runs_of[PLAIN], n)
            cells.append(f"{100 * share:.0f} %")
        lines.append(row([name, *cells]))
    return lines


def conduct_table(runs: Sequence[Run]) -> list[str]:
    """Return ranks, calibration, latency and memory of each method."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in (5, 10, 25, 50) if n <= budget]
    ranks = {n: st.ranks(runs, n) for n in at}
    lines = head(
        [
            "method",
            *(f"rank @{n}" for n in at),
            "90 % interval covers",
            "suggestion CPU s p50 / p99",
            "wall s p50 / p99",
            "memory MiB",
            "moved",
        ]
    )
    for name, of in by_method(runs).items():
        share, count = st.coverage(of)
        cpu, wall = st.quantiles(of, "cpu_s"), st.quantiles(of, "wall_s")
        evaluations = sum(len(run["tried"]) for run in of)
        moved = sum(run["moved"] for run in of) / evaluations
        memory = [run["grown_mib"] for run in of if math.isfinite(run["grown_mib"])]
        lines.append(
            row(
                [
                    name,
                    *(f"{np.mean(list(ranks[n][name].values())):.2f}" for n in at),
                    f"{share:.2f} ({count})" if count else "",
                    f"{cpu[0]:.3f} / {cpu[1]:.3f}",
                    f"{wall[0]:.3f} / {wall[1]:.3f}",
                    f"{max(memory):.0f}" if memory else "",
                    f"{100 * moved:.0f} %",
                ]
            )
        )
    return lines
