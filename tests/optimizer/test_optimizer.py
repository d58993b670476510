"""The Python API, to the letter of its documentation."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from foretune import optimizer
from foretune.adapters.store import SqlHistory
from foretune.api.space import parse_space
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import (
    ForetuneError,
    InvalidInputError,
    InvalidObservationError,
    SpaceExhaustedError,
)
from foretune.optimizer import Observation, Optimizer, Suggestion, TaskHistory
from foretune.search.costmodel import ENOUGH

SPACE = {
    "lr": {"min": 0.0001, "max": 0.1, "scale": "log"},
    "layers": {"min": 2, "max": 5},
    "batch_size": {"values": [16, 32, 64]},
    "optimizer": {"values": ["adam", "sgd", "rmsprop"]},
    "nesterov": {"values": [True, False]},
    "epochs": {"value": 8},
}

FINITE = {"layers": {"min": 1, "max": 3}, "optimizer": {"values": ["adam", "sgd"]}}

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python-api.md"


def quality(params) -> float:
    """A loss that is best at lr 0.003, 4 layers and adam."""
    return (
        (math.log10(params["lr"]) + 2.5) ** 2
        + 0.1 * abs(params["layers"] - 4)
        + {"adam": 0.0, "sgd": 0.2, "rmsprop": 0.1}[params["optimizer"]]
    )


def test_the_names_are_those_of_the_documentation():
    """Signatures are an interface: names, order and defaults."""
    assert set(optimizer.__all__) == {"Observation", "Optimizer", "Suggestion", "TaskHistory"}

    def defaults(what):
        parameters = inspect.signature(what).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "self"}

    empty = inspect.Parameter.empty
    assert list(defaults(Optimizer).items()) == [
        ("space", empty),
        ("goal", "minimize"),
        ("metric", "val_loss"),
        ("seed", 0),
        ("algorithm", "auto"),
        ("history", None),
        ("context", None),
        ("candidates", None),
        ("budget_cost", None),
    ]
    assert (
        inspect.signature(Optimizer).parameters["candidates"].kind is inspect.Parameter.KEYWORD_ONLY
    )
    assert defaults(Optimizer.suggest) == {"n": 1}
    assert defaults(Optimizer.observe) == {
        "which": empty,
        "value": None,
        "failure": None,
        "cost": None,
        "curve": None,
    }
    assert defaults(Observation) == {
        "params": empty,
        "value": None,
        "failure": None,
        "cost": None,
        "curve": None,
    }
    given = defaults(TaskHistory)
    assert list(given) == ["name", "observations", "goal", "metric", "space", "context"]
    assert (given["goal"], given["metric"], given["space"]) == ("minimize", "val_loss", None)


def test_suggestions_are_plain_python():
    """Four suggestions differ, fit the space, and hold the very types of Python."""
    opt = Optimizer(SPACE)
    found = opt.suggest(n=4)
    assert all(isinstance(s, Suggestion) and isinstance(s.id, str) for s in found)
    assert len({s.id for s in found}) == len({opt.space.key(s.params) for s in found}) == 4
    assert opt.pending == [s.id for s in found]
    kinds = {"lr": float, "layers": int, "batch_size": int, "optimizer": str, "nesterov": bool}
    for suggestion in found:
        assert type(suggestion.params) is dict
        assert list(suggestion.params) == list(SPACE)
        assert {name: type(suggestion.params[name]) for name in kinds} == kinds
        assert suggestion.params["epochs"] == 8
        assert opt.space.problems(suggestion.params) == []


def test_an_outcome_is_observed_by_id_or_by_parameters():
    """Both ways end the suggestion; a configuration that nobody suggested counts as well."""
    opt = Optimizer(SPACE)
    first, second = opt.suggest(n=2)
    by_id = opt.observe(first.id, value=0.12, cost=38.0, curve=[(1, 0.4), (2, 0.2)])
    assert by_id == Observation(first.params, value=0.12, cost=38.0, curve=[(1, 0.4), (2, 0.2)])
    assert by_id.curve == ((1.0, 0.4), (2.0, 0.2))
    opt.observe(second.params, value=0.3)
    assert opt.pending == []
    own = {
        "lr": 0.01,
        "layers": 3,
        "batch_size": 32,
        "optimizer": "sgd",
        "nesterov": True,
        "epochs": 8,
    }
    opt.observe(own, value=0.05)
    assert opt.best is not None
    assert opt.best.params == own
    assert [o.value for o in opt.observations] == [0.12, 0.3, 0.05]
    assert opt.space.key(own) not in {opt.space.key(s.params) for s in opt.suggest(n=8)}
    assert opt._trials[0].cost == 38.0


def test_what_the_caller_changes_afterwards_changes_nothing():
    """A suggestion's dict belongs to the caller."""
    opt = Optimizer(SPACE)
    (suggestion,) = opt.suggest()
    wanted = dict(suggestion.params)
    suggestion.params["layers"] = 99
    assert opt.observe(suggestion.id, value=1.0).params == wanted


@pytest.mark.parametrize(
    ("word", "state", "reason"),
    [
        ("oom", TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY),
        ("diverged", TrialState.INFEASIBLE, EndReason.DIVERGED),
        ("error", TrialState.FAILED, EndReason.ERROR),
    ],
)
def test_failures_have_three_words(word, state, reason):
    """Each word is what an operator would have recorded, and is never the best."""
    opt = Optimizer(SPACE)
    first, second = opt.suggest(n=2)
    opt.observe(first.id, failure=word)
    assert opt.best is None
    assert (opt._trials[0].state, opt._trials[0].reason) == (state, reason)
    opt.observe(second.id, value=1.0)
    assert opt.best is not None
    assert opt.best.params == second.params


@pytest.mark.parametrize(("goal", "wanted"), [("minimize", 0.1), ("maximize", 0.9)])
def test_best_follows_the_goal(goal, wanted):
    """The lowest or the highest value, whatever the order."""
    opt = Optimizer(SPACE, goal=goal, metric="y", algorithm="sobol")
    assert opt.best is None
    for suggestion, value in zip(opt.suggest(n=3), (0.5, wanted, 0.3), strict=True):
        opt.observe(suggestion.id, value=value)
    assert opt.best is not None
    assert opt.best.value == wanted


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1], ids=["minimize", "maximize"])
def test_it_learns_in_both_directions(sign):
    """After 18 configurations the model has come near the optimum, and proposed most of them."""
    opt = Optimizer(SPACE, goal="minimize" if sign == 1 else "maximize", seed=3)
    proposers = []
    for _ in range(18):
        (suggestion,) = opt.suggest()
        proposers.append(suggestion.proposer)
        opt.observe(suggestion.id, value=sign * quality(suggestion.params))
    assert opt.best is not None
    assert sign * opt.best.value < 0.15
    assert proposers.count("gp") >= 12


@pytest.mark.parametrize("algorithm", ["auto", "random", "sobol"])
def test_the_seed_decides(algorithm):
    """Equal arguments and calls give equal suggestions; another seed gives others."""

    def session(seed: int) -> list[dict]:
        opt = Optimizer(SPACE, seed=seed, algorithm=algorithm)
        for suggestion in opt.suggest(n=6):
            opt.observe(suggestion.id, value=quality(suggestion.params))
        return [s.params for s in opt.suggest(n=2)]

    assert session(1) == session(1)
    assert session(1) != session(2)


@pytest.mark.parametrize("algorithm", ["auto", "gp", "random", "sobol", "grid"])
def test_a_finite_space_is_emptied_without_a_duplicate(algorithm):
    """All six configurations come once, the last batch is short, and then it says so."""
    opt = Optimizer(FINITE, algorithm=algorithm, seed=5)
    for index, suggestion in enumerate(opt.suggest(n=4)):
        opt.observe(suggestion.id, value=float(index))
    assert len(opt.suggest(n=4)) == 2
    assert len({opt.space.key(trial.params) for trial in opt._trials}) == 6
    with pytest.raises(SpaceExhaustedError, match="all 6 configurations") as caught:
        opt.suggest()
    assert isinstance(caught.value, ValueError)


@pytest.mark.slow
def test_a_budget_of_cost_lets_cheap_trials_come_first():
    """Of configurations as good as each other the cheap one is tried; without a budget as before."""
    space = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}

    def chosen(budget):
        opt = Optimizer(space, algorithm="gp", budget_cost=budget)
        for i in range(ENOUGH + 2):
            x, y = i * 0.618 % 1, i * 0.414 % 1
            opt.observe({"x": x, "y": y}, value=(y - 0.3) ** 2, cost=10 ** (-2 * x))
        return opt.suggest()[0].params

    without = chosen(None)
    assert chosen(1e9)["x"] > max(0.9, without["x"])
    assert chosen(1e-9) == without  # spent: what is left is chosen by its promise alone


@pytest.mark.parametrize("costs", [[], [30.0], [30.0, None, 30.0]])
def test_trials_of_unknown_cost_count_as_the_average(costs):
    """The share left is what the designers are told; a cost that was not told is not free."""
    opt = Optimizer(FINITE, algorithm="sobol", budget_cost=120.0)
    for cost in costs:
        opt.observe(opt.suggest()[0].id, value=1.0, cost=cost)
    ended = [trial for trial in opt._trials if trial.state.terminal]
    assert opt._share_left(120.0, ended) == 1 - 30 * len(costs) / 120


@pytest.mark.parametrize("budget", [0, -1.0, math.nan, math.inf, "12", True])
def test_a_budget_that_is_none_is_refused(budget):
    """The message names the argument."""
    with pytest.raises(InvalidInputError, match="budget_cost: must be a finite number above 0"):
        Optimizer(SPACE, budget_cost=budget)


def test_a_history_of_tasks_is_kept():
    """A sequence of TaskHistory is accepted and there for the designers."""
    task = TaskHistory(
        name="mnist-cnn",
        observations=[
            Observation(params={"lr": 0.01, "layers": 2}, value=0.3, cost=3, curve=[(1, 0.3)]),
            Observation(params={"lr": 0.1, "layers": 3}, failure="diverged"),
        ],
        goal="minimize",
        metric="val_loss",
        space=None,
        context={"model": "cnn", "dataset": "mnist"},
    )
    opt = Optimizer(SPACE, history=[task], context={"model": "cnn", "width": 64})
    (kept,) = opt.history
    assert (kept.name, kept.context) == ("mnist-cnn", {"model": "cnn", "dataset": "mnist"})
    assert [t.value for t in kept.trials] == [0.3, None]
    assert [t.cost for t in kept.trials] == [3.0, None]
    assert [t.params for t in kept.trials] == [o.params for o in task.observations]
    assert opt._problem.context == {"model": "cnn", "width": "64"}
    assert len(opt.suggest(n=2)) == 2


def test_the_starter_is_taken_by_its_name_alone(tmp_path, monkeypatch):
    """`history="starter"` starts by the prior that ships; without it nothing is known from elsewhere."""
    space = {"lr": {"min": 1e-6, "max": 1.0, "scale": "log"}, "clip": {"min": 0.1, "max": 5.0}}
    first = Optimizer(space, history="starter").suggest()[0]
    assert first.proposer == "starter"
    assert first.detail["known"] == ["lr"]
    assert Optimizer(space).suggest()[0].proposer == "sobol"
    assert Optimizer(space, history="starter", algorithm="gp").suggest()[0].proposer == "sobol"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").write_bytes(b"SQLite format 3\x00 and no more")
    with pytest.raises(InvalidInputError):
        Optimizer(space, history="./starter")


def test_a_history_of_a_file_is_kept(tmp_path):
    """The path of a history database is accepted as text and as a path."""
    path = tmp_path / "history.db"
    store = SqlHistory(str(path))
    store.migrate()
    store.close()
    for given in (path, str(path)):
        assert Optimizer(SPACE, history=given).history == path


def test_a_space_of_a_manifest_and_a_parsed_one_are_the_same():
    """Both forms give the same suggestions."""
    first = Optimizer(SPACE, algorithm="sobol").suggest(n=3)
    second = Optimizer(parse_space(SPACE, "space"), algorithm="sobol").suggest(n=3)
    assert [s.params for s in first] == [s.params for s in second]


def test_numbers_of_numpy_and_torch_are_taken():
    """Scalars of either library count as the Python value they hold."""
    opt = Optimizer({"x": {"min": 1, "max": 9}})
    opt.observe({"x": np.int64(3)}, value=np.float32(0.5), cost=np.float64(2.0))
    opt.observe({"x": 4}, value=torch.tensor(0.25), curve=[(np.int64(1), torch.tensor(0.5))])
    first, second = opt.observations
    assert (type(first.params["x"]), type(first.value), first.cost) == (int, float, 2.0)
    assert (type(second.value), second.curve) == (float, ((1.0, 0.5),))


GOOD = {
    "lr": 0.01,
    "layers": 3,
    "batch_size": 32,
    "optimizer": "sgd",
    "nesterov": True,
    "epochs": 8,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {}}, "space: "),
        ({"space": None}, "space: "),
        ({"space": {"lr": {"min": 1, "max": 0.1}}}, r"space\.lr\.min: min \(1\) must be less than"),
        ({"goal": "min"}, "goal: must be minimize or maximize, not 'min'"),
        ({"goal": None}, "goal: must be minimize or maximize, not None"),
        ({"metric": ""}, "metric: must be a text that is not empty"),
        ({"seed": 1.5}, "seed: must be a whole number, not 1.5"),
        ({"seed": True}, "seed: must be a whole number, not True"),
        (
            {"algorithm": "tpe"},
            "algorithm: must be one of auto, gp, random, sobol, grid, not 'tpe'",
        ),
        ({"algorithm": ["gp"]}, "algorithm: must be one of"),
        ({"history": "no/such.db"}, "history: there is no file no/such.db"),
        ({"history": str(Path(__file__))}, "is not a history database"),
        ({"history": 5}, "history: must be a path or a sequence of TaskHistory, not int"),
        ({"history": [5]}, r"history\[0\]: must be a TaskHistory, not int"),
        ({"context": 5}, "context: must be a mapping, not 5"),
    ],
)
def test_wrong_arguments_are_clear(arguments, message):
    """Each is one line that names the argument, and a ValueError of ours."""
    with pytest.raises(InvalidInputError, match=message) as caught:
        Optimizer(**{"space": SPACE, **arguments})
    assert isinstance(caught.value, ForetuneError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 1.0, "2", None, True])
def test_a_wrong_number_of_suggestions_is_clear(count):
    """N is a whole number from 1 on."""
    opt = Optimizer(SPACE)
    with pytest.raises(InvalidInputError, match=r"^n: must be"):
        opt.suggest(n=count)
    assert opt.pending == []


def test_grid_over_a_line_is_clear():
    """Grid search names the parameter that has no end."""
    with pytest.raises(InvalidInputError, match=r"space\.lr: .*give the parameter a step"):
        Optimizer(SPACE, algorithm="grid").suggest()


@pytest.mark.parametrize(
    ("which", "outcome", "message"),
    [
        ("0007", {"value": 1.0}, "id: no suggestion is called '0007'"),
        (None, {"value": 1.0}, "params: must be a mapping"),
        ({}, {"value": 1.0}, "params: must be a mapping"),
        (GOOD | {"layers": 9}, {"value": 1.0}, "params: .*layers.* between 2 and 5"),
        (GOOD | {"optimizer": ["sgd"]}, {"value": 1.0}, "params: .*optimizer"),
        (GOOD | {"width": 3}, {"value": 1.0}, "params: .*width"),
        ({"lr": 0.01}, {"value": 1.0}, "params: .*layers"),
        (GOOD, {}, "value, failure: give exactly one of them; neither is given"),
        (GOOD, {"value": 1.0, "failure": "oom"}, "give exactly one of them; both are given"),
        (GOOD, {"value": math.nan}, 'value: must be finite.*failure="diverged"'),
        (GOOD, {"value": "0.1"}, "value: must be a number, not '0.1'"),
        (GOOD, {"value": True}, "value: must be a number, not True"),
        (GOOD, {"value": np.zeros(2)}, "value: must be a number, not array"),
        (GOOD, {"value": torch.zeros(2)}, "value: must be a number, not tensor"),
        (GOOD, {"failure": "crash"}, "failure: must be one of oom, diverged, error, not 'crash'"),
        (GOOD, {"value": 1.0, "cost": -1}, "cost: must not be negative, not -1"),
        (GOOD, {"value": 1.0, "cost": math.inf}, "cost: must be finite"),
        (GOOD, {"value": 1.0, "curve": 5}, "curve: must be pairs"),
        (GOOD, {"value": 1.0, "curve": [1, 2]}, r"curve\[0\]: must be a pair"),
        (GOOD, {"value": 1.0, "curve": [(2, 1.0), (1, 1.0)]}, r"curve\[1\]: epochs must rise"),
        (GOOD, {"value": 1.0, "curve": [(1, math.nan)]}, r"curve\[0\]: must be finite"),
    ],
)
def test_wrong_observations_are_clear_and_change_nothing(which, outcome, message):
    """A refused observation is a ValueError of ours, and leaves the suggestion open."""
    opt = Optimizer(SPACE)
    (suggestion,) = opt.suggest()
    with pytest.raises(InvalidObservationError, match=message) as caught:
        opt.observe(which, **outcome)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert (opt.pending, opt.observations) == ([suggestion.id], [])


def test_a_suggestion_is_observed_once():
    """A second outcome of an id is a mistake of the caller."""
    opt = Optimizer(SPACE)
    (suggestion,) = opt.suggest()
    opt.observe(suggestion.id, value=0.5)
    with pytest.raises(InvalidObservationError, match="was observed already"):
        opt.observe(suggestion.id, value=0.4)
    assert opt.best is not None
    assert opt.best.value == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name: must be a text"),
        ({"observations": 5}, "task: observations: must be a sequence of Observation, not int"),
        (
            {"observations": [{"lr": 1}]},
            r"task: observations\[0\]: must be an Observation, not dict",
        ),
        ({"goal": "up"}, "goal: must be minimize or maximize"),
        ({"metric": None}, "metric: must be a text"),
        ({"space": {"lr": {}}}, r"space\.lr"),
        ({"space": FINITE}, r"task: observations\[0\]: .*layers"),
        ({"context": []}, "context: must be a mapping"),
    ],
)
def test_a_wrong_history_is_clear(arguments, message):
    """Each part of a TaskHistory is checked when it is made."""
    good = {"name": "task", "observations": [Observation({"lr": 0.1}, value=1.0)]}
    with pytest.raises(InvalidInputError, match=message):
        TaskHistory(**{**good, **arguments})


def test_threads_share_one_optimizer():
    """Threads that ask at once get different configurations, and lose no outcome."""
    opt = Optimizer(SPACE, algorithm="sobol")

    def work(_: int) -> str:
        (suggestion,) = opt.suggest()
        opt.observe(suggestion.id, value=quality(suggestion.params))
        return opt.space.key(suggestion.params)

    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(work, range(40)))
    assert len(set(keys)) == len(opt.observations) == 40


@pytest.mark.slow
def test_torch_is_loaded_when_it_is_needed():
    """Neither the import nor a designer without a model brings torch; the first model does."""
    code = (
        "import sys\n"
        "from foretune.optimizer import Optimizer, TaskHistory, Observation\n"
        "loaded = lambda: sorted({'torch', 'numpy', 'scipy', 'sqlalchemy', 'kopf', 'kubernetes'} & set(sys.modules))\n"
        "space = {'x': {'min': 1, 'max': 99}}\n"
        "opt = Optimizer(space, algorithm='sobol')\n"
        "[opt.observe(s.id, value=1.0) for s in opt.suggest(n=9)]\n"
        "print(loaded())\n"
        "Optimizer(space).suggest()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


@pytest.mark.slow
def test_the_examples_of_the_guide_run(tmp_path, monkeypatch):
    """Every Python block of the guide runs as it stands, one after the other."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert names["opt"].best is not None
