"""Pages and plots: what stands in them is what the runs say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest
from tests.support.runs import a_run

from foretune.experiment import comparison, plots, report
from foretune.experiment.methods import ABLATIONS, METHODS
from foretune.experiment.peers import PEERS

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


RUNS = [
    a_run(method, [start, low], task=f"t{t}", dataset=f"d{t}")
    for t in range(3)
    for method, start, low in (("plain", 1.0, 0.4), ("ours=a.b:c", 0.5, 0.1), ("random", 1.0, 0.5))
]


def row(lines: list[str], name: str) -> list[str]:
    """Return the cells of a method's row."""
    (line,) = (line for line in lines if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_lowest_regret_of_a_column_is_bold() -> None:
    """Means over tasks; ties are bold together."""
    (runs,) = comparison.experiments(RUNS).values()
    lines = comparison.regret_table(runs, intervals=False)
    assert row(lines, "ours") == ["**.500**"]
    assert row(lines, "plain") == row(lines, "random") == ["1.000"]
    both = comparison.regret_table([r for r in runs if r["method"] != "ours"], intervals=True)
    assert row(both, "random") == ["**1.000** [1.000, 1.000]"]


def test_experiments_are_told_apart_and_failures_left_out() -> None:
    """A battery is another experiment; a place with a failed run is left out for all."""
    spoilt = [dict(run, variant="N1") for run in RUNS]
    broken = [{**RUNS[0], "error": "boom"}, *RUNS[1:]]
    found = comparison.experiments([*broken, *spoilt])
    assert [comparison.title_of(key).partition(",")[0] for key in found] == [
        "Sound history",
        "Spoilt history N1",
    ]
    sound, _ = found.values()
    (whole,) = comparison.groups([run for run in sound if run["task"] != "t9"]).values()
    assert {run["method"] for run in whole} == {"plain", "ours", "random"}


def test_a_run_without_history_belongs_to_every_history() -> None:
    """Plain of 4 evaluations is compared under a sound history and, shortened, under a spoilt one of 2."""
    long = [0.9, 0.8, 0.7, 0.6]
    runs = [
        a_run("plain", long, rows=0),
        a_run("ours", long),
        a_run("ours", long[:2], variant="N1"),
        a_run("ours", long[:2], batch=4),
    ]
    found = comparison.experiments(runs)
    told = {
        (key[0], key[2], key[5]): {run["method"]: len(run["regret"]) for run in of}
        for key, of in found.items()
    }
    assert told == {
        ("", 1, 4): {"plain": 4, "ours": 4},
        ("N1", 1, 2): {"plain": 2, "ours": 2},
        ("", 4, 2): {"ours": 2},
    }
    assert {run["rows"] for of in found.values() for run in of} == {200}


def test_methods_that_ran_at_fewer_places_do_not_shrink_the_comparison() -> None:
    """A slow peer is compared at its own places, an ablation beside plain and ours."""
    runs = [
        *(
            a_run(m, [0.5], task=t, dataset=t)
            for m in ("plain", "ours", "zero-shot")
            for t in "abc"
        ),
        a_run("quantile", [0.5], task="a", dataset="a"),
        a_run("bounding-box", [0.5], task="a", dataset="a"),
        a_run("optuna-gp", [0.5], task="c", dataset="c"),
        a_run("no-guard", [0.5], task="b", dataset="b"),
    ]
    found = comparison.groups(runs)
    told = {
        name: ({run["method"] for run in of}, {run["task"] for run in of})
        for name, of in found.items()
    }
    assert told == {
        "": ({"plain", "ours", "zero-shot"}, {"a", "b", "c"}),
        "at fewer places: quantile, bounding-box": (
            {"plain", "ours", "quantile", "bounding-box"},
            {"a"},
        ),
        "at fewer places: optuna-gp": ({"plain", "ours", "optuna-gp"}, {"c"}),
        "ablations": ({"plain", "ours", "no-guard"}, {"b"}),
    }


def test_a_page_tells_terms_sources_and_failures(tmp_path: Path) -> None:
    """What data, which code, how many runs failed; parquet has every run but no tracebacks."""
    runs = [*RUNS, a_run("plain", [1.0, 1.0], task="t9", error="boom", trace="long", code="def")]
    report.write(runs, tmp_path, command="make bench-search")
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "xgb34 (MIT / Apache-2.0)" in page
    assert "**1 runs failed" in page
    assert "The code has changed between runs of plain." in page
    table = pq.read_table(tmp_path / "runs.parquet")
    assert len(table) == 10
    assert "trace" not in table.column_names
    assert table["regret"].to_pylist()[0] == pytest.approx([1.0, 0.4])
    assert set(table["half"].to_pylist()) <= {"choosing", "reporting"}
    assert "## Thresholds" in page


def test_families_beside_the_main_comparison_get_a_table_without_a_plot(tmp_path: Path) -> None:
    """A peer at fewer places: all families in full, each family as one table."""
    runs = [
        a_run(m, [0.5, 0.4], family=f, task=t, dataset=t)
        for f in ("xgb34", "fcnet")
        for t in "ab"
        for m in ("plain", "ours", "quantile")
        if m != "quantile" or t == "a"
    ]
    report.write(runs, tmp_path, command="")
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "\n#### fcnet, at fewer places: quantile\n" in page
    drawn = set(re.findall(r"\]\((.*?\.svg)\)", page))
    assert drawn == {path.name for path in tmp_path.glob("*.svg")}
    assert {"1-all-families.svg", "1-all-families-1.svg", "1-fcnet.svg"} <= drawn
    assert "1-fcnet-1.svg" not in drawn


def test_a_terminal_gets_aligned_columns() -> None:
    """Numbers stand below each other."""
    text = report.short(RUNS)
    block = text.splitlines()[-4:]
    assert [line.split() for line in block] == [
        ["method", "@1"],
        ["plain", "1.000"],
        ["random", "1.000"],
        ["ours", ".500"],
    ]
    assert len({len(line) for line in block}) == 1


def test_curves_and_bands_are_where_the_axes_say() -> None:
    """A regret of 1 is at the top, one of the floor at the bottom; the band holds the curve."""
    line = plots.Line(mean=[1.0, 0.1, 0.01], low=[1.0, 0.05, 0.01], high=[1.0, 0.2, 0.02])
    drawn = ET.fromstring(plots.regret_plot("a & b", {"m": line}, plots.strokes_of(["m"])))
    (polyline,) = drawn.iter(f"{SVG}polyline")
    points = [tuple(map(float, p.split(","))) for p in str(polyline.get("points")).split()]
    assert points[0] == (plots.LEFT, plots.TOP)
    assert points[-1] == (plots.WIDTH - plots.RIGHT, plots.HEIGHT - plots.BOTTOM)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2)
    (polygon,) = drawn.iter(f"{SVG}polygon")
    assert len(str(polygon.get("points")).split()) == 6
    texts = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {"a & b", "evaluations", "m", "0.01", "0.1", "1"} <= texts


def test_ranks_are_drawn_in_order_with_what_they_must_differ_by() -> None:
    """The best is first; a difference longer than the axis is not drawn."""
    ranks = {"worse": 2.5, "best": 1.0, "middle": 2.5}
    strokes = plots.strokes_of(list(ranks))
    drawn = plots.rank_plot("r", ranks, 1.5, strokes)
    names = re.findall(r">(\w+) \d\.\d\d<", drawn)
    assert names[:3] == ["best", "worse", "middle"]
    assert "critical difference 1.50" in drawn
    assert "critical" not in plots.rank_plot("r", ranks, 2.5, strokes)


def test_no_two_methods_are_drawn_alike() -> None:
    """All methods of this package and all peers in one plot differ by colour or by dashes."""
    names = [*METHODS, *ABLATIONS, *PEERS]
    strokes = plots.strokes_of(names)
    assert len({str(stroke) for stroke in strokes.values()}) == len(names)
    lines = {name: plots.Line([0.5], [0.4], [0.6]) for name in names}
    drawn = plots.regret_plot("r", lines, strokes)
    assert len(set(re.findall(r"<polyline [^>]*fill=.none. ([^>]*)/>", drawn))) == len(names)
