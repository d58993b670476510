"""The search space: parameters, their values, and what counts as the same configuration."""

from __future__ import annotations

import enum
import itertools
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from foretune.errors import InvalidSpaceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Value = str | int | float | bool
"""A parameter's value, as it stands in YAML, JSON and the trial's process."""

Params = dict[str, Value]
"""One configuration: a value for every parameter of the space."""

WHOLE_STEPS_TOLERANCE: Final = 1e-9
"""Relative: (high - low) / step must be whole within this."""

SIGNIFICANT_DIGITS: Final = 12
"""Digits kept of a proposed float, so that text, JSON and database hold the same value."""


class Scale(enum.StrEnum):
    """How a numeric parameter is spread over its range."""

    LINEAR = "linear"
    LOG = "log"


class Parameter(Protocol):
    """One dimension of the space."""

    @property
    def name(self) -> str:
        """Name, unique in its space."""

    @property
    def default(self) -> Value | None:
        """Value of the job's first trial, when every parameter has one."""

    @property
    def cardinality(self) -> int | None:
        """Number of different values; None when there are infinitely many."""

    def values(self) -> Iterator[Value]:
        """Yield every value in order; raises `InvalidSpaceError` when there are infinitely many."""

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or return None."""

    def from_unit(self, u: float) -> Value:
        """Map `u` in [0, 1] to a legal value (steps and whole numbers respected)."""

    def to_unit(self, value: Value) -> float:
        """Map a legal value to [0, 1]; `from_unit(to_unit(v)) == v`."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvalidSpaceError(message)


@dataclass(frozen=True, kw_only=True)
class _Numeric:
    name: str
    low: float
    high: float
    scale: Scale = Scale.LINEAR
    step: float | None = None
    default: float | None = None

    def __post_init__(self) -> None:
        for bound in (self.low, self.high):
            _require(
                _is_number(bound) and math.isfinite(bound),
                f"{self.name}: min and max must be finite numbers",
            )
        _require(
            self.low < self.high,
            f"{self.name}: min ({self.low:g}) must be less than max ({self.high:g})",
        )
        if self.scale is Scale.LOG:
            _require(self.low > 0, f"{self.name}: scale log needs min > 0, not {self.low:g}")
        if self.step is not None:
            _require(self.step > 0, f"{self.name}: step must be greater than 0, not {self.step:g}")
            steps = (self.high - self.low) / self.step
            whole = abs(steps - round(steps)) <= WHOLE_STEPS_TOLERANCE * max(1.0, steps)
            _require(
                whole,
                f"{self.name}: max - min ({self.high - self.low:g}) must be a whole number of steps of {self.step:g}",
            )
        if self.default is not None:
            problem = self.problem(self.default)
            _require(problem is None, f"{self.name}: default {problem}")

    @property
    def cardinality(self) -> int | None:
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def _at(self, index: int) -> float:
        raise NotImplementedError

    def values(self) -> Iterator[Value]:
        count = self.cardinality
        if count is None:
            raise InvalidSpaceError(
                f"{self.name}: has infinitely many values; give it a step or values"
            )
        return (self._at(index) for index in range(count))

    def problem(self, value: object) -> str | None:
        if not _is_number(value):
            return f"must be a number between {self.low:g} and {self.high:g}, not {value!r}"
        assert isinstance(value, int | float)
        if not self.low <= value <= self.high:
            return f"must be between {self.low:g} and {self.high:g}, not {value:g}"
        if self.step is not None:
            steps = (value - self.low) / self.step
            if abs(steps - round(steps)) > 1e-6:  # noqa: PLR2004
                return f"must be {self.low:g} plus a whole number of steps of {self.step:g}, not {value:g}"
        return None

    def to_unit(self, value: Value) -> float:
        number = float(value)
        if self.scale is Scale.LOG:
            return (math.log(number) - math.log(self.low)) / (
                math.log(self.high) - math.log(self.low)
            )
        return (number - self.low) / (self.high - self.low)

    def _continuous(self, u: float) -> float:
        u = min(1.0, max(0.0, u))
        if self.scale is Scale.LOG:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return min(self.high, max(self.low, value))

    def _nearest_index(self, value: float) -> int:
        assert self.step is not None
        last = round((self.high - self.low) / self.step)
        return min(last, max(0, round((value - self.low) / self.step)))


@dataclass(frozen=True, kw_only=True)
class Float(_Numeric):
    """A real number in [low, high]; with a step, one of low, low + step, ..."""

    def _at(self, index: int) -> float:
        assert self.step is not None
        return min(self.high, max(self.low, _rounded(self.low + index * self.step)))

    def from_unit(self, u: float) -> Value:
        """Map `u` in [0, 1] to a value of 12 significant digits."""
        value = self._continuous(u)
        if self.step is not None:
            return self._at(self._nearest_index(value))
        return min(self.high, max(self.low, _rounded(value)))


@dataclass(frozen=True, kw_only=True)
class Int(_Numeric):
    """A whole number in [low, high], by default in steps of 1."""

    step: float | None = 1

    def __post_init__(self) -> None:
        for bound in (self.low, self.high, self.step):
            whole = bound is not None and float(bound).is_integer()
            _require(
                whole, f"{self.name}: an int parameter needs whole min, max and step, not {bound}"
            )
        super().__post_init__()

    def _at(self, index: int) -> int:
        assert self.step is not None
        return int(self.low) + index * int(self.step)

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or return None."""
        if _is_number(value) and not float(value).is_integer():  # type: ignore[arg-type]
            return f"must be a whole number, not {value!r}"
        return super().problem(value)

    def from_unit(self, u: float) -> Value:
        """Map `u` in [0, 1] to the nearest legal whole number."""
        return self._at(self._nearest_index(self._continuous(u)))


@dataclass(frozen=True, kw_only=True)
class _Listed:
    name: str
    options: tuple[Value, ...]
    default: Value | None = None

    def __post_init__(self) -> None:
        _require(bool(self.options), f"{self.name}: values must not be empty")
        keys = [canonical(option) for option in self.options]
        twice = [o for o, key in zip(self.options, keys, strict=True) if keys.count(key) > 1]
        _require(not twice, f"{self.name}: values must be unique; {twice[:1]} stands there twice")
        if self.default is not None:
            problem = self.problem(self.default)
            _require(problem is None, f"{self.name}: default {problem}")

    @property
    def cardinality(self) -> int | None:
        return len(self.options)

    def values(self) -> Iterator[Value]:
        return iter(self.options)

    def problem(self, value: object) -> str | None:
        if any(canonical(value) == canonical(option) for option in self.options):
            return None
        return f"must be one of {list(self.options)}, not {value!r}"

    def from_unit(self, u: float) -> Value:
        """Map `u` in [0, 1] to the option whose equal share of [0, 1] holds it."""
        return self.options[
            min(len(self.options) - 1, int(min(1.0, max(0.0, u)) * len(self.options)))
        ]

    def to_unit(self, value: Value) -> float:
        """Map an option to the middle of its share of [0, 1]."""
        keys = [canonical(option) for option in self.options]
        return (keys.index(canonical(value)) + 0.5) / len(keys)


@dataclass(frozen=True, kw_only=True)
class Choice(_Listed):
    """One of several values without an order."""


@dataclass(frozen=True, kw_only=True)
class Ordinal(_Listed):
    """One of several numbers, whose order means something; kept in the given order, which must rise."""

    def __post_init__(self) -> None:
        numbers = [o for o in self.options if _is_number(o)]
        _require(
            len(numbers) == len(self.options), f"{self.name}: values of an ordinal must be numbers"
        )
        super().__post_init__()
        _require(
            list(self.options) == sorted(self.options),
            f"{self.name}: values of an ordinal must rise",
        )


@dataclass(frozen=True, kw_only=True)
class Const:
    """A value that every trial gets; it is recorded, so that other jobs can learn from it."""

    name: str
    value: Value

    @property
    def default(self) -> Value:
        """Return the value itself."""
        return self.value

    @property
    def cardinality(self) -> int | None:
        """Return 1."""
        return 1

    def values(self) -> Iterator[Value]:
        """Yield the value."""
        return iter((self.value,))

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or return None."""
        same = canonical(value) == canonical(self.value)
        return None if same else f"must be {self.value!r}, not {value!r}"

    def from_unit(self, u: float) -> Value:  # noqa: ARG002
        """Return the value, whatever `u`."""
        return self.value

    def to_unit(self, value: Value) -> float:  # noqa: ARG002
        """Return the middle."""
        return 0.5


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def canonical(value: object) -> str:
    """Return a text that is equal for equal values: 1, 1.0 alike, True and 1 apart."""
    if _is_number(value):
        return f"{float(value):.{SIGNIFICANT_DIGITS}g}"  # type: ignore[arg-type]
    if isinstance(value, str):
        return json.dumps(value)  # the same text, four times as fast
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Space:
    """The parameters of a job, in the order of the manifest.

    Raises `InvalidSpaceError` when it is empty or a name stands there twice.
    """

    parameters: tuple[Parameter, ...]
    _by_name: dict[str, Parameter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the parameters by name."""
        _require(bool(self.parameters), "a space needs at least one parameter")
        by_name = {parameter.name: parameter for parameter in self.parameters}
        _require(len(by_name) == len(self.parameters), "parameter names must be unique")
        object.__setattr__(self, "_by_name", by_name)

    def __getitem__(self, name: str) -> Parameter:
        """Return the parameter called `name`; raises `KeyError`."""
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in order."""
        return tuple(self._by_name)

    @property
    def cardinality(self) -> int | None:
        """Number of different configurations; None when infinite."""
        total = 1
        for parameter in self.parameters:
            if parameter.cardinality is None:
                return None
            total *= parameter.cardinality
        return total

    def grid(self) -> Iterator[Params]:
        """Yield every configuration; the last parameter varies fastest. Infinite spaces raise."""
        columns: Sequence[list[Value]] = [list(parameter.values()) for parameter in self.parameters]
        for row in itertools.product(*columns):
            yield dict(zip(self.names, row, strict=True))

    def problems(self, params: Mapping[str, object]) -> list[str]:
        """Say everything that is wrong with a configuration; empty when it is legal."""
        found = [f"{name}: unknown parameter" for name in params if name not in self._by_name]
        for parameter in self.parameters:
            if parameter.name not in params:
                found.append(f"{parameter.name}: is missing")
            elif (problem := parameter.problem(params[parameter.name])) is not None:
                found.append(f"{parameter.name}: {problem}")
        return found

    def from_unit(self, point: Sequence[float]) -> Params:
        """Map a point of the unit cube (one coordinate a parameter) to a configuration."""
        pairs = zip(self.parameters, point, strict=True)
        return {parameter.name: parameter.from_unit(u) for parameter, u in pairs}

    def to_unit(self, params: Mapping[str, Value]) -> list[float]:
        """Map a legal configuration to the unit cube."""
        return [parameter.to_unit(params[parameter.name]) for parameter in self.parameters]

    def key(self, params: Mapping[str, Value]) -> str:
        """Return a text equal for equal configurations; two trials of one key are duplicates."""
        return "|".join(f"{name}={canonical(params[name])}" for name in self.names)

    def default(self) -> Params | None:
        """Return the configuration of defaults, or None when some parameter has none."""
        if any(parameter.default is None for parameter in self.parameters):
            return None
        return {p.name: p.default for p in self.parameters if p.default is not None}
