"""From runs to pages: Markdown tables, parquet, plots; and the short table that a terminal gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foretune.experiment import statistics as st
from foretune.experiment.comparison import (
    OURS,
    PLAIN,
    by_method,
    compared_table,
    conduct_table,
    experiments,
    groups,
    regret_table,
    title_of,
)
from foretune.experiment.histories import BATTERY
from foretune.experiment.ledger import FIELDS
from foretune.experiment.markdown import aligned, p_value
from foretune.experiment.methods import WITHOUT_HISTORY
from foretune.experiment.plots import Line, Stroke, rank_plot, regret_plot, strokes_of
from foretune.experiment.replay import CURVES
from foretune.experiment.tasks import FAMILIES, HALVES, half_of
from foretune.experiment.thresholds import checks, checks_table, spoilt_rows, spoilt_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foretune.experiment.comparison import Key
    from foretune.experiment.statistics import Matrix, Run

TOGETHER: Final = "all families"
"""Name of a part with every family."""

DIGITS: Final = 4
"""Digits of a regret that are stored: the fifth of a table's range is noise, and makes files large."""


def short(runs: Iterable[Run]) -> str:
    """Return what a terminal shows: the regret table of each family and of all."""
    lines: list[str] = []
    for key, experiment in experiments(runs).items():
        lines += ["", title_of(key)]
        for heading, of in groups(experiment).items():
            for name, part in _parts(of):
                title = f"{name}, {heading}" if heading else name
                lines += ["", f"{title}: {_size(part)}"]
                lines += aligned(regret_table(part, intervals=False))
    return "\n".join(lines).strip() or "no place has been run by every method yet"


@dataclass(frozen=True)
class Page:
    """Where a page goes, and what its plots share."""

    folder: Path
    strokes: Mapping[str, Stroke]


def write(
    runs: Sequence[Run], folder: Path, *, command: str, latency: Mapping[str, Any] | None = None
) -> None:
    """Write `README.md`, `runs.parquet` and the plots into `folder`; `latency` as its command stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_parquet(runs, folder / "runs.parquet")
    methods = dict.fromkeys(run["method"].partition("=")[0] for run in runs)
    page = Page(folder, strokes_of(list(methods)))
    found = experiments(runs)
    lines = [*_preface(runs, command), "", "## Thresholds", ""]
    lines += checks_table(checks(runs, latency))
    for number, (key, experiment) in enumerate(found.items(), start=1):
        if key[0] not in BATTERY:
            lines += _section(key, experiment, number, page)
    rows = spoilt_rows(found)
    if rows:
        lines += ["", "## Spoilt histories", ""]
        lines += ["Ours with each, against plain on the same tasks and seeds.", ""]
        lines += spoilt_table(rows)
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(key: Key, experiment: Sequence[Run], number: int, page: Page) -> list[str]:
    lines = ["", f"## {title_of(key)}"]
    for group, (heading, of) in enumerate(groups(experiment).items()):
        named = {run["method"] for run in of} - {PLAIN, OURS}
        if heading and number > 1 and named <= WITHOUT_HISTORY:
            continue  # they are the same runs as in the first section
        parts = _parts(of)
        alone = parts[0][0] if len(parts) == 1 else TOGETHER
        for name, part in _together_first(parts):
            title = f"{name}, {heading}" if heading else name
            if heading and name != alone:
                lines += ["", f"#### {title}", "", f"{_size(part)}.", ""]
                lines += regret_table(part, intervals=True)
                continue
            lines += _part(title, part, f"{number}-{name}{f'-{group}' if heading else ''}", page)
            if name == TOGETHER and not heading:
                lines += _halves(part)
    return lines


def _part(title: str, runs: Sequence[Run], stem: str, page: Page) -> list[str]:
    budget = max(run["budget"] for run in runs)
    lines = ["", f"### {title}", "", f"{_size(runs)}.", ""]
    lines += regret_table(runs, intervals=True)
    drawn = {method: _line(st.matrix(of, budget)) for method, of in by_method(runs).items()}
    lines += _picture(f"regret of {title}", stem, regret_plot(title, drawn, page.strokes), page)
    if any(run["regret"] != run["regret_observed"] for run in runs):
        lines += [
            "",
            "Trainings are noisy here; regret of the configuration that *looked* best:",
            "",
        ]
        lines += regret_table(runs, intervals=False, key="regret_observed")
    compared = compared_table(runs)
    if compared:
        lines += ["", "Against plain Bayesian optimisation:", "", *compared]
    lines += ["", *conduct_table(runs)]
    at = max(n for n in st.BUDGETS if n <= budget)
    ranks = st.ranks(runs, at)
    if len(ranks) > 2:  # noqa: PLR2004 - two ranks make no diagram
        tasks = len(next(iter(ranks.values())))
        means = {method: float(np.mean(list(of.values()))) for method, of in ranks.items()}
        apart = st.critical_difference(len(ranks), tasks)
        plot = rank_plot(f"{title}: mean rank after {at} evaluations", means, apart, page.strokes)
        lines += _picture(f"ranks on {title}", f"{stem}-ranks", plot, page)
        lines += ["", f"Friedman's test that all are alike: p {p_value(st.friedman(ranks))}."]
    return lines


def _picture(title: str, stem: str, plot: str, page: Page) -> list[str]:
    name = stem.replace(" ", "-").replace(",", "").replace(":", "") + ".svg"
    (page.folder / name).write_text(plot, encoding="utf-8")
    return ["", f"![{title}]({name})"]


def _halves(runs: Sequence[Run]) -> list[str]:
    """Return the tables of the tasks for choosing settings, and of those for reporting, apart."""
    lines: list[str] = []
    for half in reversed(HALVES):
        of = [run for run in runs if half_of(run["family"], run["task"]) == half]
        if of:
            lines += ["", f"Tasks for {half} alone: {_size(of)}.", ""]
            lines += regret_table(of, intervals=True)
            compared = compared_table(of)
            lines += ["", *compared] if compared else []
    return lines


def _line(m: Matrix) -> Line:
    means = st.weights(m.datasets) @ m.curves
    low, high = np.quantile(means, [(1 - st.LEVEL) / 2, (1 + st.LEVEL) / 2], axis=0)
    return Line(m.curves.mean(axis=0).tolist(), low.tolist(), high.tolist())


def _preface(runs: Sequence[Run], command: str) -> list[str]:
    codes = {method: sorted({run["code"] for run in of}) for method, of in by_method(runs).items()}
    families = [f"{f} ({FAMILIES[f].terms})" for f in dict.fromkeys(run["family"] for run in runs)]
    failed = sum("error" in run for run in runs)
    page = [
        "# Replay",
        "",
        "Written by `foretune experiment report`; docs/guides/replay.md says how to read it.",
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
    return [*parts, (TOGETHER, list(runs))] if len(families) > 1 else parts


def _together_first(parts: list[tuple[str, list[Run]]]) -> list[tuple[str, list[Run]]]:
    return [parts[-1], *parts[:-1]] if len(parts) > 1 else parts


def _size(runs: Sequence[Run]) -> str:
    tasks = {(run["family"], run["task"]) for run in runs}
    datasets = {(run["family"], run["dataset"]) for run in runs}
    seeds = {run["seed"] for run in runs}
    counted = ((len(tasks), "task"), (len(datasets), "data set"), (len(seeds), "seed"))
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counted)


def _write_parquet(runs: Sequence[Run], path: Path) -> None:
    """Write one row a run: what it was, how it went, what it took. Single predictions stay in the ledger."""
    columns: dict[str, Any] = {name: [run[name] for run in runs] for name in FIELDS}
    columns["half"] = [half_of(run["family"], run["task"]) for run in runs]
    for name in ("dataset", "code", "version", "error", "moved", "grown_mib", "seconds"):
        columns[name] = [run.get(name) for run in runs]
    for name in CURVES:
        told = [[round(value, DIGITS) for value in run.get(name, ())] for run in runs]
        columns[name] = pa.array(told, pa.list_(pa.float32()))
    columns["cpu_s"] = [float(np.sum(run.get("cpu_s", ()))) for run in runs]
    covered = [st.coverage([run]) if "mean" in run else (float("nan"), 0) for run in runs]
    columns["coverage"] = [share for share, _ in covered]
    columns["predictions"] = [count for _, count in covered]
    pq.write_table(pa.table(columns), path, compression="zstd")
