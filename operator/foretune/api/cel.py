"""The rules of `foretune.api.rules` and `foretune.api.space` for an API server, in CEL.

Each stands at a path of the schema (`*` is the value of a map, `[]` an entry of a list) and says in the same
words what is wrong. `values`, `value` and `default` of a parameter may be of any type, so CEL can't see them:
what depends on them the operator finds, and says in the status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from foretune import constants, contract
from foretune.api.problems import listed
from foretune.api.rules import (
    HAS_SDK,
    IMAGE_ONLY,
    MIN_BELOW_MAX,
    NAMED_ONLY,
    NEEDS_AUTO,
    NEEDS_NAMES,
    NOT_WITH_TEMPLATE,
    RESERVED,
    SYNTHETIC,
    WORKLOADS,
)
from foretune.api.space import AMBIGUOUS, NAME


@dataclass(frozen=True)
class Rule:
    """One entry of `x-kubernetes-validations`; exactly one of `message` and `expression` is given."""

    rule: str
    message: str = ""
    expression: str = ""
    """CEL that gives the message, where it names a text. Numbers it can't name: what `string()` of one costs
    is without limit for the server's estimate."""
    field: str = ""
    """`fieldPath`, relative to where the rule stands."""

    def render(self) -> dict[str, Any]:
        """Return it as it stands in a CRD."""
        found = {"rule": self.rule}
        # With an expression the message is what a server says that can't evaluate it.
        found |= {"messageExpression": self.expression} if self.expression else {}
        found |= {"message": self.message} if self.message else {}
        return found | ({"fieldPath": self.field} if self.field else {})


def _quoted(words: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{word}'" for word in words) + "]"


def _immutable(field: str) -> Rule:
    message = "is immutable: make another TuningJob"
    return Rule(f"self.{field} == oldSelf.{field}", message, field=f".{field}")


_NUMERIC: Final = "has(self.min) && has(self.max)"
_BIG: Final = 9.0e15
"""Above this no double has digits behind the point, and `int()` of one may not be possible."""


def _whole(text: str) -> str:
    return f"({text} > -{_BIG!r} && {text} < {_BIG!r} && double(int({text})) == {text})"


_UPPER: Final = "{0}.upperAscii().replace('.', '_').replace('-', '_')"
_SEEN_AS_INT: Final = f"(has(self[n].type) ? self[n].type == 'int' : {_whole('self[n].min')} && {_whole('self[n].max')})"

_PARAMETER: Final = (
    Rule(
        f"!({_NUMERIC}) || self.min < self.max",
        "min must be less than max",
        field=".min",
    ),
    Rule(
        "!has(self.scale) || self.scale != 'log' || !has(self.min) || self.min > 0.0",
        "scale log needs min > 0",
        field=".min",
    ),
    Rule(
        "!has(self.step) || self.step > 0.0",
        "step must be greater than 0",
        field=".step",
    ),
    Rule(
        f"!({_NUMERIC} && has(self.step) && self.step > 0.0)"
        " || [(self.max - self.min) / self.step].all(n, n > 9.0e15"
        " || [n - double(int(n + 0.5))].all(d, d * d <= 1.0e-18 * (n > 1.0 ? n * n : 1.0)))",
        "max - min must be a whole number of steps",
        field=".step",
    ),
    Rule(
        "!has(self.type) || self.type != 'int' || ["
        "has(self.min) ? self.min : 0.0, has(self.max) ? self.max : 0.0, has(self.step) ? self.step : 1.0"
        f"].all(n, {_whole('n')})",
        "an int parameter needs whole min, max and step",
    ),
    Rule(
        "!has(self.type) || !(self.type in ['choice', 'ordinal', 'const']) || !has(self.min)",
        expression="'does not go with type ' + self.type",
        field=".min",
    ),
    *(
        Rule(f"!has(self.{name}) || has(self.min)", "goes with min and max only", field=f".{name}")
        for name in ("step", "scale")
    ),
    Rule(
        f"!({_NUMERIC}) || has(self.type) || has(self.step) || !(self.min == 0.0 && self.max == 1.0)",
        AMBIGUOUS,
    ),
)

_TRIAL: Final = (
    Rule(
        f"[{', '.join(f'has(self.{name})' for name in WORKLOADS)}].filter(given, given).size() == 1",
        f"exactly one of {listed(WORKLOADS)} must be given",
    ),
    *(
        Rule(f"!has(self.{name}) || has(self.image)", "goes with image only", field=f".{name}")
        for name in IMAGE_ONLY
    ),
    *(
        Rule(
            f"!has(self.{name}) || !has(self.template)",
            f"does not go with template: set {instead}",
            field=f".{name}",
        )
        for name, instead in NOT_WITH_TEMPLATE.items()
    ),
    Rule(
        "!has(self.inject) || self.inject.size() == 0 || !has(self.builtin)",
        HAS_SDK,
        field=".inject",
    ),
    Rule(
        "!has(self.gpu) || !has(self.resources) || !has(self.resources.limits)"
        f" || !('{constants.GPU_RESOURCE}' in self.resources.limits)",
        f"stands in resources.limits as {constants.GPU_RESOURCE} too: give one of them",
        field=".gpu",
    ),
)

_DATASETS: Final = (*contract.BUILTIN_DATASETS, "synthetic:<image|text>:<classes>:<size>")

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "": (
        Rule(
            "self.metadata.name.size() <= 63",
            "metadata.name: must be at most 63 characters long",
        ),
    ),
    "spec": (
        Rule(
            "self.parallelism <= self.budget.trials",
            "must be at most budget.trials",
            field=".parallelism",
        ),
        Rule(
            "self.search.algorithm != 'grid' || self.space.all(n, !has(self.space[n].min)"
            " || !has(self.space[n].max) || has(self.space[n].step) || "
            + _SEEN_AS_INT.replace("self[n]", "self.space[n]")
            + ")",
            "grid needs a finite space: give each float a step or values",
            field=".search.algorithm",
        ),
        Rule(
            f"!has(self.trial.builtin) || self.objective.metric in {_quoted(contract.BUILTIN_METRICS)}",
            expression=f"'must be one of {listed(contract.BUILTIN_METRICS)}, not ' + self.objective.metric",
            field=".objective.metric",
        ),
        Rule(
            "self.prior.mode != 'named' || self.search.algorithm == 'auto'",
            NEEDS_AUTO,
            field=".prior.mode",
        ),
        *(_immutable(field) for field in ("objective", "space", "trial", "task")),
    ),
    "spec.earlyStopping": (
        Rule(
            "!has(self.min) || !has(self.max) || self.min < self.max", MIN_BELOW_MAX, field=".min"
        ),
    ),
    "spec.prior": (
        # Its default is an empty object, which must pass before it is filled in.
        Rule("!has(self.mode) || self.mode != 'named' || has(self.from)", NEEDS_NAMES),
        Rule(
            "!has(self.from) || (has(self.mode) && self.mode == 'named')",
            NAMED_ONLY,
            field=".from",
        ),
    ),
    "spec.space": (
        Rule(
            f"self.all(name, name.matches('^{NAME.pattern}$'))",
            "a name starts with a letter or _, then letters, digits, _ . -, at most 63",
        ),
        Rule(
            f"self.all(a, self.all(b, a == b || {_UPPER.format('a')} != {_UPPER.format('b')}))",
            "two names are the same environment variable: rename one of them",
        ),
    ),
    "spec.space.*": _PARAMETER,
    "spec.trial": _TRIAL,
    "spec.trial.builtin": (
        Rule(
            f"self.dataset in {_quoted(contract.BUILTIN_DATASETS)}"
            f" || self.dataset.matches('^{SYNTHETIC.pattern.replace(chr(92) + 'd', '[0-9]')}$')",
            expression=f"'must be one of {listed(_DATASETS)}, not ' + self.dataset",
            field=".dataset",
        ),
    ),
    "spec.trial.env[]": (
        Rule(
            f"!self.name.startsWith('{RESERVED}')",
            f"names that start with {RESERVED} are Foretune's own",
            field=".name",
        ),
    ),
    "spec.trial.template": (
        Rule(
            "self.job.spec.template.spec.containers.exists(c, c.name == self.primaryContainer)",
            expression="'must be one of the containers of the job, not ' + self.primaryContainer",
            field=".primaryContainer",
        ),
    ),
}
"""Rules by path."""
