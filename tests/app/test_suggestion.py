"""The suggestion service as a process: it gets ready, answers, and ends at once whatever it computes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.cluster import metric_lines
from tests.support.designs import MIXED, completed, valley
from tests.support.serving import Serving, free_port
from tests.support.until import until

from foretune.adapters.http.suggestions import HttpSuggestions
from foretune.domain.job import Objective
from foretune.errors import UnavailableError
from foretune.ports import SuggestionRequest
from foretune.search.fallback import sobol_proposal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

END_S = 30.0
"""Limit of an end after SIGTERM on a busy machine; three seconds are its grace."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    """A suggestion service that is not started yet."""
    settings = {"FORETUNE_PORT": str(free_port())}
    with Serving("suggestion", tmp_path, settings).ended() as made:
        yield made


@pytest.fixture
def client(service: Serving) -> Iterator[HttpSuggestions]:
    """The tracker's side of it."""
    made = HttpSuggestions(f"http://127.0.0.1:{service.environ['FORETUNE_PORT']}")
    yield made
    made.close()


def request(done: int, *, job: str = "job-1") -> SuggestionRequest:
    """Return the request of a job that has `done` completed trials."""
    trials = []
    for index in range(done):
        params = sobol_proposal(MIXED, trials, 0, reason="test").params
        trials.append(completed(index, params, valley(params)))
    return SuggestionRequest(
        job_uid=job,
        index=done,
        space=MIXED,
        objective=Objective(metric="accuracy"),
        algorithm="gp",
        seed=0,
        trials=trials,
        timeout_s=120.0,
    )


def answers(service: Serving) -> float:
    """Return how many requests the service has answered, by its metrics."""
    text = service.get("/metrics").text
    return sum(n for _, n in metric_lines(text, "foretune_suggestion_duration_seconds_count"))


def test_it_gets_ready_answers_and_counts(service, client):
    """Once /readyz says so it proposes by its surrogate, shows that in /metrics, and ends with 0."""
    service.start()
    assert service.get("/healthz").status_code == 200
    answer = client.suggest(request(12))
    assert MIXED.problems(answer.params) == []
    assert "fallback" not in answer.proposer
    assert answers(service) == 1
    assert service.terminate(within_s=END_S) == 0


def test_sigterm_ends_it_while_it_computes(service, client):
    """Fits under way do not hold the process: who waits is answered by Sobol or finds it gone."""
    service.start()
    asked = request(200)
    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(client.suggest, asked) for _ in range(40)]
        until(lambda: answers(service) >= 1, "the first of forty answers")
        began = time.monotonic()
        assert service.terminate(within_s=60) == 0
        assert time.monotonic() - began < END_S
        proposers = [f.result().proposer for f in futures if not f.exception(60)]
        assert all(isinstance(f.exception(), UnavailableError) for f in futures if f.exception())
    assert len(proposers) >= 1


def test_sigterm_ends_it_while_it_gets_ready(service):
    """The import of torch does not hold the process either."""
    service.start(ready=False)
    until(lambda: listening(service), "the probes answer")
    assert service.get("/readyz").status_code in {200, 503}
    assert service.terminate(within_s=END_S) in {0, -15}


def listening(service: Serving) -> bool:
    """Whether the probes answer, ready or not."""
    try:
        return service.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_without_torch_it_ends_with_what_to_install(service):
    """The light image, which has no torch, says so in one line rather than being unready for ever."""
    service.start(ready=False, before="import sys; sys.modules['torch'] = None")
    assert service.process.wait(120) == 2
    last = service.text().strip().splitlines()[-1]
    assert "pip install 'foretune[suggestion]'" in last
    assert "torch" in last
