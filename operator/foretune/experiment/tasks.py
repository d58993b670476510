"""The recorded histories, family by family, as tables with the space that was searched.

The data is no part of the project: `FORETUNE_DATA` says where it is. Each family is described here by its
folder, columns and space, so that a new history is a new entry of `FAMILIES`.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.domain.space import Choice, Float, Int, Ordinal, Parameter, Space, Value
from foretune.errors import InvalidInputError
from foretune.experiment.tables import Table, merged

DATA_VARIABLE: Final = "FORETUNE_DATA"
"""Environment variable with the folder that holds `history/`."""

DATA_DEFAULT: Final = "../shared/data"
"""Where the data is looked for, from the root of the checkout, unless the variable says otherwise."""

CHOOSING: Final = "choosing"
"""Half of the recorded tasks on which settings of the designers may be chosen."""

REPORTING: Final = "reporting"
"""The other half: figures of it are of tasks that no setting was chosen on."""

HALVES: Final = (CHOOSING, REPORTING)

Column = Callable[[Mapping[str, Any]], Sequence[Value]]
"""From the columns of a file (numpy arrays by name) to one parameter's values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Where a family's tables are, and how they are read."""

    name: str
    folder: str
    files: str
    space: Mapping[str, Any]
    """As in a manifest."""
    metric: str
    """Column of the objective."""
    goal: Goal = Goal.MINIMIZE
    columns: Mapping[str, str | Column] = field(default_factory=dict)
    """Parameters that are not simply the column of their name."""
    model: str = ""
    """What was trained: the `model` of the context."""
    dataset: Callable[[str], str] = str
    """From a task's name to its data set."""
    replicates: tuple[str, ...] = ()
    cost: str = ""
    keep: Callable[[Mapping[str, Any]], Any] | None = None
    """Mask of the rows to read; None reads all."""
    complete: bool = False
    terms: str = ""
    """Licence of the data, as its README states it."""


def exp(column: str) -> Column:
    """Return a reader of a column that holds natural logarithms."""
    return lambda data: np.exp(np.asarray(data[column], dtype=np.float64)).tolist()


def whole_exp(column: str) -> Column:
    """Return a reader of a column that holds natural logarithms of whole numbers."""
    return lambda data: np.rint(np.exp(np.asarray(data[column], dtype=np.float64))).tolist()


def exp2(column: str) -> Column:
    """Return a reader of a column that holds logarithms to base 2."""
    return lambda data: np.exp2(np.asarray(data[column], dtype=np.float64)).tolist()


def one_minus(column: str) -> Column:
    """Return a reader of 1 - column: a momentum near 1 is spread out on a logarithmic scale."""
    return lambda data: (1.0 - np.asarray(data[column], dtype=np.float64)).tolist()


def _kernel(data: Mapping[str, Any]) -> list[Value]:
    names = ("rbf", "poly", "linear")
    which = np.stack([np.asarray(data[f"k{i}"]) for i in range(3)]).argmax(axis=0)
    return [names[i] for i in which]


def _svm_c(data: Mapping[str, Any]) -> list[Value]:
    return list((2.0 ** np.rint(6 * np.asarray(data["c_norm"]))).tolist())


def _svm_gamma(data: Mapping[str, Any]) -> list[Value]:
    return [float(f"{10 ** (4 * g):.3g}") for g in np.asarray(data["gamma_norm"])]


def _svm_degree(data: Mapping[str, Any]) -> list[Value]:
    return list(np.rint(10 ** np.asarray(data["degree_norm"])).astype(int).tolist())


def _log(low: float, high: float, kind: str = "float") -> dict[str, Any]:
    return {"type": kind, "min": low, "max": high, "scale": "log"}


def _linear(low: float, high: float, kind: str = "float") -> dict[str, Any]:
    return {"type": kind, "min": low, "max": high}


def _values(*values: Value) -> dict[str, Any]:
    return {"values": list(values)}


def _before(mark: str) -> Callable[[str], str]:
    return lambda task: task.partition(mark)[0]


_UNITS: Final = _values(16, 32, 64, 128, 256, 512)
_STEPLAW: Final = {"lr": _log(0.0001726, 0.0221), "batch_size": _log(16, 2048, "int")}

FAMILIES: Final = {
    family.name: family
    for family in (
        Family(
            name="lcbench_a",
            folder="lcbench_a",
            files="*.parquet",
            space={
                "batch_size": _log(16, 512, "int"),
                "learning_rate": _log(1e-4, 1e-1),
                "momentum": _linear(0.1, 0.99),
                "weight_decay": _linear(1e-5, 1e-1),
                "num_layers": _linear(1, 5, "int"),
                "max_units": _log(64, 1024, "int"),
                "max_dropout": _linear(0.0, 1.0),
            },
            metric="val_acc_final",
            goal=Goal.MAXIMIZE,
            model="mlp",
            cost="runtime_s",
            terms="Apache-2.0, surrogate values",
        ),
        Family(
            name="fcnet",
            folder="fcnet",
            files="fcnet_*.parquet",
            space={
                "activation_fn_1": _values("relu", "tanh"),
                "activation_fn_2": _values("relu", "tanh"),
                "batch_size": _values(8, 16, 32, 64),
                "dropout_1": _values(0.0, 0.3, 0.6),
                "dropout_2": _values(0.0, 0.3, 0.6),
                "init_lr": _values(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1),
                "lr_schedule": _values("const", "cosine"),
                "n_units_1": _UNITS,
                "n_units_2": _UNITS,
            },
            metric="val_loss_mean",
            model="mlp",
            replicates=tuple(f"val_loss_seed{i}" for i in range(4)),
            cost="train_time_mean",
            complete=True,
            terms="BSD-3-Clause",
        ),
        Family(
            name="taskset_imdb_rnn",
            folder="taskset_imdb_rnn",
            files="*.parquet",
            space={
                "learning_rate": _log(1e-8, 10.0),
                "one_minus_beta1": _log(1e-4, 1.0),
                "one_minus_beta2": _log(1e-6, 1.0),
                "epsilon": _log(1e-10, 1e3),
                "l1": _log(1e-8, 10.0),
                "l2": _log(1e-8, 10.0),
                "linear_decay": _log(1e-7, 1e-4),
                "exponential_decay": _log(1e-6, 1e-3),
            },
            columns={
                "one_minus_beta1": one_minus("beta1"),
                "one_minus_beta2": one_minus("beta2"),
            },
            metric="valid_loss_best",
            model="rnn",
            # All tasks train on IMDb; what differs, and is held out, is the network.
            dataset=lambda task: task.removeprefix("FixedTextRNNClassification_"),
            terms="Apache-2.0",
        ),
        Family(
            name="deepar_forecasting",
            folder="deepar_forecasting",
            files="*.parquet",
            space={
                "num_layers": _linear(2, 4, "int"),
                "num_cells": _linear(30, 120, "int"),
                "dropout_rate": _log(0.01, 0.51),
                "learning_rate": _log(1e-4, 1e-1),
                "num_batches_per_epoch": _log(10, 10000, "int"),
                "context_length_ratio": _log(0.05, 4.0),
            },
            columns={
                "num_layers": whole_exp("hp_num_layers"),
                "num_cells": whole_exp("hp_num_cells"),
                "dropout_rate": exp("hp_dropout_rate_log"),
                "learning_rate": exp("hp_learning_rate_log"),
                "num_batches_per_epoch": whole_exp("hp_num_batches_per_epoch_log"),
                "context_length_ratio": exp("hp_context_length_ratio_log"),
            },
            metric="metric_CRPS",
            model="deepar",
            cost="metric_time",
            terms="Apache-2.0",
        ),
        Family(
            name="tst_svm",
            folder="tst_svm",
            files="*.parquet",
            space={
                "kernel": _values("rbf", "poly", "linear"),
                "C": _values(*(2.0**k for k in range(-5, 7))),
                "gamma": _values(
                    *(1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
                    1000.0,
                ),
                # A kernel without gamma or degree has gamma 1 and degree 1.
                "degree": _values(*range(1, 11)),
            },
            columns={"kernel": _kernel, "C": _svm_c, "gamma": _svm_gamma, "degree": _svm_degree},
            metric="accuracy",
            goal=Goal.MAXIMIZE,
            model="svm",
            terms="none stated",
        ),
        Family(
            name="xgb34",
            folder="xgb34",
            files="*.parquet",
            space={
                "x0": _linear(0.05, 1.0),
                "x1": _linear(0.05, 1.0),
                "x2": _log(1e-5, 1.0),
                "x3": _log(0.05, 10.0),
                "x4": _log(1e-5, 2.0),
                "x5": _log(1e-5, 2.0),
            },
            metric="error",
            model="xgboost",
            terms="MIT / Apache-2.0",
        ),
        Family(
            name="xgboost_libsvm",
            folder="xgboost_libsvm",
            files="*.parquet",
            space={
                "min_child_weight": _log(2**-8, 2**6),
                "subsample": _linear(0.5, 1.0),
                "colsample_bytree": _linear(0.3, 1.0),
                "gamma": _log(2**-20, 2**6),
                "lambda": _log(2**-10, 2**8),
                "eta": _linear(0.0, 1.0),
                "max_depth_index": _linear(0, 12, "int"),
                "alpha": _log(2**-20, 2**8),
            },
            columns={
                "min_child_weight": exp2("hp_log2_min_child_weight"),
                "subsample": "hp_subsample",
                "colsample_bytree": "hp_colsample_bytree",
                "gamma": exp2("hp_log2_gamma"),
                "lambda": exp2("hp_log2_lambda"),
                "eta": "hp_eta",
                "max_depth_index": "hp_max_depth_index",
                "alpha": exp2("hp_log2_alpha"),
            },
            metric="metric_error",
            model="xgboost",
            terms="Apache-2.0",
        ),
        Family(
            name="steplaw_dense",
            folder="steplaw_llm",
            files="steplaw_dense.parquet",
            space=_STEPLAW,
            columns={"batch_size": "bs"},
            metric="loss",
            model="transformer",
            terms="none stated",
        ),
        Family(
            name="steplaw_moe",
            folder="steplaw_llm",
            files="steplaw_moe.parquet",
            space=_STEPLAW,
            columns={"batch_size": "bs"},
            metric="loss",
            model="transformer-moe",
            cost="total_time",
            terms="none stated",
        ),
        Family(
            name="deepobs_baselines",
            folder="deepobs_baselines",
            files="*.parquet",
            space={
                "optimizer": _values("GradientDescent", "Momentum", "Adam"),
                "learning_rate": _log(1e-5, 100.0),
            },
            metric="test_loss_final",
            model="deepobs",
            dataset=_before("_"),
            terms="MIT",
        ),
        Family(
            name="neural_hpo_mnist_cifar",
            folder="neural_hpo_mnist_cifar",
            files="*.parquet",
            space={
                "learning_rate": _log(1e-4, 0.0103),
                "batch_size": _values(64, 80, 96, 128, 256, 512),
                "dropout_rate": _linear(0.0, 0.5),
                "hidden_units": _linear(64, 512, "int"),
                "optimizer": _values("adam", "sgd", "rmsprop"),
                "weight_decay": _linear(0.0, 0.01),
            },
            metric="val_acc_best",
            goal=Goal.MAXIMIZE,
            model="cnn",
            # Rows of evolutionary searchers crowd around their optima.
            keep=lambda data: np.isin(np.asarray(data["searcher"]), ["grid", "random"]),
            terms="none stated",
        ),
    )
}
"""Every family that can be replayed, by name."""


def data_folder() -> Path:
    """Return the folder that `FORETUNE_DATA` names; raises `InvalidInputError` when it is not there."""
    folder = Path(os.environ.get(DATA_VARIABLE) or DATA_DEFAULT)
    if not (folder / "history").is_dir():
        raise InvalidInputError(
            f"{DATA_VARIABLE}: there is no folder {folder / 'history'}; set it to the folder of the recorded data"
        )
    return folder


def family_of(name: str) -> Family:
    """Return a family; raises `InvalidInputError` naming those there are."""
    if name not in FAMILIES:
        raise InvalidInputError(f"family: must be one of {', '.join(FAMILIES)}, not {name!r}")
    return FAMILIES[name]


def half_of(family: str, task: str) -> str:
    """Return which half of the recorded tasks one belongs to: by its name, so that nobody picks it."""
    return HALVES[zlib.crc32(f"{family}/{task}".encode()) % 2]


def load(name: str, folder: Path | None = None) -> tuple[Table, ...]:
    """Return the tables of a family, by task name. Read once a process."""
    return _load(family_of(name), folder or data_folder())


@functools.lru_cache(maxsize=len(FAMILIES))
def _load(family: Family, folder: Path) -> tuple[Table, ...]:
    space = parse_space(family.space, "space")
    readers = {name: family.columns.get(name, name) for name in space.names}
    tables: list[Table] = []
    paths = sorted((folder / "history" / family.folder).glob(family.files))
    if not paths:
        raise InvalidInputError(f"{family.name}: no {family.files} in {folder / 'history'}")
    for path in paths:
        file = pq.read_table(path)
        names = [
            n for n in file.column_names if not str(file.schema.field(n).type).startswith("list")
        ]
        for task in pc.unique(file["task"]).to_pylist():
            part = file.filter(pc.equal(file["task"], task)).select(names)
            data = {n: part[n].to_numpy() for n in names}
            if family.keep is not None:
                mask = family.keep(data)
                data = {n: column[mask] for n, column in data.items()}
            tables.append(_table(family, space, task, data, readers))
    return tuple(sorted(tables, key=lambda table: table.task))


def _table(
    family: Family,
    space: Space,
    task: str,
    data: Mapping[str, Any],
    readers: Mapping[str, str | Column],
) -> Table:
    columns = {
        name: legal(space[name], data[reader] if isinstance(reader, str) else reader(data))
        for name, reader in readers.items()
    }
    arrays: list[Any] = [
        _floats(data[family.metric]),
        np.stack([_floats(data[n]) for n in family.replicates], axis=1)
        if family.replicates
        else None,
        _floats(data[family.cost]) if family.cost else None,
    ]
    if not family.complete:
        columns, arrays = merged(columns, arrays)
    values, replicates, costs = arrays
    dataset = family.dataset(task)
    return Table(
        family=family.name,
        task=task,
        dataset=dataset,
        space=space,
        objective=Objective(metric=family.metric, goal=family.goal),
        columns=columns,
        values=np.where(np.isfinite(values), values, np.nan),
        replicates=replicates,
        costs=costs,
        context={"model": family.model, "dataset": dataset},
        complete=family.complete,
    )


def _floats(column: Any) -> Any:
    return np.asarray(column, dtype=np.float64)


def legal(parameter: Parameter, values: Sequence[Any]) -> tuple[Value, ...]:
    """Return values as the space has them: files hold single precision and rounded logarithms.

    Raises `InvalidInputError` for one that is further from the space than rounding explains.
    """
    kept: dict[Any, Value] = {}
    return tuple(
        kept[v] if v in kept else kept.setdefault(v, _legal(parameter, v))
        for v in (value.item() if hasattr(value, "item") else value for value in values)
    )


def _legal(parameter: Parameter, value: Any) -> Value:
    found: Value = value
    if isinstance(parameter, Ordinal):
        found = min(parameter.options, key=lambda option: abs(float(option) - float(value)))
    elif isinstance(parameter, Int):
        found = int(min(parameter.high, max(parameter.low, round(value))))
    elif isinstance(parameter, Float):
        found = float(min(parameter.high, max(parameter.low, value)))
    elif isinstance(parameter, Choice):
        found = str(value)
    far = not isinstance(found, str) and abs(found - value) > ROUNDING * abs(value)
    if far or parameter.problem(found) is not None:
        raise InvalidInputError(f"{parameter.name}: {value!r} is no value of the space")
    return found


ROUNDING: Final = 2e-2
"""Relative error that is taken for rounding."""
