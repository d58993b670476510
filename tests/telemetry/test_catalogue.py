"""The table of metrics: names, labels, and everything that is generated from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foretune import settings
from foretune.adapters.telemetry import docs
from foretune.adapters.telemetry.catalogue import METRICS, Kind, Process
from foretune.adapters.telemetry.instruments import Instruments
from foretune.adapters.telemetry.jobs import JobCollector
from foretune.adapters.telemetry.recorder import OperatorMetrics
from foretune.adapters.telemetry.suggestion import SuggestionMetrics
from foretune.adapters.telemetry.tracker import TrackerMetrics

ROOT = Path(__file__).parents[2]

UNBOUNDED = {"tuningjob", "uid", "trial", "pod", "node", "task", "model_family", "objective"}
"""Labels whose values users choose: on gauges of single jobs only."""


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_name_follows_prometheus(metric):
    """Prefix, unit and ending fit the type; help is one sentence."""
    assert re.fullmatch(r"foretune_[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_only_gauges_of_jobs_have_labels_that_users_choose(metric):
    """A counter or histogram can't grow with the number of jobs."""
    if UNBOUNDED & set(metric.labels):
        assert metric.kind is Kind.GAUGE
        assert metric.collected
        assert metric.per_job


def test_there_are_at_least_twenty_metrics_and_no_name_twice():
    """The table holds what this version fills."""
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert len(names) >= 20


@pytest.mark.parametrize(
    ("process", "registry"),
    [
        (Process.OPERATOR, lambda: OperatorMetrics().registry),
        (Process.TRACKER, lambda: TrackerMetrics(lambda: {"observations": 3}).registry),
        (Process.SUGGESTION, lambda: SuggestionMetrics().registry),
    ],
)
def test_a_process_exports_its_part_of_the_table_and_nothing_else(process, registry):
    """The registry of each process has exactly the rows of the table that name it."""
    found = {family.name: family for family in registry().collect()}
    ours = {name: family for name, family in found.items() if name.startswith("foretune_")}
    wanted = {m.name.removesuffix("_total"): m for m in METRICS if m.process is process}
    assert set(ours) == set(wanted)
    assert {name: f.type for name, f in ours.items()} == {n: m.kind for n, m in wanted.items()}
    assert "python_info" in {sample.name for f in found.values() for sample in f.samples}


def test_a_metric_of_another_process_is_refused():
    """Counting what the table gives to another process is an error of ours, found at once."""
    with pytest.raises(KeyError):
        Instruments(Process.TRACKER).count("foretune_trials_created_total", "a", "b")


def test_the_collector_describes_itself_without_state():
    """Registration does not ask for the jobs, and finds every family."""
    described = {family.name for family in JobCollector().describe()}
    assert described == {m.name for m in METRICS if m.collected and m.process is Process.OPERATOR}


def test_the_reference_page_is_fresh():
    """docs/reference/metrics.md says what the table says."""
    assert (ROOT / docs.PAGE).read_text() == docs.page()


def test_a_stale_page_is_found(tmp_path, monkeypatch, capsys):
    """--check fails for a page that is not what the table gives, and writing mends it."""
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0


def test_the_page_names_the_ports_of_the_settings():
    """The page's ports are those that the processes use."""
    assert docs.PORTS == {
        Process.OPERATOR: settings.OPERATOR_METRICS_PORT,
        Process.TRACKER: settings.TRACKER_METRICS_PORT,
        Process.SUGGESTION: settings.SUGGESTION_METRICS_PORT,
    }
