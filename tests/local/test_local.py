"""Parts of local mode: the start without torch, who may run a job, and what a stopped run leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.support.manifests import good

from foretune.api.v1alpha1 import parse
from foretune.app import local
from foretune.app.local import LocalSuggestions, open_run
from foretune.app.place import place
from foretune.app.starter import ElsewherePrior
from foretune.domain.job import PriorMode
from foretune.domain.space import Float, Scale, Space
from foretune.domain.trial import Trial, TrialState
from foretune.errors import ConflictError, HistoryUnavailableError, InvalidInputError
from foretune.ports import SuggestionRequest
from foretune.services.suggestion import SuggestionService

if TYPE_CHECKING:
    from pathlib import Path

START = """
import sys
from tests.local.test_local import request
from foretune.app.local import LocalSuggestions
from foretune.services.suggestion import SuggestionService
service = LocalSuggestions(SuggestionService())
print(*[service.suggest(request("auto", count)).params["x"] for count in range(3)])
assert "torch" not in sys.modules
"""


def request(algorithm: str, count: int) -> SuggestionRequest:
    """Return the request for trial `count` of a job whose trials 0 to count - 1 run."""
    space = parse(good(space={"lr": None, "layers": None, "x": {"min": 0.5, "max": 9.0}})).space
    trials = [
        Trial(
            job_uid="u",
            index=index,
            params={"x": 1.0 + index},
            state=TrialState.RUNNING,
            config_hash="",
        )
        for index in range(count)
    ]
    objective = parse(good()).to_domain().spec.objective
    return SuggestionRequest(
        job_uid="u",
        index=count,
        space=space,
        objective=objective,
        algorithm=algorithm,
        seed=7,
        trials=trials,
    )


@pytest.mark.slow
def test_a_start_needs_no_torch_and_is_the_services_own() -> None:
    """While torch is not there the first trials begin at once, with what the service would answer."""
    done = subprocess.run(
        [sys.executable, "-c", START], capture_output=True, text=True, check=True, timeout=120
    )
    service = SuggestionService()
    wanted = [service.suggest(request("auto", count)).params["x"] for count in range(3)]
    assert [float(word) for word in done.stdout.split()] == wanted
    service.close()


def test_a_start_by_the_starter_needs_no_torch_and_is_the_services_own() -> None:
    """Where a parameter is known from elsewhere the early answer is bent as the service would bend it."""
    prior = ElsewherePrior()
    service = SuggestionService(prior=prior)
    asked = request("auto", 1)
    space = Space((*asked.space.parameters, Float(name="lr", low=1e-7, high=1.0, scale=Scale.LOG)))
    asked = replace(asked, space=space, trials=[])
    early = LocalSuggestions(service, prior).suggest(asked)
    late = service.suggest(asked)
    assert (early.params, early.proposer) == (late.params, late.proposer)
    assert early.proposer == "starter"
    off = LocalSuggestions(service, prior).suggest(replace(asked, prior=PriorMode.OFF))
    assert off.proposer == "sobol"
    assert off.params["x"] == early.params["x"]
    assert off.params["lr"] != early.params["lr"]
    service.close()


def test_other_algorithms_are_the_services() -> None:
    """Random, grid and Sobol are answered by the service itself."""
    service = SuggestionService()
    local = LocalSuggestions(service)
    for algorithm in ("random", "sobol"):
        assert local.suggest(request(algorithm, 1)).params == (
            service.suggest(request(algorithm, 1)).params
        )
    service.close()


@pytest.mark.slow
def test_one_process_runs_a_job(tmp_path: Path) -> None:
    """A second run of a job is refused while the first holds it; of another job it is not."""
    where = place(str(tmp_path / "h.db"), {"XDG_DATA_HOME": str(tmp_path)})
    assert not where.running("a")
    with where.locked("a"):
        assert where.running("a")
        with (
            pytest.raises(ConflictError, match="job 'a' is being run by process"),
            where.locked("a"),
        ):
            pass
        with where.locked("b"):
            assert where.running("b")
    assert not where.running("a")
    with where.locked("a"):
        pass


@pytest.mark.slow
def test_looking_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    """Whoever asks whether a job runs holds its lock for an instant, which a run waits for."""
    where = place(None, {"XDG_DATA_HOME": str(tmp_path)})
    with where.locked("a"):
        pass
    code = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True);"
        "sys.stdin.read(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(where.state / "locks" / "a.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as looker:
        assert looker.stdout is not None
        assert looker.stdin is not None
        looker.stdout.readline()
        with pytest.raises(ConflictError), where.locked("a"):
            pass
        looker.stdin.close()
        looker.wait(60)
        with where.locked("a"):
            pass


def test_what_is_ignored_here_is_told(tmp_path: Path) -> None:
    """`suspend` is the cluster's: the user is told that the job runs all the same."""
    where = place(None, {"XDG_DATA_HOME": str(tmp_path)})
    manifest = parse(good(suspend=True))
    with open_run(manifest, where, environ={}, parallel=3) as run:
        assert any("spec.suspend is true" in note for note in run.notes)
        assert not run.job.spec.suspend
        assert run.job.spec.parallelism == 3
        assert run.job.key.namespace == "local"
        assert run.trials() == ()


def test_a_missing_model_is_told_before_the_job_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch the default algorithm is refused with what to install, or to choose instead."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    where = place(None, {"XDG_DATA_HOME": str(tmp_path)})
    with (
        pytest.raises(
            InvalidInputError, match=r"needs the package torch: pip install 'foretune\[local\]'"
        ),
        open_run(parse(good()), where, environ={}),
    ):
        pass
    with open_run(parse(good(search={"algorithm": "random"})), where, environ={}):
        pass


class Down:
    """A loop whose turns fail."""

    def __init__(self) -> None:
        self.turns = 0

    def reconcile(self, job: object) -> None:
        """Fail as a full disk makes it fail."""
        self.turns += 1
        raise HistoryUnavailableError("the history's database: disk is full")


def test_a_disk_that_stays_full_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns that fail are tried again for a while; then the run ends with what failed them."""
    monkeypatch.setattr(local, "RETRY_S", 0.01)
    monkeypatch.setattr(local, "PATIENCE_S", 0.2)
    where = place(None, {"XDG_DATA_HOME": str(tmp_path)})
    with open_run(parse(good(search={"algorithm": "random"})), where, environ={}) as run:
        down = Down()
        monkeypatch.setattr(run, "_reconciler", down)
        run.start()
        assert run.finished.wait(60)
        assert isinstance(run.error, HistoryUnavailableError)
        assert down.turns > 1
