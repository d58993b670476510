"""What an export writes, an import into another history reads as the same tasks."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.support.exchange import HEAD, MAPPING, brought, empty_history, opened

from foretune.api.space import render_space
from foretune.app.exchange import chosen_jobs, export_aside, export_jobs, open_archive
from foretune.domain.exchange import REASON, PastTrial
from foretune.domain.history import JobRecord
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space, canonical
from foretune.domain.trial import EndReason, TrialState

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.slow

FORMS = ("csv", "parquet", "jsonl")

# PostgreSQL and SQLite keep any text but NUL and halves of surrogate pairs.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)
NUMBER = st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)
SPACE = Space(
    (
        Float(name="lr", low=1e-5, high=1.0, scale=Scale.LOG),
        Int(name="layers", low=1, high=8),
        Choice(name="act", options=("=1+1", "16", "relu", True, '"', "a,b;c\n")),
        Ordinal(name="width", options=(16, 32, 64.5)),
        Const(name="epochs", value=3),
    )
)


@st.composite
def past_trials(draw: st.DrawFn, number: int) -> PastTrial:
    """A trial that has ended, in any way."""
    state, reason = draw(
        st.sampled_from(
            [
                (TrialState.COMPLETED, EndReason.DONE),
                (TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE),
                (TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY),
                (TrialState.FAILED, EndReason.ERROR),
                (TrialState.CANCELLED, None),
            ]
        )
    )
    unit = draw(st.lists(st.floats(0, 1), min_size=5, max_size=5))
    curve = tuple((float(i + 1), v) for i, v in enumerate(draw(st.lists(NUMBER, max_size=3))))
    return PastTrial(
        key=draw(st.sampled_from([f"{number}", f"=k{number}"])),
        line=number,
        params=SPACE.from_unit(unit),
        state=state,
        reason=reason,
        value=draw(NUMBER) if state.succeeded else None,
        value_sd=draw(st.sampled_from([0.0, 0.5])),
        message=draw(st.sampled_from(["", "=cmd|' /C calc'!A0", "two\nlines, and; more", "1e5"])),
        counts_as_failure=state is TrialState.FAILED,
        proposer=draw(st.sampled_from(["import", "gp", "meta-gp"])),
        curve=curve,
        epochs=float(len(curve)),
        gpu_s=draw(st.none() | st.integers(1, 10_000).map(float)),
        cpu_s=draw(st.none() | st.integers(1, 10_000).map(float)),
        seconds=draw(st.none() | st.integers(1, 10_000).map(float)),
        created_at=draw(st.none() | st.integers(1, 2_000_000_000).map(float)),
        ended_at=draw(st.none() | st.integers(1, 2_000_000_000).map(float)),
    )


@st.composite
def jobs(draw: st.DrawFn) -> tuple[JobRecord, list[PastTrial]]:
    """A job of another program, with its trials."""
    name = draw(TEXT.filter(lambda text: text == text.strip() and text.isprintable()))
    objective = Objective(
        metric=draw(st.sampled_from(["val_loss", "=1", "007"])),
        goal=draw(st.sampled_from(list(Goal))),
        reduce=draw(st.sampled_from(list(Reduce))),
        target=draw(st.none() | NUMBER),
    )
    manifest: dict[str, Any] = {"objective": {}}
    if draw(st.booleans()):
        manifest["space"] = render_space(SPACE)
    if draw(st.booleans()):
        manifest["history"] = {"publish": False}
    record = JobRecord(
        uid=f"import-{draw(st.integers(0, 10**9))}",
        namespace=draw(st.sampled_from(["local", "team-a"])),
        name=name.replace("/", "-"),
        manifest=manifest,
        objective=objective,
        context=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        created_at=float(draw(st.integers(1, 2_000_000_000))),
        closed_at=5.0,
        phase="Complete",
        reason=REASON,
    )
    count = draw(st.integers(1, 3))
    return record, [draw(past_trials(number)) for number in range(count)]


def told(path: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that a history says of its jobs, by uid."""
    history = opened(path)
    found: dict[str, tuple[Any, ...]] = {}
    for job in history.find_jobs():
        manifest = {key: job.manifest.get(key) for key in ("space", "history")}
        about = (job.namespace, job.name, job.objective, dict(job.context), job.created_at)
        trials = [
            (
                {name: canonical(value) for name, value in trial.params.items()},
                *(trial.state, trial.reason, trial.value, trial.value_sd, trial.message),
                *(trial.counts_as_failure, trial.proposer, trial.epochs, trial.reports),
                *(trial.gpu_s, trial.cpu_s, trial.seconds, trial.cost),
                *(trial.created_at, trial.ended_at),
                [(p.epoch, p.metrics) for p in history.curve(job.uid, trial.index)],
            )
            for trial in history.trials(job.uid)
        ]
        found[job.uid] = (*about, manifest, trials)
    history.close()
    return found


def copied(source: Path, form: str, target: Path) -> None:
    """Export a history into a file, and import that into another one."""
    file = source.with_suffix(f".{form}")
    with open_archive(str(source), read_only=True) as archive:
        export_jobs(archive, chosen_jobs(archive, []), form, file)
    summary = brought(file, target)
    assert summary.total.set_aside == 0


@pytest.mark.slow
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(jobs(), min_size=1, max_size=2, unique_by=lambda job: job[0].uid))
def test_a_round_trip_changes_nothing(found: Sequence[tuple[JobRecord, list[PastTrial]]]) -> None:
    """Names, spaces, values, ends, costs, curves and texts with formulas come back, by each format."""
    with tempfile.TemporaryDirectory() as name:
        source = empty_history(Path(name) / "source.db")
        with open_archive(str(source)) as archive:
            for job, trials in found:
                archive.add(1, job, trials, at=9.0, refused=lambda row: pytest.fail(str(row)))
        before = told(source)
        assert sum(len(job[-1]) for job in before.values()) == sum(len(t) for _, t in found)
        for form in FORMS:
            target = Path(name) / f"{form}.db"
            copied(source, form, target)
            assert told(target) == before


def test_an_export_comes_back_to_where_it_was_made(tmp_path: Path) -> None:
    """Jobs that the history has itself, imported or not, are known; another namespace gets its own."""
    source = empty_history(tmp_path / "h.db")
    (tmp_path / "t.csv").write_text(HEAD + "a,-2,2,adam,0.8,10\na,-3,3,sgd,0.7,20\n")
    brought(tmp_path / "t.csv", source, mapping=MAPPING)
    with open_archive(str(source), read_only=True) as archive:
        export_jobs(archive, archive.jobs(), "csv", tmp_path / "out.csv")
    again = brought(tmp_path / "out.csv", source)
    assert (again.total.added, again.total.known) == (0, 2)
    other = brought(tmp_path / "out.csv", source, namespace="team-b")
    assert other.total.added == 2
    assert brought(tmp_path / "out.csv", source, namespace="team-b").total.added == 0
    # And the table that it came from adds nothing to the copy in another history.
    fresh = empty_history(tmp_path / "fresh.db")
    assert brought(tmp_path / "out.csv", fresh).total.added == 2
    assert brought(tmp_path / "t.csv", fresh, mapping=MAPPING).total.known == 2


def test_a_spoilt_export_is_set_aside_row_by_row(tmp_path: Path) -> None:
    """Of an export that somebody edited, what can't be read is set aside with the reason, the rest gets in."""
    source = empty_history(tmp_path / "h.db")
    rows = "".join(f"a,-2,{n},adam,0.{n},10\n" for n in range(1, 8))
    (tmp_path / "t.csv").write_text(HEAD + rows)
    brought(tmp_path / "t.csv", source, mapping=MAPPING)
    with open_archive(str(source), read_only=True) as archive:
        export_jobs(archive, archive.jobs(), "csv", tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("Completed", "Perfect")
    lines[3] = lines[3].replace("Completed", "Running")
    lines[4] = lines[4].replace(",0.01,4,adam", ",7.5,4,adam")
    lines[5] = lines[5].replace(",0.5,", ",half,")
    (tmp_path / "out.csv").write_text("".join(lines))
    summary = brought(tmp_path / "out.csv", tmp_path / "other.db")
    assert summary.total.added == 3
    assert [summary.first[reason] for reason in summary.reasons] == [3, 4, 5, 6]
    assert list(summary.reasons) == [
        "'Perfect' is not a valid TrialState",
        "state: Running is no end",
        "lr: must be between 1e-05 and 1, not 7.5",
        "value: 'half' is no finite number",
    ]


def test_rows_set_aside_are_given_back(tmp_path: Path) -> None:
    """What was set aside comes out as it stood with its reason, and gets in once it is mended."""
    history = empty_history(tmp_path / "h.db")
    (tmp_path / "t.csv").write_text(HEAD + "a,-2,2,adam,0.8,10\na,-2,9,adam,0.7,=1+1\n")
    assert brought(tmp_path / "t.csv", history, mapping=MAPPING).total.set_aside == 1
    brought(tmp_path / "t.csv", history, mapping=MAPPING)
    with open_archive(str(history), read_only=True) as archive:
        assert export_aside(archive, "csv", tmp_path / "aside.csv") == 1
        (listed,) = archive.imports()
    text = (tmp_path / "aside.csv").read_text()
    head = "aside.source,aside.row,aside.task,aside.reason,"
    assert text.splitlines()[0] == head + HEAD.strip()
    assert '"""=1+1"""' in text
    assert listed[2] == {"layers: must be between 1 and 8, not 9": 1}
    (tmp_path / "aside.csv").write_text(
        text.replace(",9,adam", ",8,adam").replace('"""=1+1"""', "3")
    )
    summary = brought(tmp_path / "aside.csv", history, mapping=MAPPING)
    assert (summary.total.added, summary.total.set_aside) == (1, 0)


def test_a_file_that_can_not_be_written_stays_as_it_was(tmp_path: Path) -> None:
    """An export that fails leaves no half of a file, and the one that was there stays."""
    out = tmp_path / "out.csv"
    out.write_text("before")
    source = empty_history(tmp_path / "h.db")
    with open_archive(str(source), read_only=True) as archive:

        def broken(_job: JobRecord) -> Any:
            raise RuntimeError("the disk is gone")

        job = JobRecord(
            uid="u", namespace="n", name="j", manifest={}, objective=Objective(metric="m")
        )
        whole = replace(job, uid="import-1")
        archive.past = broken  # type: ignore[method-assign]
        with pytest.raises(RuntimeError):
            export_jobs(archive, [whole], "csv", out)
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.csv"]
