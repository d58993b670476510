"""What a trial cost, as the history tells it."""

import pytest
from tests.support.histories import (
    a_batch,
    a_job,
    a_proposal,
    an_attempt,
    an_outcome,
    epochs,
    running_trial,
)

from foretune.adapters.store import SqlHistory
from foretune.domain.trial import AttemptPhase


@pytest.fixture
def history(tmp_path):
    """A new history in a file."""
    history = SqlHistory(str(tmp_path / "history.db"))
    history.migrate()
    yield history
    history.close()


def test_a_trial_costs_the_gpu_seconds_it_held(history):
    """GPU seconds are the unit of a job with GPUs, whatever its processes report of the CPU."""
    uid = running_trial(history)
    history.add_reports(a_batch([{**epochs(0.4)[0], "resources": {"cpu_s": 7.0}}]))
    assert history.commit(uid, an_outcome(), at=50.0).cost == 120.0
    assert [trial.cost for trial in history.trials(uid)] == [120.0]


def test_gpus_that_were_never_held_have_no_cost(history):
    """An attempt that got no node is not told in CPU or wall seconds beside GPU seconds."""
    uid = running_trial(history)
    lost = an_attempt(state=AttemptPhase.GONE, gpus=2, started_at=1.0, ended_at=9.0)
    assert history.commit(uid, an_outcome(attempt_record=lost), at=50.0).cost is None


def test_a_trial_without_gpus_costs_cpu_seconds_or_wall_seconds(history):
    """CPU seconds where its processes report them, else the time from start to end."""
    history.put_job(a_job())
    ended = an_attempt(state=AttemptPhase.SUCCEEDED, started_at=1.0, ended_at=9.0)
    for index, resources in enumerate(({"cpu_s": 7.0}, {})):
        history.put_proposal(a_proposal("job-1", index))
        history.put_attempt("job-1", index, an_attempt(started_at=1.0))
        assert history.trial("job-1", index).cost is None
        history.add_reports(a_batch([{**epochs(0.4)[0], "resources": resources}], index))
        history.commit("job-1", an_outcome(index, attempt_record=ended), at=50.0)
    assert [trial.cost for trial in history.trials("job-1")] == [7.0, 8.0]
