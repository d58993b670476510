"""The wire format: domain values survive the way to JSON and back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.adapters.http import wire
from foretune.domain.history import JobRecord, Proposal
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import (
    AttemptPhase,
    AttemptRecord,
    EndReason,
    Outcome,
    Point,
    Trial,
    TrialState,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
params = st.dictionaries(texts, st.one_of(st.booleans(), st.integers(), numbers, texts), max_size=4)
maybe = st.none() | numbers
metrics = st.dictionaries(texts, numbers, max_size=3)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), numbers, texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(texts, json_values, max_size=3)
attempts = st.builds(
    AttemptRecord,
    number=st.integers(0, 99),
    state=st.sampled_from(AttemptPhase),
    pod_uid=st.none() | texts,
    created_at=maybe,
    bound_at=maybe,
    started_at=maybe,
    ended_at=maybe,
    exit_code=st.none() | st.integers(-1, 255),
    reason=st.none() | st.sampled_from(EndReason),
    message=texts,
    node=st.none() | texts,
    gpus=st.integers(0, 8),
    held_gpu_s=numbers,
)
trials = st.builds(
    Trial,
    job_uid=texts,
    index=st.integers(0, 9999),
    params=params,
    state=st.sampled_from(TrialState),
    config_hash=texts,
    value=maybe,
    value_sd=numbers,
    epochs=numbers,
    reports=st.integers(0, 99),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    reason=st.none() | st.sampled_from(EndReason),
    metrics_seen=st.lists(texts, max_size=3).map(tuple),
    cpu_s=maybe,
    cost=maybe,
    stop_requested=st.none() | texts,
)
proposals = st.builds(
    Proposal,
    job_uid=texts,
    index=st.integers(0, 9999),
    params=params,
    config_hash=texts,
    proposer=texts,
    detail=mappings,
    created_at=numbers,
)
jobs = st.builds(
    JobRecord,
    uid=texts,
    namespace=texts,
    name=texts,
    manifest=mappings,
    objective=st.builds(
        Objective,
        metric=texts,
        goal=st.sampled_from(Goal),
        target=maybe,
        reduce=st.sampled_from(Reduce),
    ),
    context=st.dictionaries(texts, texts, max_size=3),
    created_at=numbers,
    closed_at=maybe,
)
outcomes = st.builds(
    Outcome,
    index=st.integers(0, 9999),
    attempt=st.integers(0, 9),
    state=st.sampled_from(TrialState),
    reason=st.sampled_from(EndReason),
    message=texts,
    counts_as_failure=st.booleans(),
    attempt_record=st.none() | attempts,
    records=st.lists(mappings, max_size=2).map(tuple),
    source=st.none() | texts,
    predicted=st.none() | st.tuples(numbers, numbers),
)
points = st.lists(st.builds(Point, epoch=numbers, metrics=metrics, at=numbers, resources=mappings))


def exactly(value: Any) -> Any:
    """Return a value in which 1, 1.0 and True differ."""
    return repr(value)


def survives(adapter: TypeAdapter[Any], value: Any) -> None:
    """Check that a value comes back as it was, by either way that is used."""
    assert exactly(adapter.validate_json(adapter.dump_json(value))) == exactly(value)
    text = json.dumps(adapter.dump_python(value, mode="json"), allow_nan=False)
    assert exactly(adapter.validate_json(text)) == exactly(value)


@settings(max_examples=40)
@given(trials)
def test_trials_survive(trial: Trial) -> None:
    """A trial comes back equal, the types of its parameters included."""
    survives(wire.TRIAL, trial)


@given(proposals)
def test_proposals_survive(proposal: Proposal) -> None:
    """A proposal comes back equal."""
    survives(wire.PROPOSAL, proposal)


@given(jobs)
def test_jobs_survive(job: JobRecord) -> None:
    """A job comes back equal."""
    survives(wire.JOB, job)


@given(outcomes)
def test_outcomes_survive(outcome: Outcome) -> None:
    """An outcome comes back equal."""
    survives(wire.OUTCOME, outcome)


@settings(max_examples=40)
@given(points)
def test_curves_survive(curve: list[Point]) -> None:
    """A curve comes back equal."""
    survives(wire.POINTS, curve)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
names = st.sampled_from(
    ["seq", "epoch", "step", "metrics", "nonfinite", "kind", "ts", "pod", "trial", "resources"]
)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(st.dictionaries(names, anything), max_size=6))
def test_whatever_a_log_holds_is_sound_in_the_end(records: list[dict[str, Any]]) -> None:
    """Cleaning never raises, leaves JSON, and cleaning twice is cleaning once."""
    clean = wire.recovered(records)
    json.dumps(clean, allow_nan=False)
    assert all(math.isfinite(v) for record in clean for v in record["metrics"].values())
    assert wire.recovered(clean) == clean
