"""What designers are given to learn from, sound and spoilt."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.support.tables import a_table

from foretune.api.space import parse_space
from foretune.experiment.histories import BATTERY, SPLIT, Given, history_for, mirrored
from foretune.experiment.tasks import half_of
from foretune.optimizer import Observation

if TYPE_CHECKING:
    from foretune.experiment.tables import Table
    from foretune.optimizer import TaskHistory

SPACE = parse_space(
    {
        "lr": {"type": "float", "min": 1e-4, "max": 1e-1, "scale": "log"},
        "layers": {"type": "int", "min": 1, "max": 9},
        "optimizer": {"values": ["adam", "sgd"]},
    },
    "space",
)


def tables(count: int = 5, rows: int = 60) -> list[Table]:
    """Return tasks whose loss is the distance of log lr from -2; two tasks share a data set."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        lr = 10 ** rng.uniform(-4, -1, rows)
        found.append(
            a_table(
                space=SPACE,
                family="toy",
                task=f"t{i}",
                dataset=f"d{i // 2 if i < 2 else i}",
                columns={
                    "lr": tuple(lr.tolist()),
                    "layers": tuple(rng.integers(1, 10, rows).tolist()),
                    "optimizer": tuple(rng.choice(["adam", "sgd"], rows).tolist()),
                },
                values=np.abs(np.log10(lr) + 2),
            )
        )
    return found


def told(task: TaskHistory) -> tuple[list[float], list[float]]:
    """Return distances from the true optimum, and values, of the observations that have one."""
    valued = [o for o in task.observations if o.value is not None]
    return [abs(np.log10(float(o.params["lr"])) + 2) for o in valued], [o.value for o in valued]


def spoilt(variant: str, seed: int = 0, rows: int = 40) -> tuple[TaskHistory, ...]:
    """Return a history of the battery for the first of `tables()`."""
    all_tables = tables()
    strangers = [dataclasses.replace(a_table(), family="stranger")]
    given = Given(rows=rows, variant=variant)
    return history_for(all_tables, all_tables[0], given, seed=seed, strangers=strangers)


def test_no_row_of_the_targets_data_set_is_given() -> None:
    """Every task of the data set is left out, not only the target itself."""
    names = [task.name for task in spoilt("")]
    assert names == ["toy/t2", "toy/t3", "toy/t4"]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    """Methods are compared on one history; seeds differ."""
    assert spoilt("") == spoilt("")
    assert spoilt("") != spoilt("", seed=1)
    assert all(len(task.observations) == 40 for task in spoilt(""))


def test_so_many_sources_as_asked_for_are_drawn() -> None:
    """With few source tasks the seed says which."""
    all_tables = tables(9)
    drawn = {
        tuple(t.name for t in history_for(all_tables, all_tables[0], Given(sources=3), seed=seed))
        for seed in range(6)
    }
    assert all(len(names) == 3 for names in drawn)
    assert len(drawn) > 1


def test_a_split_history_is_of_the_tasks_for_choosing() -> None:
    """Nothing of the tasks that are reported on is learned from."""
    names = [task.name.removeprefix("toy/") for task in spoilt(SPLIT)]
    assert names == [n for n in ("t2", "t3", "t4") if half_of("toy", n) == "choosing"]


@pytest.mark.parametrize("variant", sorted(BATTERY))
def test_every_spoilt_history_is_a_legal_one(variant: str) -> None:
    """Nothing is refused at the door: designers have to notice by themselves."""
    for seed in range(3):
        assert spoilt(variant, seed)
        for task in spoilt(variant, seed):
            assert len(task.observations) >= 5


def test_a_negated_history_praises_the_worst() -> None:
    """N1: ranks are turned round exactly, values stay in their range."""
    for task in spoilt("N1"):
        distances, values = told(task)
        assert spearmanr(distances, values).statistic == pytest.approx(-1)


def test_a_shuffled_history_knows_nothing() -> None:
    """N2: the same values, at other configurations."""
    for sound, task in zip(spoilt(""), spoilt("N2"), strict=True):
        distances, values = told(task)
        assert abs(spearmanr(distances, values).statistic) < 0.5
        assert sorted(values) == sorted(told(sound)[1])


def test_another_familys_history_is_all_there_is() -> None:
    """N3: names that mean nothing here."""
    assert [task.name for task in spoilt("N3")] == ["stranger/one"]


def test_shifted_units_move_logarithmic_numbers_and_nothing_else() -> None:
    """N4: a learning rate in another unit, in a space of that unit."""
    for sound, task in zip(spoilt(""), spoilt("N4"), strict=True):
        for before, after in zip(sound.observations, task.observations, strict=True):
            assert after.params["lr"] == pytest.approx(100 * float(before.params["lr"]))
            assert after.params["layers"] == before.params["layers"]
            assert after.value == before.value


def test_one_row_in_ten_is_corrupt_in_three_ways() -> None:
    """N5: a percentage, a failure, a wrong direction; the other rows are as they were."""
    for sound, task in zip(spoilt(""), spoilt("N5"), strict=True):
        changed = [
            (before, after)
            for before, after in zip(sound.observations, task.observations, strict=True)
            if before != after
        ]
        assert len(changed) == 4
        assert sum(after.failure is not None for _, after in changed) == 1
        assert sum(after.value == 100 * (before.value or 0) for before, after in changed) >= 1


def test_one_task_is_huge_among_small_ones() -> None:
    """N6: one task has all its rows, the others twenty."""
    counts = sorted(len(task.observations) for task in spoilt("N6"))
    assert counts == [20, 20, 60]


def test_one_task_is_all_there_is() -> None:
    """N7: and another seed draws another one."""
    assert all(len(spoilt("N7", seed)) == 1 for seed in range(5))
    assert len({spoilt("N7", seed)[0].name for seed in range(9)}) > 1


def test_an_earlier_version_of_the_data_set_has_its_optimum_elsewhere() -> None:
    """N8: the twin's best learning rate is a fifth of the range away."""
    *sound, earlier = spoilt("N8", rows=60)
    assert [task.name for task in sound] == [task.name for task in spoilt("", rows=60)]
    assert earlier.name == "toy/t0/v1"
    assert earlier.context == tables()[0].context
    best = min(earlier.observations, key=lambda o: o.value or 0.0)
    assert np.log10(float(best.params["lr"])) == pytest.approx(-2 + 0.2 * 3, abs=0.1)


def test_mirroring_keeps_failures_where_they_are() -> None:
    """Best and worst change places; a failure stays one."""
    outcomes = [
        Observation({"x": 1}, value=1.0),
        Observation({"x": 2}, failure="oom"),
        Observation({"x": 3}, value=4.0),
    ]
    assert [o.value for o in mirrored(outcomes)] == [4.0, None, 1.0]
    assert mirrored(outcomes)[1].failure == "oom"


def test_lists_of_a_quantity_change_their_unit_and_counts_do_not() -> None:
    """N4: a list of learning rates is in another unit; batch sizes, though they span as much, are not."""
    space = parse_space(
        {"lr": {"values": [0.001, 0.01, 0.1]}, "batch": {"values": [8, 64, 512]}}, "space"
    )
    columns = {"lr": (0.001, 0.01, 0.1), "batch": (8, 64, 512)}
    one, other = (
        a_table(space=space, columns=columns, values=[1.0, 2.0, 3.0], task=t, dataset=t)
        for t in "ab"
    )
    (task,) = history_for([one, other], one, Given(variant="N4"), seed=0)
    seen = {(o.params["lr"], o.params["batch"]) for o in task.observations}
    assert seen == {(0.1, 8), (1.0, 64), (10.0, 512)}
