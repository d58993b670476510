"""From runs to pages: Markdown tables, parquet, plots; and the short table that a terminal gets."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foretune.experiment import statistics as st
from foretune.experiment.plots import Line, colours_of, rank_plot, regret_plot
from foretune.experiment.tasks import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from foretune.experiment.statistics import Matrix, Run

PLAIN: Final = "plain"
"""The method that the others are compared with."""

FEWEST_TESTED: Final = 6
"""Tasks from which on Wilcoxon's test can give a p below .05 at all: 2 x (1/2)^6."""

CONDITIONS: Final = ("variant", "protocol", "batch", "rows", "sources", "budget")
"""Fields of a run that make it another experiment: each combination gets its own section."""


def sections(runs: Iterable[Run]) -> dict[tuple[Any, ...], list[Run]]:
    """Return the sound runs by experiment, of those places that every method has run."""
    found: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if "error" not in run:
            label = run["method"].partition("=")[0]
            found[tuple(run[name] for name in CONDITIONS)].append({**run, "method": label})
    return {key: complete for key in sorted(found) if (complete := st.complete(found[key]))}


def methods_of(runs: Iterable[Run]) -> list[str]:
    """Return the methods of runs, in the order in which they first stand there."""
    return list(dict.fromkeys(run["method"].partition("=")[0] for run in runs))


def title_of(key: tuple[Any, ...]) -> str:
    """Say which experiment a section is."""
    variant, protocol, batch, rows, sources, budget = key
    what = "Sound history" if not variant else f"Spoilt history {variant}"
    many = f"of {sources} other tasks" if sources else "of each other task"
    how = "one at a time" if batch == 1 else f"in batches of {batch}"
    return f"{what}, {rows} rows {many}; protocol {protocol}, {budget} evaluations {how}"


def regret_table(runs: Sequence[Run], *, intervals: bool, key: str = "regret") -> list[str]:
    """Return a Markdown table of mean normalised regret; the lowest of a column is bold."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in st.BUDGETS if n <= budget]
    by_method = _by_method(runs)
    found = {name: st.matrix(of, budget, key) for name, of in by_method.items()}
    lines = _head(["method", *(f"@{n}" for n in at)])
    for name, m in found.items():
        cells = []
        for n in at:
            lowest = min(float(other.curves[:, n - 1].mean()) for other in found.values())
            estimate = st.interval(m.curves[:, n - 1], m.datasets)
            text = _number(estimate.value)
            if estimate.value <= lowest + 5e-4:  # equal as printed
                text = f"**{text}**"
            if intervals:
                text += f" [{_number(estimate.low)}, {_number(estimate.high)}]"
            cells.append(text)
        lines.append(_row([name, *cells]))
    return lines


def compared_table(runs: Sequence[Run]) -> list[str]:
    """Return how each method fares against plain Bayesian optimisation."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in (5, 10, 25, 50) if n <= budget]
    by_method = _by_method(runs)
    if PLAIN not in by_method:
        return []
    found = {name: st.matrix(of, budget) for name, of in by_method.items()}
    plain = found[PLAIN]
    rivals = [name for name in found if name != PLAIN]
    levels, shares = at[-2:], [n for n in at if n >= min(10, at[-1])]
    adjusted = {
        n: st.holm({name: st.wilcoxon(found[name], plain, n) for name in rivals}) for n in at
    }
    lines = _head(
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
            text = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
            if len(plain.tasks) >= FEWEST_TESTED:
                text += f", p {_p(adjusted[n][name])}"
            cells.append(text)
        for level_at in levels:
            level = float(plain.curves[:, level_at - 1].mean())
            reached = st.reaches(found[name].curves.mean(axis=0), level)
            cells.append(f"> {budget}" if reached is None else str(reached))
        for n in shares:
            share = st.worse_share(by_method[name], by_method[PLAIN], n)
            cells.append(f"{100 * share:.0f} %")
        lines.append(_row([name, *cells]))
    return lines


def conduct_table(runs: Sequence[Run]) -> list[str]:
    """Return ranks, calibration, latency and memory of each method."""
    budget = max(run["budget"] for run in runs)
    at = [n for n in (5, 10, 25, 50) if n <= budget]
    ranks = {n: st.ranks(runs, n) for n in at}
    lines = _head(
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
    for name, of in _by_method(runs).items():
        share, count = st.coverage(of)
        cpu, wall = st.quantiles(of, "cpu_s"), st.quantiles(of, "wall_s")
        evaluations = sum(len(run["tried"]) for run in of)
        moved = sum(run["moved"] for run in of) / evaluations
        memory = [run["grown_mib"] for run in of if math.isfinite(run["grown_mib"])]
        lines.append(
            _row(
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


def short(runs: Iterable[Run]) -> str:
    """Return what a terminal shows: the regret table of each family and of all."""
    lines: list[str] = []
    for key, of in sections(runs).items():
        lines += ["", title_of(key)]
        for name, part in _parts(of):
            lines += ["", f"{name}: {_size(part)}", *_aligned(regret_table(part, intervals=False))]
    return "\n".join(lines).strip() or "no place has been run by every method yet"


def write(runs: Sequence[Run], folder: Path, *, command: str) -> None:
    """Write `README.md`, `runs.parquet` and the plots into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_parquet(runs, folder / "runs.parquet")
    methods = methods_of(runs)
    colours = colours_of(methods)
    page = [*_preface(runs, command)]
    for number, (key, of) in enumerate(sections(runs).items(), start=1):
        page += ["", f"## {title_of(key)}"]
        for name, part in _together_first(_parts(of)):
            stem = f"{number}-{name.replace(' ', '-')}"
            page += _part(name, part, stem, folder, colours)
    (folder / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")


def _part(
    name: str, runs: Sequence[Run], stem: str, folder: Path, colours: Mapping[str, str]
) -> list[str]:
    budget = max(run["budget"] for run in runs)
    lines = {method: _line(st.matrix(of, budget)) for method, of in _by_method(runs).items()}
    (folder / f"{stem}-regret.svg").write_text(regret_plot(name, lines, colours), encoding="utf-8")
    page = ["", f"### {name}", "", f"{_size(runs)}.", ""]
    page += regret_table(runs, intervals=True)
    page += ["", f"![regret of {name}]({stem}-regret.svg)"]
    if any(run["regret"] != run["regret_observed"] for run in runs):
        page += [
            "",
            "Trainings are noisy here; regret of the configuration that *looked* best:",
            "",
        ]
        page += regret_table(runs, intervals=False, key="regret_observed")
    compared = compared_table(runs)
    if compared:
        page += ["", "Against plain Bayesian optimisation:", "", *compared]
    page += ["", *conduct_table(runs)]
    at = max(n for n in st.BUDGETS if n <= budget)
    ranks = st.ranks(runs, at)
    if len(ranks) > 2:  # noqa: PLR2004 - two ranks make no diagram
        tasks = len(next(iter(ranks.values())))
        means = {method: float(np.mean(list(of.values()))) for method, of in ranks.items()}
        difference = st.critical_difference(len(ranks), tasks)
        drawn = rank_plot(f"{name}: mean rank after {at} evaluations", means, difference, colours)
        (folder / f"{stem}-ranks.svg").write_text(drawn, encoding="utf-8")
        page += ["", f"![ranks on {name}]({stem}-ranks.svg)", ""]
        page += [f"Friedman's test that all are alike: p {_p(st.friedman(ranks))}."]
    return page


def _line(m: Matrix) -> Line:
    means = st.weights(m.datasets) @ m.curves
    low, high = np.quantile(means, [(1 - st.LEVEL) / 2, (1 + st.LEVEL) / 2], axis=0)
    return Line(m.curves.mean(axis=0).tolist(), low.tolist(), high.tolist())


def _preface(runs: Sequence[Run], command: str) -> list[str]:
    codes = {method: sorted({run["code"] for run in of}) for method, of in _by_method(runs).items()}
    families = [f"{f} ({FAMILIES[f].terms})" for f in dict.fromkeys(run["family"] for run in runs)]
    failed = sum("error" in run for run in runs)
    page = [
        "# Replay",
        "",
        "Written by `python -m foretune.experiment report`; docs/guides/replay.md says how to read it.",
        f"Runs: `{command}`.",
        "",
        f"Recorded histories: {'; '.join(families)}.",
        "Regret: 0 is the table's best row, 1 its median and anything worse. Means over tasks; 95 % intervals",
        "by a bootstrap over data sets; p values: Wilcoxon's test over tasks, adjusted by Holm's method.",
        "Digest of this project's sources by method: "
        + ", ".join(f"{method} {' '.join(of)}" for method, of in codes.items())
        + ".",
    ]
    mixed = [method for method, of in codes.items() if len(of) > 1]
    if mixed:
        page.append(f"**The code has changed between runs of {', '.join(mixed)}.**")
    if failed:
        page.append(
            f"**{failed} runs failed and are left out, with all others of their seed and task.**"
        )
    return page


def _parts(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    families = list(dict.fromkeys(run["family"] for run in runs))
    parts = [(name, [run for run in runs if run["family"] == name]) for name in families]
    return [*parts, ("all families", list(runs))] if len(families) > 1 else parts


def _together_first(parts: list[tuple[str, list[Run]]]) -> list[tuple[str, list[Run]]]:
    return [parts[-1], *parts[:-1]] if len(parts) > 1 else parts


def _by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run["method"]].append(run)
    return found


def _size(runs: Sequence[Run]) -> str:
    tasks = {(run["family"], run["task"]) for run in runs}
    datasets = {(run["family"], run["dataset"]) for run in runs}
    seeds = {run["seed"] for run in runs}
    counted = ((len(tasks), "task"), (len(datasets), "data set"), (len(seeds), "seed"))
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counted)


def _write_parquet(runs: Sequence[Run], path: Path) -> None:
    """Write one row a run, without what only helps to find an error."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(runs)))
    names = [name for name in names if name != "trace"]
    columns = {name: [run.get(name) for run in runs] for name in names}
    pq.write_table(pa.table(columns), path, compression="zstd")


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _aligned(table: Sequence[str]) -> list[str]:
    """Return a Markdown table as plain columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    rows = [[cell.replace("*", "") for cell in row] for row in rows if row[0] != "---"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad: Callable[[str, int], str] = str.rjust
    return [
        "  ".join([row[0].ljust(widths[0]), *map(pad, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if abs(value) < 1 else f"{value:.3f}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else _number(value)  # noqa: PLR2004 - as p values are told
