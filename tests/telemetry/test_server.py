"""The port for Prometheus and probes, over a real socket, judged by promtool."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.world import TrackerView, World, make_job

from foretune.adapters.telemetry.recorder import OperatorMetrics
from foretune.adapters.telemetry.server import MetricsServer
from foretune.adapters.telemetry.suggestion import SuggestionMetrics
from foretune.adapters.telemetry.tracker import TrackerMetrics
from foretune.app.loop import Reconciler
from foretune.errors import HistoryUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Probes:
    """What the probes say, changed by the test."""

    def __init__(self) -> None:
        self.healthy: str | None = None
        self.ready: str | None = None


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
def metrics() -> OperatorMetrics:
    return OperatorMetrics()


@pytest.fixture
def url(metrics, probes) -> Iterator[str]:
    server = MetricsServer(
        metrics.registry,
        0,
        healthy=lambda: probes.healthy,
        ready=lambda: probes.ready,
        host="127.0.0.1",
    )
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, timeout=20)


def filled(metrics: OperatorMetrics) -> None:
    """Let a job run one turn, and count one of everything else."""
    world = World()
    loop = Reconciler(
        tracker=TrackerView(world), runner=world, sink=world, clock=world, telemetry=metrics
    )
    job = make_job()
    loop.reconcile(job)
    for name in world.live():
        world.start(name)
        world.succeed(name, 0.5)
    loop.reconcile(job)
    metrics.leading(True)
    metrics.reconciled("reconcile", "success", 0.2)
    metrics.api_request("get", "jobs", "200", 0.01)


def promtool(text: str) -> str:
    """Return what promtool has against a scrape."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here: Debian package prometheus")
    done = subprocess.run(
        [program, "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in {0, 1, 3}, said
    return "\n".join(line for line in said.splitlines() if line.startswith("foretune"))


def test_promtool_has_nothing_against_the_operators_scrape(url, metrics):
    """A real scrape of a filled operator is clean."""
    filled(metrics)
    answer = get(f"{url}/metrics")
    assert answer.status_code == 200
    assert "foretune_job_info{" in answer.text
    assert "_created" not in answer.text.replace("created_total", "").replace("job_created", "")
    assert promtool(answer.text) == ""


def test_promtool_has_nothing_against_the_others():
    """Scrapes of a filled tracker and suggestion service are clean."""
    tracker, suggestion = TrackerMetrics(lambda: {"observations": 4}), SuggestionMetrics()
    tracker.written("ok")
    tracker.duplicate("gp")
    suggestion.answered("gp", 0.3)
    suggestion.failed("gp", "timeout")
    suggestion.fitted("gp", 0.2)
    suggestion.fell_back("gp", "sobol", "cholesky")
    for registry in (tracker.registry, suggestion.registry):
        server = MetricsServer(registry, 0, healthy=lambda: None, ready=lambda: None)
        server.start()
        try:
            answer = get(f"http://127.0.0.1:{server.port}/metrics")
        finally:
            server.stop()
        assert "foretune_" in answer.text
        assert promtool(answer.text) == ""


def test_promtool_would_say_what_is_wrong():
    """The check can fail: a counter without _total is found."""
    assert "foretune_bad" in promtool(
        "# HELP foretune_bad x\n# TYPE foretune_bad counter\nforetune_bad 1\n"
    )


def test_prometheus_gets_the_format_it_asks_for(url):
    """OpenMetrics for who asks for it, text for everybody else."""
    plain = get(f"{url}/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    asked = get(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")


def test_single_metrics_can_be_asked_for(url):
    """name[] leaves out all others."""
    text = get(f"{url}/metrics?name[]=foretune_operator_leader").text
    assert "foretune_operator_leader 0.0" in text
    assert "foretune_reconcile" not in text


@pytest.mark.parametrize(("path", "name"), [("healthz", "healthy"), ("readyz", "ready")])
def test_a_probe_says_what_is_wrong(url, probes, path, name):
    """200 while nothing is wrong; else 503 with the reason as text, for that probe only."""
    assert get(f"{url}/{path}").status_code == 200
    setattr(probes, name, "no watch for 90 s")
    answer = get(f"{url}/{path}")
    assert answer.status_code == 503
    assert answer.text == "no watch for 90 s\n"
    other = "readyz" if path == "healthz" else "healthz"
    assert get(f"{url}/{other}").status_code == 200


def test_a_probe_that_fails_is_not_healthy(metrics):
    """A probe that raises answers 503 with the error, and the server lives on."""

    def broken() -> str | None:
        raise OSError("disk on fire")

    server = MetricsServer(metrics.registry, 0, healthy=broken, ready=lambda: None)
    server.start()
    try:
        answer = get(f"http://127.0.0.1:{server.port}/healthz")
        assert answer.status_code == 503
        assert "disk on fire" in answer.text
        assert get(f"http://127.0.0.1:{server.port}/readyz").status_code == 200
    finally:
        server.stop()


def test_an_unknown_path_says_which_there_are(url):
    """404 names the three paths."""
    answer = get(f"{url}/metric")
    assert answer.status_code == 404
    assert "/metrics, /healthz, /readyz" in answer.text


def test_a_slow_probe_does_not_hold_up_a_scrape(metrics):
    """Each connection has a thread of its own."""
    release = threading.Event()
    entered = threading.Event()

    def slow() -> str | None:
        entered.set()
        assert release.wait(60)
        return None

    server = MetricsServer(metrics.registry, 0, healthy=slow, ready=lambda: None)
    server.start()
    asking = threading.Thread(target=get, args=[f"http://127.0.0.1:{server.port}/healthz"])
    asking.start()
    try:
        assert entered.wait(20)
        assert get(f"http://127.0.0.1:{server.port}/metrics").status_code == 200
    finally:
        release.set()
        asking.join()
        server.stop()


def test_a_taken_port_is_an_error_at_once(metrics):
    """Two processes of one pod on one port must not start silently; one line says how to mend it."""
    said = r"metrics port \d+: .*in use; set FORETUNE_METRICS_PORT"
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(InvalidInputError, match=said):
        MetricsServer(
            metrics.registry,
            taken.getsockname()[1],
            healthy=lambda: None,
            ready=lambda: None,
            host="127.0.0.1",
        )


def test_a_stopped_server_frees_its_port(metrics):
    """The port can be bound again after stop, also when it was never started."""
    for start in (True, False):
        server = MetricsServer(metrics.registry, 0, healthy=lambda: None, ready=lambda: None)
        if start:
            server.start()
        port = server.port
        server.stop()
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_history_that_does_not_answer_is_absent_not_zero(caplog):
    """While the database is down the tracker's scrape works and says nothing of its size."""

    def down() -> dict[str, int]:
        raise HistoryUnavailableError("database is locked")

    names = {
        sample.name
        for family in TrackerMetrics(down).registry.collect()
        for sample in family.samples
    }
    assert "foretune_history_observations" not in names
    assert "foretune_history_writes_total" in names
    assert "does not answer" in caplog.text


def test_labels_of_the_services_stay_bounded():
    """Words nobody knows are counted as other."""
    suggestion, tracker = SuggestionMetrics(), TrackerMetrics(lambda: {"observations": 0})
    for number in range(30):
        word = f"word-{number}"
        suggestion.answered(word, 0.1)
        suggestion.failed(word, word)
        suggestion.fitted(word, 0.1)
        suggestion.fell_back(word, word, word)
        tracker.written(word)
        tracker.duplicate(word)
        tracker.proposed(word, word)
        tracker.came_out(word, 0.0, 1.0, 0.5)
    for registry in (suggestion.registry, tracker.registry):
        values = {
            value
            for family in registry.collect()
            if family.name.startswith("foretune_")
            for sample in family.samples
            for key, value in sample.labels.items()
            if key != "le"
        }
        assert values <= {"other", "ok", "error", "0.9"}


def test_the_latest_predictions_of_each_model_are_scored():
    """The share inside the interval of 90 % is that of the last 200; before the first there is no series."""
    tracker = TrackerMetrics(lambda: {"observations": 0})

    def read(name: str, **labels: str) -> float | None:
        return tracker.registry.get_sample_value(f"foretune_surrogate_{name}", labels)

    assert read("scored_predictions", model="gp") is None
    for value in (0.0, 1.6, -1.7, 3.0):
        tracker.came_out("gp", 0.0, 1.0, value)
    assert read("scored_predictions", model="gp") == 4
    assert read("interval_coverage_ratio", model="gp", level="0.9") == 0.5
    for _ in range(200):
        tracker.came_out("gp", 0.0, 1.0, 0.1)
    assert read("scored_predictions", model="gp") == 200
    assert read("interval_coverage_ratio", model="gp", level="0.9") == 1.0
    assert read("scored_predictions", model="meta-gp") is None
