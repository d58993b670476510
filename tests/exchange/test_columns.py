"""Tables with a mapping: units, failures, curves, and the rows that are set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.exchange import HEAD, MAPPING, brought, opened

from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError, InvalidJobError

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "objective: {column: y, goal: minimize}\nparams: {lr: lr}\n"


def trials(tmp_path: Path, text: str, mapping: str, task: str = "table") -> tuple[Trial, ...]:
    """Import a CSV text, and return the trials of one of its tasks."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    brought(path, tmp_path / "h.db", mapping=mapping)
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name=task)
    found = tuple(history.trials(job.uid))
    history.close()
    return found


def test_units_are_undone(tmp_path: Path) -> None:
    """Logarithms, per cent, 1 - x and factors become values, whole ones where that is asked for."""
    mapping = """
objective: {column: acc, goal: maximize, unit: percent}
params:
  a: {column: a, unit: log10}
  b: {column: b, unit: log2, whole: true}
  c: {column: c, unit: ln}
  d: {column: d, unit: percent}
  e: {column: e, unit: oneMinus}
  f: {column: f, factor: 0.001}
"""
    (one,) = trials(tmp_path, "a,b,c,d,e,f,acc\n-3,6.0000001,0,25,0.9,250,97.5\n", mapping)
    assert one.params == {"a": 0.001, "b": 64, "c": 1, "d": 0.25, "e": 0.1, "f": 0.25}
    assert one.value == 0.975


def test_a_task_a_value_of_its_column(tmp_path: Path) -> None:
    """Tasks may be interleaved; each gets its own job, with its context, space and cost."""
    mapping = MAPPING + "context: {model: cnn, dataset: {column: task}}\n"
    path = tmp_path / "table.csv"
    path.write_text(HEAD + "a,-2,2,adam,0.8,10\nb,-3,3,sgd,0.7,20\na,-1,4,sgd,0.9,30\n")
    summary = brought(path, tmp_path / "h.db", mapping=mapping)
    assert [(task.name, task.counts.added) for task in summary.tasks] == [("a", 2), ("b", 1)]
    history = opened(tmp_path / "h.db")
    (job,) = history.find_jobs(name="a")
    assert (job.namespace, job.phase, job.reason) == ("local", "Complete", "Imported")
    assert (
        job.closed_at is not None
    )  # an operator closes what its cluster lacks, unless it is closed
    assert job.context == {"model": "cnn", "dataset": "a"}
    assert job.manifest["imported"]["sha256"] == summary.sha256
    first, second = history.trials(job.uid)
    assert first.params == {"lr": 0.01, "layers": 2, "optimizer": "adam"}
    assert (first.value, first.seconds, second.seconds) == (0.8, 10.0, 30.0)
    history.close()


def test_ends_are_told_by_words(tmp_path: Path) -> None:
    """A failure column tells how a trial ended, in words that are known or that the mapping explains."""
    mapping = PLAIN + "failure: {column: s, words: {oom: [boom]}}\n"
    text = "lr,y,s\n1,0.5,COMPLETE\n2,,failed\n3,,Boom\n4,,running\n5,0.1,strange\n6,0.3,pruned\n"
    found = trials(tmp_path, text, mapping)
    assert [(t.params["lr"], t.state, t.reason, t.value) for t in found] == [
        (1, TrialState.COMPLETED, EndReason.DONE, 0.5),
        (2, TrialState.FAILED, EndReason.ERROR, None),
        (3, TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY, None),
        (6, TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE, 0.3),
    ]


def test_what_a_missing_value_means_is_said(tmp_path: Path) -> None:
    """Without a word of the mapping a row without a finite value is set aside; with one it is a failure."""
    text = "lr,y\n1,0.5\n2,nan\n3,\n4,inf\n"
    assert len(trials(tmp_path, text, PLAIN)) == 1
    (tmp_path / "h.db").unlink()
    found = trials(tmp_path, text, PLAIN + "failure: {missing: diverged}\n")
    assert [t.reason for t in found[1:]] == [EndReason.DIVERGED] * 3


def test_curves_in_each_form(tmp_path: Path) -> None:
    """A curve may stand in columns, in one cell as a list, or in a row for each epoch in any order."""
    wide = "objective: {metric: y, goal: minimize}\nparams: {lr: lr}\n"
    (one,) = trials(tmp_path, "lr,e1,e2\n1,0.5,0.25\n", wide + "curve: {columns: {1: e1, 2: e2}}\n")
    assert (one.value, one.epochs, one.reports) == (0.25, 2, 2)
    (tmp_path / "h.db").unlink()
    cell = wide + "curve: {column: c}\n"
    (two,) = trials(tmp_path, 'lr,c\n1,"[0.5, 0.125]"\n', cell)
    assert (two.value, two.epochs) == (0.125, 2)
    (tmp_path / "h.db").unlink()
    long = PLAIN + "id: run\ncurve: {epoch: epoch}\n"
    text = "run,epoch,lr,y\na,2,1,0.2\nb,1,7,0.9\na,1,1,0.4\na,3,1,0.3\nb,2,7,0.8\n"
    a, b = trials(tmp_path, text, long)
    assert (a.params["lr"], a.value, a.epochs) == (1, 0.2, 3)
    assert (b.params["lr"], b.value, b.epochs) == (7, 0.8, 2)
    history = opened(tmp_path / "h.db")
    points = history.curve(a.job_uid, a.index)
    assert [(p.epoch, p.metrics["y"]) for p in points] == [(1, 0.4), (2, 0.2), (3, 0.3)]
    history.close()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,-9,2,adam,0.8,1", "lr: must be between"),
        ("a,-2,2,adamw,0.8,1", "optimizer: must be one of"),
        ("a,-2,2.5,adam,0.8,1", "layers: must be a whole number"),
        ("a,-2,two,adam,0.8,1", "layers: 'two' is not a number"),
        ("a,-2,2,adam,good,1", "acc: 'good' is not a number"),
        ("a,-2,2,adam,,1", "acc: no finite value"),
        ("a,-2,2,adam,80,1", "acc: per cent, unlike the others"),
        ("a,-2,2,adam,-0.8,1", "acc: wrong sign, unlike the others"),
        ("a,-2,2,adam,0.8,-5", "runtime: '-5' is no cost"),
        ("a,999,2,adam,0.8,1", "log_lr: '999' is not finite as log10"),
        ("a,-2,2", "has 3 cells where the head has 6"),
        ("a,-2,2,adam,0.8,1,7", "has 7 cells where the head has 6"),
    ],
)
def test_what_can_not_be_right_is_set_aside(tmp_path: Path, row: str, reason: str) -> None:
    """A row of the wrong unit, sign, type or range gets in nowhere, and is kept with its line and reason."""
    good = "".join(
        f"a,-{1 + i / 10:.1f},{1 + i % 5},sgd,{0.7 + i / 100:.2f},5\n" for i in range(20)
    )
    path = tmp_path / "table.csv"
    path.write_text(f"{HEAD}{good}{row}\n")
    summary = brought(path, tmp_path / "h.db", mapping=MAPPING)
    assert (summary.total.added, summary.total.set_aside) == (20, 1)
    (told,) = summary.reasons
    assert told.startswith(reason)
    assert summary.first[told] == 22


def test_fractions_among_per_cent_are_set_aside(tmp_path: Path) -> None:
    """The few rows that are fractions where the others are per cent are no trials."""
    rows = [f"a,-{1 + i % 4},{1 + i % 5},sgd,{70 + i},5\n" for i in range(24)]
    for i in (3, 9, 14, 20):
        rows[i] = rows[i].replace(f",{70 + i},", f",{(70 + i) / 100},")
    path = tmp_path / "table.csv"
    path.write_text(HEAD + "".join(rows))
    summary = brought(path, tmp_path / "h.db", mapping=MAPPING)
    assert dict(summary.reasons) == {"acc: fraction, unlike the others": 4}


def test_a_bad_loss_is_no_per_cent(tmp_path: Path) -> None:
    """A loss of 23 among fractions of one stays: no loss is a share."""
    rows = "".join(f"{i},{0.1 + i / 100:.2f}\n" for i in range(1, 21))
    path = tmp_path / "table.csv"
    path.write_text(f"width,val_loss\n{rows}99,23\n")
    mapping = "objective: {column: val_loss, goal: minimize}\nparams: {width: width}\n"
    assert brought(path, tmp_path / "h.db", mapping=mapping).total.added == 21


@pytest.mark.parametrize(
    ("metric", "goal", "sign", "kept"),
    [
        ("val_loss", "maximize", 1, False),
        ("accuracy", "minimize", 1, False),
        ("accuracy", "maximize", 1, True),
        ("val_loss", "maximize", -1, True),
        ("neg_mean_squared_error", "maximize", 1, True),
        ("score", "minimize", 1, True),
    ],
)
def test_a_direction_that_contradicts_the_metric_sets_the_task_aside(
    tmp_path: Path, metric: str, goal: str, sign: int, *, kept: bool
) -> None:
    """A loss to maximize or an accuracy to minimize is set aside, unless its values are negated."""
    path = tmp_path / "table.csv"
    path.write_text(
        f"lr,{metric}\n" + "".join(f"{i},{sign * (0.2 + i / 100)}\n" for i in range(1, 10))
    )
    mapping = f"objective: {{column: {metric}, goal: {goal}}}\nparams: {{lr: lr}}\n"
    summary = brought(path, tmp_path / "h.db", mapping=mapping)
    assert summary.total.added == (9 if kept else 0)
    history = opened(tmp_path / "h.db")
    assert len(history.find_jobs()) == kept
    history.close()
    assert brought(path, tmp_path / "h.db", mapping=mapping, as_is=True).total.set_aside == 0


def test_goals_in_a_column_part_the_tasks(tmp_path: Path) -> None:
    """Rows of one task with opposite goals are two tasks; a goal that is none is set aside."""
    path = tmp_path / "table.csv"
    path.write_text("lr,y,dir\n1,0.5,min\n2,0.4,Maximize\n3,0.3,min\n4,0.2,up\n")
    mapping = "objective: {column: y, goalColumn: dir}\nparams: {lr: lr}\n"
    summary = brought(path, tmp_path / "h.db", mapping=mapping)
    assert [task.counts.added for task in summary.tasks] == [2, 1]
    assert list(summary.reasons) == ["dir: is neither minimize nor maximize"]


def test_a_declared_unit_bounds_the_objective(tmp_path: Path) -> None:
    """Of a column that is said to be per cent, or to have bounds, other values are set aside."""
    path = tmp_path / "table.csv"
    path.write_text("lr,y\n1,50\n2,120\n3,-1\n")
    mapping = "objective: {column: y, goal: maximize, unit: percent}\nparams: {lr: lr}\n"
    summary = brought(path, tmp_path / "h.db", mapping=mapping)
    assert summary.total.set_aside == 2
    mapping = "objective: {column: y, goal: maximize, min: 0}\nparams: {lr: lr}\n"
    assert brought(path, tmp_path / "h2.db", mapping=mapping).total.set_aside == 1


def test_parameters_out_of_the_range_of_their_name(tmp_path: Path) -> None:
    """Without a space a dropout of 30 among shares, and a text among numbers, are set aside."""
    rows = "".join(f"{i / 100},{i},{0.5 + i / 50}\n" for i in range(1, 20))
    path = tmp_path / "table.csv"
    path.write_text(f"dropout,width,y\n{rows}30,4,0.7\n0.2,wide,0.7\n")
    mapping = "objective: {column: y, goal: minimize}\nparams: {dropout: dropout, width: width}\n"
    summary = brought(path, tmp_path / "h.db", mapping=mapping)
    assert summary.total.added == 19
    assert {reason.partition(":")[0] for reason in summary.reasons} == {"dropout", "width"}


def test_a_wrong_mapping_says_everything_at_its_place(tmp_path: Path) -> None:
    """Every unknown field, column and value of a mapping is told at once, with its path and near names."""
    path = tmp_path / "table.csv"
    path.write_text(HEAD + "a,-2,2,adam,0.8,1\n")
    with pytest.raises(InvalidJobError) as caught:
        brought(path, tmp_path / "h.db", mapping="objective: {coluna: acc, goal: up}\nparams: {}\n")
    assert [problem.path for problem in caught.value.problems] == [
        "mapping: objective.goal",
        "mapping: objective.coluna",
        "mapping: params",
    ]
    bad = MAPPING.replace("log_lr", "loglr").replace("min: 1,", "min: 9,")
    with pytest.raises(InvalidJobError) as caught:
        brought(path, tmp_path / "h.db", mapping=bad)
    assert [problem.path for problem in caught.value.problems] == [
        "mapping: params.lr.column",
        "mapping: space.layers.min",
    ]
    assert "did you mean 'log_lr'?" in str(caught.value)
    assert not (tmp_path / "h.db").exists() or not opened(tmp_path / "h.db").find_jobs()


def test_texts_that_no_database_keeps(tmp_path: Path) -> None:
    """A NUL in an option sets the row aside; in a name of a trial or the context it is replaced."""
    path = tmp_path / "table.csv"
    path.write_text("run,act,y,d\na,re\0lu,1,x\nb\0,tanh,2,x\0\n")
    mapping = "id: run\nobjective: {column: y, goal: minimize}\nparams: {act: act}\n"
    summary = brought(path, tmp_path / "h.db", mapping=mapping + "context: {d: {column: d}}\n")
    assert (summary.total.added, summary.total.set_aside) == (1, 1)
    assert list(summary.reasons) == ["act: 're\\x00lu' holds a character that can't be kept"]
    assert brought(path, tmp_path / "h.db", mapping=mapping).total.known == 1


def test_a_decimal_comma_is_refused(tmp_path: Path) -> None:
    """A number with a comma can't be told from two: the line is named and nothing is imported."""
    path = tmp_path / "table.csv"
    path.write_text("lr;y\n0.1;0.5\n0,1;0.25\n")
    with pytest.raises(
        InvalidInputError, match=r"line 3: lr: '0,1' has a decimal comma; write '0.1'"
    ):
        brought(path, tmp_path / "h.db", mapping=PLAIN)
    history = opened(tmp_path / "h.db")
    assert not history.find_jobs()
    history.close()
