"""How much of a budget is left."""

import pytest

from foretune.domain.budget import share_left
from foretune.domain.trial import Trial, TrialState


def trial(index, gpu_s, state=TrialState.COMPLETED):
    """Return a trial that held GPUs so long."""
    return Trial(
        job_uid="j", index=index, params={"x": 1}, state=state, config_hash="", gpu_s=gpu_s
    )


@pytest.mark.parametrize(
    ("spent", "hours", "wanted", "left"),
    [
        ((), 1.0, 20, None),  # nothing is known of what a trial costs
        ((900.0, 900.0), None, 20, None),  # no limit
        ((900.0, 900.0), 5.0, 20, None),  # the hours suffice for all twenty
        ((900.0, 900.0), 4.9, 20, 0.8980),  # and here they don't
        ((900.0, 900.0), 1.0, 20, 0.5),
        ((3600.0, 900.0), 1.0, 20, 0.0),  # overspent by what ran on
        ((0.0, 0.0), 1.0, 20, None),  # trials without GPUs spend no GPU hours
    ],
)
def test_the_share_left(spent, hours, wanted, left):
    """The share counts where the GPU hours, not the number of trials, end the job."""
    trials = [trial(i, gpu_s) for i, gpu_s in enumerate(spent)]
    found = share_left(trials, gpu_hours=hours, wanted=wanted)
    assert found == (left if left is None else pytest.approx(left, abs=1e-4))


def test_what_lost_attempts_held_is_spent():
    """A trial that still runs has spent what its ended attempts held; the mean is that of ended ones."""
    trials = [trial(0, 1800.0), trial(1, 900.0, TrialState.RETRYING)]
    assert share_left(trials, gpu_hours=1.0, wanted=20) == pytest.approx(0.25)
