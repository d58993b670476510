"""The mapping file: which columns of a table are what.

tasks: {column: task}                  # one file may hold many tasks; or name: alone
objective: {column: crps, goal: minimize}
params:
  learning_rate: {column: hp_lr_log, unit: ln}
  dropout: hp_dropout                  # the column alone
failure: {column: state}
cost: {column: runtime}
context: {model: deepar, dataset: {column: task}}
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from foretune.api.manifest import read_yaml
from foretune.api.problems import from_pydantic, listed, nearest
from foretune.api.space import NAME, parse_space
from foretune.api.spec import Model, Number
from foretune.domain.job import Goal, Reduce
from foretune.errors import InvalidJobError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foretune.domain.space import Space

Unit = Literal["percent", "ln", "log2", "log10", "oneMinus"]
"""What a column holds instead of the value: 100 x it, a logarithm of it, or 1 - it."""

End = Literal["completed", "stopped", "oom", "diverged", "error", "timeout", "unfinished"]
"""How a trial may have ended; `unfinished` ones are left for a later import."""

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "completed": (
        *("", "complete", "completed", "succeeded", "success", "ok", "done"),
        *("finished", "terminated", "false"),
    ),
    "stopped": ("pruned", "earlystopped", "stopped", "stoppedbyrule"),
    "oom": ("oom", "outofmemory", "oomkilled"),
    "diverged": ("diverged", "nan"),
    "error": ("fail", "failed", "error", "crashed", "true", "metricsunavailable"),
    "timeout": ("timeout", "timedout"),
    "unfinished": ("running", "waiting", "pending", "queued", "created"),
}
"""What is understood in a failure column without being told, in lower case, letters only."""


def _column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class Tasks(Model):
    """Which rows are one task."""

    column: str | None = None
    columns: tuple[str, ...] = ()
    name: str | None = None
    """Name of the task; may hold columns as `deepar-{dataset}`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that tells tasks apart."""
        found = ([self.column] if self.column else []) + list(self.columns)
        return tuple(dict.fromkeys([*found, *self.fields]))

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that the name is made of."""
        if self.name is None:
            return ()
        return tuple(field for _, field, _, _ in string.Formatter().parse(self.name) if field)

    @field_validator("name")
    @classmethod
    def _template(cls, name: str | None) -> str | None:
        try:
            list(string.Formatter().parse(name or ""))
        except ValueError as error:
            raise ValueError(f"must be a text with columns as {{dataset}}: {error}") from None
        return name


class ObjectiveColumn(Model):
    """What was optimised."""

    column: str | None = None
    """None where only a curve tells."""
    metric: str | None = None
    """Name of the metric; without one the column's."""
    goal: Goal | None = None
    goal_column: str | None = None
    unit: Literal["percent", "fraction"] | None = None
    """`percent`: 0 to 100, kept as a fraction; `fraction`: 0 to 1."""
    min: Number | None = None
    max: Number | None = None
    """Bounds of the column's values: what lies outside is set aside."""
    reduce: Reduce = Reduce.BEST
    """How a curve becomes a value where there is none."""

    @model_validator(mode="after")
    def _has_goal(self) -> ObjectiveColumn:
        if (self.goal is None) == (self.goal_column is None):
            raise ValueError("needs either goal (minimize or maximize) or goalColumn")
        return self


class Param(Model):
    """Where a parameter's values stand."""

    column: str | None = None
    """Without one the column of the parameter's name."""
    unit: Unit | None = None
    factor: Annotated[Number, Field(gt=0)] = 1
    """What a value is multiplied by, once its unit is undone."""
    whole: bool = False
    """Round to whole numbers: what a logarithm of them gives back is not quite whole."""


class Failure(Model):
    """How failures are told."""

    column: str | None = None
    words: dict[End, tuple[str | bool | int, ...]] = Field(default_factory=dict)
    """Words of the column for each end, besides those that are known."""
    missing: Literal["oom", "diverged", "error"] | None = None
    """What an empty or not finite objective means; without it such rows are set aside."""


class Cost(Model):
    """What a trial cost."""

    column: str
    unit: Literal["seconds", "cpuSeconds", "gpuSeconds"] = "seconds"
    factor: Annotated[Number, Field(gt=0)] = 1
    """Seconds that one of the column's units has: 3600 for hours."""


class CurveColumns(Model):
    """Where learning curves stand: in one of three forms."""

    columns: dict[float, str] = Field(default_factory=dict)
    """Epoch to the column with the objective after it."""
    column: str | None = None
    """A column with a list of values, one an epoch from 1 on: of a Parquet file, or JSON."""
    epoch: str | None = None
    """The column with the epoch, where each row is one epoch of the trial that `id` names."""

    @model_validator(mode="after")
    def _one_form(self) -> CurveColumns:
        if sum(map(bool, (self.columns, self.column, self.epoch))) != 1:
            raise ValueError("needs exactly one of columns, column and epoch")
        return self


class ContextColumn(Model):
    """A column with a part of the context."""

    column: str


class Mapping(Model):
    """The whole file."""

    tasks: Annotated[Tasks, BeforeValidator(_column)] = Tasks()
    objective: ObjectiveColumn
    params: Annotated[
        dict[str, Annotated[Param, BeforeValidator(_column)]], Field(min_length=1, max_length=64)
    ]
    id: str | None = None
    """A column that names each trial within its task; without one a trial is known by its whole row."""
    failure: Annotated[Failure, BeforeValidator(_column)] = Failure()
    cost: Annotated[Cost | None, BeforeValidator(_column)] = None
    curve: CurveColumns | None = None
    context: dict[str, str | ContextColumn] = Field(default_factory=dict)
    space: dict[str, Any] | None = None
    """As in a manifest, in the units after conversion; rows outside are set aside."""
    separator: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    """Of a CSV file; without one it is found in the head."""

    @model_validator(mode="after")
    def _coherent(self) -> Mapping:
        if self.curve is not None and self.curve.epoch is not None and self.id is None:
            raise ValueError("curve.epoch needs id: which rows are one trial")
        if self.objective.column is None and (self.curve is None or self.curve.epoch is not None):
            raise ValueError("objective.column is required, unless curves are in columns")
        if self.objective.column is None and self.objective.metric is None:
            raise ValueError("objective.metric is required where there is no objective.column")
        return self

    def metric(self) -> str:
        """Return the name of the metric."""
        return self.objective.metric or self.objective.column or ""

    def parsed_space(self) -> Space | None:
        """Return the space, if it is known; raises `InvalidJobError`."""
        return parse_space(self.space, "space") if self.space is not None else None

    def columns(self) -> Iterator[tuple[str, str]]:
        """Yield where a column is named, and the column."""
        yield from (("tasks", name) for name in self.tasks.names)
        objective = self.objective
        for path, name in (
            ("objective.column", objective.column),
            ("objective.goalColumn", objective.goal_column),
            ("id", self.id),
            ("failure.column", self.failure.column),
            ("cost.column", self.cost.column if self.cost else None),
            ("curve.column", self.curve.column if self.curve else None),
            ("curve.epoch", self.curve.epoch if self.curve else None),
        ):
            if name is not None:
                yield path, name
        for name, param in self.params.items():
            yield f"params.{name}.column", param.column or name
        for epoch, name in (self.curve.columns if self.curve else {}).items():
            yield f"curve.columns.{epoch:g}", name
        for name, told in self.context.items():
            if isinstance(told, ContextColumn):
                yield f"context.{name}.column", told.column

    def check(self, columns: Sequence[str], source: str) -> None:
        """Raise `InvalidJobError` naming every column that the table lacks, and a space that is none."""
        problems = [
            Problem(
                f"{source}: {path}",
                f"there is no column {name!r}{nearest(name, columns)}; there are {listed(columns)}",
            )
            for path, name in self.columns()
            if name not in columns
        ]
        problems += [
            Problem(
                f"{source}: params.{name}",
                "a name starts with a letter or _, then letters, digits, _ . -",
            )
            for name in self.params
            if not NAME.fullmatch(name)
        ]
        try:
            space = self.parsed_space()
        except InvalidJobError as error:
            problems += [Problem(f"{source}: {p.path}", p.message) for p in error.problems]
            space = None
        if space is not None:
            known = [name for name in space.names if name not in self.params]
            extra = [name for name in self.params if name not in space.names]
            problems += [Problem(f"{source}: space.{n}", "is not among params") for n in known]
            problems += [Problem(f"{source}: params.{n}", "is not in space") for n in extra]
        if problems:
            raise InvalidJobError(problems)


KNOWN: Final = {
    "tasks": tuple(Tasks.model_fields),
    "objective": ("column", "metric", "goal", "goalColumn", "unit", "min", "max", "reduce"),
    "failure": tuple(Failure.model_fields),
    "cost": tuple(Cost.model_fields),
    "curve": tuple(CurveColumns.model_fields),
    "": tuple(Mapping.model_fields),
}
"""Fields of each part, for near names."""


def load(text: str, source: str) -> Mapping:
    """Return the mapping of a YAML text; raises `InvalidJobError` with everything that is wrong."""
    document = read_yaml(text, source, "mapping")
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        params = document.get("params")
        names = map(str, params) if isinstance(params, dict) else ()
        each = dict.fromkeys(names, tuple(Param.model_fields))
        found = from_pydantic(error, "", {**each, **KNOWN})
        raise InvalidJobError(
            [Problem(f"{source}: {p.path}" if p.path else source, p.message) for p in found]
        ) from None
