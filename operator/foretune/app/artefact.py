"""A prior as two files: what was learned from many tasks, in a form that can be checked, sent and kept.

`prior.json` says what it is: the tasks with a digest each, their licences, the figures, and the SHA-256 of
`prior.safetensors`, which holds the numbers. The same tasks give the same bytes, so there is no date in it.
Whatever is read may come from a stranger: sizes are bounded before anything is parsed, nothing is
executed, no file but these two is touched, and what does not fit exactly is refused.

Notation: T tasks, n rows of a task, c of its columns, N rows of all tasks.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from foretune.api.space import parse_space, render_space
from foretune.domain.history import SourceTask
from foretune.domain.job import Goal, Objective
from foretune.domain.space import Value, canonical
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError
from foretune.search.condense import spread
from foretune.search.registry import params_key

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from foretune.domain.space import Params

HEADER: Final = "prior.json"
TENSORS: Final = "prior.safetensors"

FORMAT: Final = 1
"""Version of the form; another one is refused."""

MAX_HEADER: Final = 4 * 2**20
"""Bytes of `prior.json` at most."""

MAX_TENSORS: Final = 64 * 2**20
"""Bytes of `prior.safetensors` at most."""

MAX_TASKS: Final = 1000
MAX_ROWS: Final = 64
"""Rows kept of a task: its ten best, and an even choice of the others by rank."""

BEST_ROWS: Final = 10
FAILED_ROWS: Final = 16
"""Failures kept of a task at most, besides."""

MAX_FAVOUR: Final = 1.5
"""Largest log odds for a prior before any value is seen."""

ENDS: Final = (
    (TrialState.COMPLETED, EndReason.DONE),
    (TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE),
    (TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY),
    (TrialState.INFEASIBLE, EndReason.DIVERGED),
    (TrialState.FAILED, EndReason.ERROR),
    (TrialState.TIMED_OUT, EndReason.TIMED_OUT),
)
"""How a kept trial ended: its place is the code in the tensor `ends`. Other ends teach nothing."""

VALUED: Final = 2
"""Codes below this have a value."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _printable(text: str) -> str:
    """Refuse control characters: names are shown in terminals."""
    if not text.isprintable():
        raise ValueError("has characters that can't be shown")
    return text


Shown = Annotated[str, AfterValidator(_printable)]
"""A text that a terminal shows as it is."""


class Column(_Strict):
    """One parameter of a task, and how its numbers are read."""

    name: str = Field(min_length=1, max_length=256)
    kind: Literal["float", "int", "option"]
    options: list[Value] = Field(default=[], max_length=1024)
    """Under `option` the values behind the codes 0, 1, ..."""


class Task(_Strict):
    """What is said of one task; its numbers are in the tensors."""

    name: Shown = Field(min_length=1, max_length=512)
    metric: Shown = Field(min_length=1, max_length=256)
    goal: Literal["minimize", "maximize"]
    context: dict[str, str] = Field(default={}, max_length=64)
    space: dict[str, Any] | None = None
    """As in a manifest."""
    columns: list[Column] = Field(min_length=1, max_length=256)
    rows: int = Field(ge=1, le=MAX_ROWS + FAILED_ROWS)
    trials: int = Field(ge=1)
    """How many ended trials the task had, of which the rows are a choice."""
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of all its ended trials, whatever their order."""
    licence: Shown = Field(default="", max_length=256)


class Header(_Strict):
    """All of `prior.json` but its own checksum."""

    format: int
    version: Shown = Field(max_length=64)
    """Version of Foretune that made it."""
    favour: float | None = Field(default=None, ge=0.0, le=MAX_FAVOUR)
    figures: dict[str, Any] = Field(default={}, max_length=64)
    tasks: list[Task] = Field(min_length=1, max_length=MAX_TASKS)
    tensors: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Prior:
    """What is learned ahead of any job: past tasks in brief, and how far they may be trusted."""

    id: str
    """First 12 hexadecimal digits of the SHA-256 of everything in it."""
    tasks: tuple[SourceTask, ...]
    digests: tuple[str, ...]
    """One a task."""
    counts: tuple[int, ...]
    """Ended trials that each task had."""
    licences: tuple[str, ...]
    favour: float | None
    """Log odds for past tasks before a job has values; None where none was held out to tell."""
    figures: Mapping[str, Any]
    """What held-out tasks said of it."""
    version: str


def digest(task: SourceTask) -> str:
    """Return the SHA-256 of a task's objective and trials, whatever their order."""
    rows = sorted(
        "|".join(
            [
                *(f"{name}={canonical(value)}" for name, value in sorted(trial.params.items())),
                repr(trial.value),
                trial.state,
            ]
        )
        for trial in task.trials
    )
    head = [task.name, task.objective.metric, task.objective.goal.value]
    return hashlib.sha256("\n".join([*head, *rows]).encode()).hexdigest()


def brief(task: SourceTask) -> SourceTask | None:
    """Return the task with the rows that are kept of it, in an order of their own; None if it has too few."""
    sign = -1.0 if task.objective.goal is Goal.MAXIMIZE else 1.0
    codes = {end: code for code, end in enumerate(ENDS)}
    valued: list[tuple[float, str, Trial]] = []
    failed: list[tuple[str, Trial]] = []
    for trial in task.trials:
        key = params_key(trial.params)
        ended = _code(trial, codes)
        if ended is None or not trial.params:
            continue
        if ended < VALUED and trial.value is not None and math.isfinite(trial.value):
            valued.append((sign * trial.value, key, trial))
        elif ended >= VALUED:
            failed.append((key, trial))
    if len(valued) < MIN_ROWS:
        return None
    valued.sort(key=lambda row: row[:2])
    failed.sort(key=lambda row: row[0])
    kept = [valued[i][2] for i in spread(len(valued), MAX_ROWS, best=BEST_ROWS)]
    kept += [trial for _, trial in failed[:FAILED_ROWS]]
    trials = tuple(
        Trial(
            job_uid="",
            index=index,
            params=trial.params,
            state=ENDS[code][0],
            reason=ENDS[code][1],
            config_hash="",
            value=trial.value if code < VALUED else None,
            value_sd=trial.value_sd,
            cost=trial.cost,
        )
        for index, trial in enumerate(kept)
        if (code := _code(trial, codes)) is not None
    )
    return SourceTask(task.name, task.objective, trials, task.space, dict(task.context))


MIN_ROWS: Final = 5
"""Values below which a task says too little to be kept."""


def _code(trial: Trial, codes: Mapping[tuple[TrialState, EndReason], int]) -> int | None:
    reason = trial.reason
    if trial.state is TrialState.COMPLETED:
        reason = EndReason.DONE
    elif trial.state is TrialState.EARLY_STOPPED:
        reason = EndReason.STOPPED_BY_RULE
    return None if reason is None or trial.nonfinite else codes.get((trial.state, reason))


def packed(
    tasks: Sequence[SourceTask],
    *,
    version: str,
    favour: float | None = None,
    figures: Mapping[str, Any] | None = None,
    licences: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """Return the bytes of the two files by name, for any order of `tasks` the same.

    Tasks with too few rows are left out; raises `InvalidInputError` when none is left. `licences` are by
    name of the task.
    """
    ordered = sorted(tasks, key=lambda task: (task.name, digest(task)))
    heads: list[Task] = []
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _KINDS}
    for task in ordered:
        short = brief(task)
        if short is None:
            continue
        columns = _columns(short)
        heads.append(
            Task(
                name=task.name,
                metric=task.objective.metric,
                goal=task.objective.goal.value,
                context=dict(sorted(task.context.items())),
                space=render_space(task.space) if task.space is not None else None,
                columns=columns,
                rows=len(short.trials),
                trials=len(task.trials),
                digest=digest(task),
                licence=(licences or {}).get(task.name, ""),
            )
        )
        for name, column in _arrays(short, columns).items():
            parts[name].append(column)
    if not heads:
        raise InvalidInputError(f"prior: no task has {MIN_ROWS} trials with a value")
    numbers = save({name: np.concatenate(arrays) for name, arrays in parts.items()})
    header = Header(
        format=FORMAT,
        version=version,
        favour=favour,
        figures=dict(figures or {}),
        tasks=heads,
        tensors=hashlib.sha256(numbers).hexdigest(),
    )
    content = header.model_dump(mode="json")
    text = json.dumps(content | {"sha256": _checksum(content)}, indent=1, allow_nan=False) + "\n"
    files = {HEADER: text.encode(), TENSORS: numbers}
    for name, limit in _LIMITS.items():
        if len(files[name]) > limit:
            raise InvalidInputError(f"prior: {name} would be larger than {limit} bytes")
    return files


_KINDS: Final = {
    "params": np.float64,
    "values": np.float64,
    "deviations": np.float64,
    "costs": np.float64,
    "ends": np.uint8,
}
"""The tensors: `params` is the tasks' `n x c` matrices, one after the other; the others have length `N`."""

_LIMITS: Final = {HEADER: MAX_HEADER, TENSORS: MAX_TENSORS}


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _columns(task: SourceTask) -> list[Column]:
    found: list[Column] = []
    for name in sorted({name for trial in task.trials for name in trial.params}):
        values = [trial.params[name] for trial in task.trials if name in trial.params]
        kinds = {type(value) for value in values}
        if kinds == {int}:
            found.append(Column(name=name, kind="int"))
        elif kinds <= {int, float}:
            found.append(Column(name=name, kind="float"))
        else:
            options = {canonical(value): value for value in values}
            found.append(
                Column(name=name, kind="option", options=[options[key] for key in sorted(options)])
            )
    return found


def _arrays(task: SourceTask, columns: Sequence[Column]) -> dict[str, npt.NDArray[Any]]:
    codes = {end: code for code, end in enumerate(ENDS)}
    rows = [[_number(column, trial.params) for column in columns] for trial in task.trials]
    nan = math.nan
    return {
        "params": np.array(rows, dtype=np.float64).reshape(-1),
        "values": np.array([nan if t.value is None else t.value for t in task.trials]),
        "deviations": np.array([t.value_sd for t in task.trials]),
        "costs": np.array([nan if t.cost is None else t.cost for t in task.trials]),
        "ends": np.array([_code(t, codes) for t in task.trials], dtype=np.uint8),
    }


def _number(column: Column, params: Params) -> float:
    if column.name not in params:
        return math.nan
    value = params[column.name]
    if column.kind != "option":
        return float(value)
    keys = [canonical(option) for option in column.options]
    return float(keys.index(canonical(value)))


def read(folder: Path) -> Prior:
    """Return the prior in a folder; raises `InvalidInputError`, one line, for anything that is not one."""
    return unpacked(read_files(folder), str(folder))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the two files, which must be plain files of a bounded size."""
    return {name: _bounded(folder / name, limit) for name, limit in _LIMITS.items()}


def _bounded(path: Path, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InvalidInputError(f"prior: there is no {path}") from None
    except OSError as error:
        raise InvalidInputError(f"prior: {path} can't be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise InvalidInputError(f"prior: {path} is not a plain file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidInputError(f"prior: {path} is larger than {limit} bytes")
    return content


def unpacked(files: Mapping[str, bytes], where: str) -> Prior:
    """Return the prior that the two files hold; `where` stands in errors."""
    header, checksum = _header(files[HEADER], where)
    numbers = files[TENSORS]
    if hashlib.sha256(numbers).hexdigest() != header.tensors:
        raise InvalidInputError(f"prior: {where}: {TENSORS} is not the file that {HEADER} tells of")
    arrays = _loaded(numbers, header, where)
    tasks: list[SourceTask] = []
    row = cell = 0
    for task in header.tasks:
        width = len(task.columns)
        part = slice(row, row + task.rows)
        matrix = arrays["params"][cell : cell + task.rows * width].reshape(task.rows, width)
        columns = {name: arrays[name][part].tolist() for name in _KINDS if name != "params"}
        tasks.append(_task(task, matrix.tolist(), columns, where))
        row, cell = row + task.rows, cell + task.rows * width
    return Prior(
        id=checksum[:12],
        tasks=tuple(tasks),
        digests=tuple(task.digest for task in header.tasks),
        counts=tuple(task.trials for task in header.tasks),
        licences=tuple(task.licence for task in header.tasks),
        favour=header.favour,
        figures=header.figures,
        version=header.version,
    )


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _header(text: bytes, where: str) -> tuple[Header, str]:
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        told = content.pop("sha256", None) if isinstance(content, dict) else None
        checksum = _checksum(content)  # raises for an infinite number, as 1e999
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"prior: {where}: {HEADER} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise InvalidInputError(
            f"prior: {where}: is of format {found!r:.20}; this version reads {FORMAT}"
        )
    if told != checksum:
        raise InvalidInputError(f"prior: {where}: {HEADER} was changed: its checksum is wrong")
    try:
        return Header.model_validate(content), checksum
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"prior: {where}: {HEADER}: {place}: {first['msg']}") from None


def _loaded(numbers: bytes, header: Header, where: str) -> dict[str, npt.NDArray[Any]]:
    total = sum(task.rows for task in header.tasks)
    cells = sum(task.rows * len(task.columns) for task in header.tasks)
    wanted = {name: (cells if name == "params" else total,) for name in _KINDS}
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(numbers)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"prior: {where}: {TENSORS}: {error}") from None
    if {name: array.shape for name, array in arrays.items()} != wanted or any(
        array.dtype != _KINDS[name] for name, array in arrays.items()
    ):
        raise InvalidInputError(f"prior: {where}: {TENSORS} has other shapes than {HEADER} tells")
    return arrays


def _task(
    head: Task,
    matrix: Sequence[Sequence[float]],
    columns: Mapping[str, Sequence[float]],
    where: str,
) -> SourceTask:
    try:
        trials = tuple(
            _trial(head.columns, cells, index, {name: columns[name][index] for name in columns})
            for index, cells in enumerate(matrix)
        )
        space = parse_space(head.space, "space") if head.space is not None else None
    except (ValueError, IndexError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise InvalidInputError(f"prior: {where}: task {head.name!r}: {text}") from None
    objective = Objective(metric=head.metric, goal=Goal(head.goal))
    return SourceTask(head.name, objective, trials, space, dict(head.context))


def _trial(
    columns: Sequence[Column], cells: Sequence[float], index: int, row: Mapping[str, float]
) -> Trial:
    params: Params = {}
    for column, cell in zip(columns, cells, strict=True):
        if math.isnan(cell):
            continue
        if not math.isfinite(cell):
            raise ValueError(f"{column.name}: {cell} is not finite")
        if column.kind == "float":
            params[column.name] = cell
        elif not cell.is_integer():
            raise ValueError(f"{column.name}: {cell:g} is not whole")
        elif column.kind == "int":
            params[column.name] = int(cell)
        elif cell < 0:
            raise ValueError(f"{column.name}: {cell:g} is no option")
        else:
            params[column.name] = column.options[int(cell)]
    code, deviation = int(row["ends"]), row["deviations"]
    state, reason = ENDS[code]
    told = code < VALUED
    if not params or math.isfinite(row["values"]) != told:
        raise ValueError(f"row {index}: its value does not fit how it ended")
    if not (math.isfinite(deviation) and deviation >= 0) or row["costs"] < 0:
        raise ValueError(f"row {index}: a deviation or cost is no number from 0 on")
    return Trial(
        job_uid="",
        index=index,
        params=params,
        state=state,
        reason=reason,
        config_hash="",
        value=row["values"] if told else None,
        value_sd=deviation,
        cost=None if math.isnan(row["costs"]) else row["costs"],
    )
