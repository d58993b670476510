"""One run: both protocols, batches, failures, what is recorded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.support.tables import LINE, a_table

from foretune.errors import InvalidInputError
from foretune.experiment.methods import Ask, Setting, expected, method, past_bests
from foretune.experiment.replay import Cell, curves, run, tune
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search.simple import SobolDesigner

if TYPE_CHECKING:
    from foretune.domain.space import Params
    from foretune.experiment.tables import Table


class Script:
    """A method that proposes given numbers, and remembers what it was told."""

    def __init__(self, *xs: float) -> None:
        """Propose `xs` in order."""
        self.xs = list(xs)
        self.told: list[tuple[float, float | None]] = []
        self.asked: list[int] = []

    def ask(self, n: int) -> list[Ask]:
        """Return the next `n`."""
        self.asked.append(n)
        asks = [Ask(params={"x": x}, proposer="script", mean=0.5, sd=0.1) for x in self.xs[:n]]
        del self.xs[:n]
        return asks

    def tell(self, ask: Ask, params: Params, value: float | None, cost: float | None) -> None:
        """Remember."""
        self.told.append((float(params["x"]), value))

    def cpu_s(self) -> float:
        """It takes no time."""
        return 0.0

    def grown_mib(self) -> float:
        """It takes no memory."""
        return 0.0

    def close(self) -> None:
        """Nothing is held."""


def setting(table: Table, budget: int, **changes: object) -> Setting:
    """Return a run over `LINE`."""
    values = {"space": LINE, "objective": table.objective, "seed": 0, "budget": budget, **changes}
    return Setting(**values)


def test_in_a_pool_a_proposal_moves_to_the_nearest_row_that_nobody_tried() -> None:
    """The method is told which row it was, and no row comes twice."""
    table, script = a_table(), Script(0.5, 0.5, 0.5, 1.0)
    record = tune(script, table, setting(table, 4), protocol="pool")
    assert record["tried"] == [2, 1, 3, 4]
    assert script.told == [(0.5, 2.0), (0.25, 3.0), (0.75, 1.0), (1.0, 0.0)]
    assert record["moved"] == 2
    assert record["regret"] == [1.0, 1.0, 0.5, 0.0]


def test_by_nearest_row_a_method_stays_where_it_is() -> None:
    """The outcome is the nearest row's, as often as it is the nearest."""
    table, script = a_table(), Script(0.4, 0.45, 0.9)
    record = tune(script, table, setting(table, 3), protocol="nearest")
    assert record["tried"] == [2, 2, 4]
    assert script.told == [(0.4, 2.0), (0.45, 2.0), (0.9, 0.0)]
    assert record["moved"] == 3


def test_a_batch_is_asked_for_before_anything_of_it_is_told() -> None:
    """Batches of four: the last one is as small as the budget leaves it."""
    table, script = a_table(), Script(0.0, 0.25, 0.5, 0.75, 1.0)
    record = tune(script, table, setting(table, 5, batch=4), protocol="pool")
    assert script.asked == [4, 1]
    assert record["regret"] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert len(record["wall_s"]) == len(record["cpu_s"]) == len(record["mean"]) == 5


def test_a_failed_row_is_told_as_a_failure() -> None:
    """It costs an evaluation and improves nothing."""
    table = a_table(values=[math.nan, 3.0, 2.0, 1.0, 0.0])
    script = Script(0.0, 0.75)
    record = tune(script, table, setting(table, 2), protocol="pool")
    assert script.told == [(0.0, None), (0.75, 1.0)]
    assert record["values"] == [None, 1.0]
    assert record["regret"][0] == 1.0


def test_the_configuration_that_looked_best_may_not_be_it() -> None:
    """With noise, regret is told of the best one tried and of the one a user would take."""
    table = a_table(values=[4.0, 3.0, 2.0, 1.0, 0.0])
    observed = np.array([1.5, math.nan, 0.2, 1.0])
    found = curves(table, [2, 0, 3, 4], observed)
    assert found["regret"] == [1.0, 1.0, 0.5, 0.0]
    assert found["regret_observed"] == [1.0, 1.0, 0.5, 0.5]
    assert found["regret_of_range"] == [0.5, 0.5, 0.25, 0.0]


def test_a_designer_to_try_knows_whose_proposals_its_trials_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guard counts them: without, a variant of ours would never give the plain expert a turn."""
    seen: list[list[str]] = []

    class Counting(SobolDesigner):
        """Sobol points, and whose proposals it was shown each time."""

        def suggest(self, problem: Any, completed: Any, pending: Any, deadline: Any) -> Any:
            """Remember who proposed what."""
            seen.append([trial.proposer for trial in (*completed.trials, *pending.trials)])
            return super().suggest(problem, completed, pending, deadline)

    monkeypatch.setattr("tests.support.tables.Counting", Counting, raising=False)
    table = a_table(values=[math.nan, 3.0, 2.0, 1.0, 0.0])
    chosen = setting(table, 4, batch=2, candidates=tuple(table.params(row) for row in range(5)))
    session = method("counting=tests.support.tables:Counting")(chosen)
    tune(session, table, chosen, protocol="pool")
    assert [names[:2] for names in seen] == [[], ["sobol"], ["sobol"] * 2, ["sobol"] * 2]


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_methods_use_up_a_pool_and_find_its_best(name: str) -> None:
    """A whole table is tried once; regret ends at 0."""
    table = a_table()
    candidates = tuple(table.params(row) for row in range(len(table)))
    limited = setting(table, 5, candidates=candidates)
    record = tune(method(name)(limited), table, limited, protocol="pool")
    assert sorted(record["tried"]) == [0, 1, 2, 3, 4]
    assert record["moved"] == 0
    assert record["regret"][-1] == 0.0


def a_history(best: float, name: str) -> TaskHistory:
    """Return a task whose best x is `best`."""
    observations = [Observation({"x": x}, value=abs(x - best)) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    failed = Observation({"x": 0.1}, failure="oom")
    return TaskHistory(name=name, observations=[*observations, failed], space=LINE)


@pytest.mark.slow
def test_past_bests_are_tried_first_each_once_then_the_model_goes_on() -> None:
    """Two tasks that agree give one configuration; the plain expert knows what they gave."""
    table = a_table(xs=[i / 20 for i in range(21)], values=[(i / 20 - 0.8) ** 2 for i in range(21)])
    history = (a_history(0.75, "a"), a_history(0.75, "b"), a_history(0.25, "c"))
    given = setting(table, 9, history=history)
    assert sorted(params["x"] for params in past_bests(given)) == [0.25, 0.75]
    record = tune(method("past-bests")(given), table, given, protocol="nearest")
    assert sorted(record["tried"][:2]) == [5, 15]
    assert record["proposer"][:2] == ["past-best", "past-best"]
    assert record["proposer"][-1] == "gp"
    assert record["regret"][-1] == 0.0


def test_an_ablation_is_any_designer_named_by_module() -> None:
    """`name=module:function` runs a designer of one's own; a wrong place is named."""
    table = a_table()
    given = setting(table, 5)
    session = method("mine=foretune.search.simple:SobolDesigner")(given)
    record = tune(session, table, given, protocol="pool")
    assert sorted(record["tried"]) == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidInputError, match=r"mine: foretune\.nowhere:f can't be imported"):
        method("mine=foretune.nowhere:f")
    with pytest.raises(InvalidInputError, match=r"one of random, .* not 'hebo'"):
        method("hebo")


def test_a_new_measurement_is_as_doubtful_as_model_and_noise_together() -> None:
    """A doubt of the model of 3 and a noise of 4 make 5; without a prediction there is none."""
    assert expected({"mean": 1, "sd": 3.0, "noise_sd": 4.0}) == {"mean": 1.0, "sd": 5.0}
    assert expected({"model": "gp"}) == {"mean": None, "sd": None}


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_a_run_by_its_cell_gives_ours_the_other_tasks_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The designer with history gets the other data sets' rows, the plain one none; all is measured."""
    seen: dict[str, tuple[str, ...]] = {}
    original = Optimizer.__init__

    def spy(self: Optimizer, *args: Any, history: Any = None, **more: Any) -> None:
        seen[more["algorithm"]] = tuple(task.name for task in history or ())
        original(self, *args, history=history, **more)

    monkeypatch.setattr(Optimizer, "__init__", spy)
    for name in ("ours", "plain"):
        record = run(Cell(seed=0, family="steplaw_dense", task="b", method=name, budget=8, rows=9))
        assert len(record["tried"]) == len(set(record["tried"])) == 8
        assert record["moved"] == 0
        assert record["regret"][-1] <= record["regret"][0]
        assert record["dataset"] == "b"
        assert record["grown_mib"] >= 0
        assert min(record["wall_s"]) > 0
    assert seen == {"auto": ("steplaw_dense/a", "steplaw_dense/c"), "gp": ()}
