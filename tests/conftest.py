"""What all tests share: the cluster, what a failure shows of it, and the account of skipped tests."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from tests.support.cluster import Cluster, NotHereError, running_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("hunt", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
"""Properties are tried on the same examples each time; HYPOTHESIS_PROFILE=hunt looks for new ones."""

GPU_REASON = "GPU:"
"""Start of the reason of a test that is skipped for want of a GPU, the only one CI forgives."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes with two nodes of 4 GPUs each, of this module's own; see `tests.support.cluster`."""
    try:
        with running_cluster(tmp_path_factory.mktemp("cluster")) as started:
            yield started
    except NotHereError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Add to a failed test's report what its cluster has to say, while it still runs."""
    report = yield
    if report.failed and report.when in ("setup", "call"):
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections.append(("cluster", value.report()))
                break
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped."""
    where = report.longrepr
    text = str(where[2]) if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")


def skip_reasons(config: pytest.Config) -> Counter[str]:
    """Return how often each reason skipped a test or a module of this session."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return Counter(map(_reason, reporter.stats.get("skipped", []) if reporter else []))


def unforgiven(reasons: Counter[str]) -> bool:
    """Whether these skips make CI fail: all do but those for want of a GPU."""
    return os.environ.get("FORETUNE_NO_SKIPS") == "1" and not all(
        reason.startswith(GPU_REASON) for reason in reasons
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a green session in which something was skipped, where FORETUNE_NO_SKIPS=1 asks for it."""
    if exitstatus == 0 and unforgiven(skip_reasons(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the last line: how many tests were skipped, and why."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    reasons = skip_reasons(config)
    if unforgiven(reasons):
        reporter.write_line("FORETUNE_NO_SKIPS=1: these skips are a failure")
    told = "; ".join(f"{reason} x {count}" for reason, count in sorted(reasons.items()))
    reporter.write_line(f"skipped: {reasons.total()}" + (f" ({told})" if reasons else ""))
