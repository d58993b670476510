"""What a hyperparameter is called elsewhere, and how its unit may differ. No torch, no numpy.

Two jobs that mean the same dimension rarely spell it alike. Names are compared without case,
punctuation and the usual prefixes, then through a table of synonyms; values through the few changes of
unit that are met in practice, and the range in which a well-known dimension can lie at all.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foretune.domain.space import Scale, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foretune.domain.space import Value


@dataclass(frozen=True)
class Dimension:
    """A well-known hyperparameter: other names, as `plain_name` writes them, and where its values lie."""

    aliases: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    scale: Scale = Scale.LINEAR
    """Whether what counts is the difference of two values or their ratio."""

    @property
    def bounded(self) -> bool:
        """Whether anything is known of where its values lie."""
        return self.high < math.inf


DIMENSIONS: Final[Mapping[str, Dimension]] = {
    "learningrate": Dimension(
        ("lr", "eta", "initlr", "learningrateinit", "baselr", "stepsize", "initiallr"),
        *(1e-9, 100.0, Scale.LOG),
    ),
    "batchsize": Dimension(
        ("bs", "perdevicetrainbatchsize", "trainbatchsize", "minibatchsize", "batch"),
        *(1, 1e6, Scale.LOG),
    ),
    "dropout": Dimension(("dropoutrate", "pdrop", "dropoutp", "dropoutprob", "maxdropout"), 0, 1),
    "layers": Dimension(
        ("numlayers", "nlayers", "depth", "layercount", "numhiddenlayers", "hiddenlayers"),
        *(0, 1000, Scale.LOG),
    ),
    "units": Dimension(
        ("numunits", "nunits", "width", "hiddensize", "hiddenunits", "numcells", "maxunits"),
        *(1, 1e6, Scale.LOG),
    ),
    "epochs": Dimension(
        ("numtrainepochs", "numepochs", "nepochs", "maxepochs", "epoch"), 0, 1e6, Scale.LOG
    ),
    "weightdecay": Dimension(
        ("wd", "l2", "weightdecayrate", "l2reg", "l2penalty"), 0, 1e3, Scale.LOG
    ),
    "optimizer": Dimension(("optim", "optimiser", "opt", "solver")),
    "momentum": Dimension(("mom", "beta1", "sgdmomentum"), 0, 1),
    "warmup": Dimension(("warmupsteps", "warmupratio", "warmupproportion")),
    "activation": Dimension(("activationfn", "act", "nonlinearity")),
    "schedule": Dimension(("lrschedule", "lrscheduler", "scheduler", "lrschedulertype")),
    "heads": Dimension(
        ("numheads", "nheads", "numattentionheads", "attentionheads"), 1, 1e3, Scale.LOG
    ),
    "trees": Dimension(
        ("nestimators", "numtrees", "numboostround", "ntrees", "nrounds"), 1, 1e6, Scale.LOG
    ),
    "maxdepth": Dimension(("treedepth",), 0, 1e3),
    "c": Dimension(("cost", "svmc"), 0, 1e9, Scale.LOG),
    "gamma": Dimension(("svmgamma",), 0, 1e9, Scale.LOG),
    "kernel": Dimension(("kerneltype",)),
}
"""Canonical name to what is known of it."""

LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "sgd": ("gradientdescent", "stochasticgradientdescent"),
    "adam": ("adamoptimizer",),
    "rmsprop": ("rmspropoptimizer",),
    "true": ("yes", "on", "enabled"),
    "false": ("no", "off", "disabled"),
    "none": ("null", "nil", "constant", "const"),
    "tanh": ("hyperbolictangent",),
    "sigmoid": ("logistic",),
    "linear": ("identity",),
    "cosine": ("cosineannealing", "cosinedecay"),
}
"""Label of an option to its other spellings."""

_CANONICAL: Final = {a: name for name, known in DIMENSIONS.items() for a in known.aliases}
_LABEL: Final = {alias: name for name, aliases in LABELS.items() for alias in aliases}
_PREFIX: Final = re.compile(
    r"^(hp|hparam|hparams|hyper|param|params|config|conf|cfg|args)[^a-z0-9]"
)
_MODULE: Final = re.compile(r"^(?:[a-z_]\w*\.)+(?=[a-z_])")
_LOGARITHM: Final = re.compile(r"(^|[^a-z])(log|log2|log10|ln|log_e)([^a-z]|$)|(log|log2|log10)$")

CONVERSIONS: Final[Mapping[str, Callable[[float], float]]] = {
    "x0.01": lambda v: v / 100,
    "x100": lambda v: v * 100,
    "x0.001": lambda v: v / 1000,
    "x1000": lambda v: v * 1000,
    "exp": math.exp,
    "10^": lambda v: 10.0**v,
    "2^": lambda v: 2.0**v,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "1-": lambda v: 1 - v,
}
"""Changes of unit: per cent and fraction, thousands, logarithms, keep and drop probabilities."""

POWERS: Final = frozenset({"exp", "10^", "2^"})
"""Those that undo a logarithm."""

FACTORS: Final = frozenset({"x0.01", "x100", "x0.001", "x1000"})

AT_HOME: Final = 0.9
"""Share of the values inside the parameter's bounds from which they are taken as they stand."""

STRANGE: Final = 0.5
"""Share below which a change of unit need not fill the range."""

CONVERTED: Final = 0.95
"""Share that must lie inside after a change of unit for it to be believed."""

COVERED: Final = 0.5
"""Part of the parameter's range that the converted values must span."""

SHORT: Final = 6.0
"""How many mean gaps between neighbours values drawn over a whole range fall short of it, at most."""

ROUNDING: Final = 1e-6
"""How far outside the unit interval a value may lie by rounding."""

WHOLE: Final = 0.02
"""Difference up to which a number counts as whole."""

EXACT: Final = 1e-3
"""Relative difference up to which a number is one of an ordinal's options: values are often rounded."""


def plain_name(name: str) -> str:
    """Return a name in lower case, without prefix and punctuation."""
    return re.sub(r"[^a-z0-9]", "", _PREFIX.sub("", name.lower())) or name


def canonical_name(name: str) -> str:
    """Return the name under which synonyms meet."""
    plain = plain_name(name)
    if plain in _CANONICAL:
        return _CANONICAL[plain]
    for suffix in ("log10", "log2", "log", "norm", "scaled", "raw", "percent", "pct"):
        short = plain.removesuffix(suffix)
        if short and short != plain:
            return _CANONICAL.get(short, short)
    for prefix in ("log10", "log2", "log", "ln"):
        short = plain.removeprefix(prefix)
        if short != plain and (short in _CANONICAL or short in DIMENSIONS):
            return _CANONICAL.get(short, short)
    return plain


def dimension(name: str) -> Dimension:
    """Return what is known of a hyperparameter by its name; of others, that they may be anything."""
    return DIMENSIONS.get(canonical_name(name), Dimension())


def text(value: object) -> str:
    """Return a text that is equal for equal values, also for what is no legal value of a space."""
    try:
        return canonical(value)
    except (OverflowError, TypeError, ValueError):
        return repr(value)


def params_key(params: Mapping[str, Value]) -> str:
    """Return a text that is equal for equal configurations, whatever the order of their names."""
    return "|".join(f"{name}={text(value)}" for name, value in sorted(params.items()))


def label(value: Value) -> str:
    """Return the text under which spellings of one option meet: `torch.optim.Adam`, `ADAM`, `adam`."""
    if not isinstance(value, str):
        return text(value)
    word = value.strip().lower()
    try:
        return canonical(float(word))
    except ValueError:
        short = "".join(ch for ch in _MODULE.sub("", word) if ch.isalnum())
        return _LABEL.get(short, short)


def matched(wanted: Sequence[str], offered: Iterable[str]) -> dict[str, str]:
    """Return which of the `offered` names stands for each of the `wanted`, each used once.

    Equal names first, then equal but for case, punctuation and prefix, then synonyms; a synonym that
    two names answer to is left out, since nothing says which of them is meant.
    """
    free = sorted(set(offered))
    found: dict[str, str] = {}
    for form in (str, plain_name, canonical_name):
        for name in wanted:
            if name in found:
                continue
            rivals = [w for w in wanted if w not in found and form(w) == form(name)]
            answers = [o for o in free if form(o) == form(name)]
            if len(answers) == 1 and len(rivals) == 1:
                found[name] = answers[0]
        free = [o for o in free if o not in found.values()]
    return found


def conversion(
    values: Sequence[float],
    unit: Callable[[float], float],
    *,
    wanted: str = "",
    offered: str = "",
    options: Sequence[float] = (),
    whole: bool = False,
) -> str | None:
    """Return the change of unit under which `values` fit a parameter, or None to take them as they are.

    `unit` maps a value to the parameter's unit interval, and raises `ValueError` where it can't;
    `wanted` and `offered` are the names here and there; `options` are those of an ordinal; `whole` says that
    the parameter takes whole numbers only.

    A change is believed only when the values fit badly as they stand, nearly all fit afterwards, and over
    a good part of the range. Nearly the whole range must be met where the values are plausible as they
    stand: another job's other bounds are no other unit, yet hardly ever this job's bounds times a hundred.
    """
    counted = Counter(values)
    if not counted:
        return None
    if options:
        return _to_options(counted, options)
    if whole:
        unit = _whole(unit)
    home, _ = _inside(counted, unit, lambda v: v)
    named = _is_logarithm(offered) and not _is_logarithm(wanted)
    if home >= AT_HOME and not named:
        return None
    known = dimension(wanted)
    possible = sum(n for v, n in counted.items() if known.low <= v <= known.high) / len(values)
    likely = home >= STRANGE or (known.bounded and possible >= CONVERTED)
    full = max(COVERED, 1 - SHORT / len(counted))
    best: tuple[float, str] | None = None
    for name, convert in CONVERSIONS.items():
        sure = named and name in POWERS
        if home >= STRANGE and not sure and name not in FACTORS:
            continue
        share, span = _inside(counted, unit, convert)
        least = full if likely and not sure else COVERED
        if share >= CONVERTED and span >= least and (best is None or span > best[0] + 1e-9):
            best = (span, name)
    return best[1] if best is not None else None


def _whole(unit: Callable[[float], float]) -> Callable[[float], float]:
    """Return `unit` for whole numbers only."""

    def of_whole(number: float) -> float:
        if abs(number - round(number)) > max(WHOLE, EXACT * abs(number)):
            raise ValueError(f"{number} is not whole")
        return unit(round(number))

    return of_whole


def _inside(
    counted: Mapping[float, int],
    unit: Callable[[float], float],
    convert: Callable[[float], float],
) -> tuple[float, float]:
    """Return the share of the values that lie inside, and the part of the range that these span."""
    low, high, within = math.inf, -math.inf, 0
    for value, count in counted.items():
        try:
            u = unit(convert(value))
        except (ValueError, OverflowError):
            continue
        if -ROUNDING <= u <= 1 + ROUNDING:
            within += count
            low, high = min(low, u), max(high, u)
    return within / sum(counted.values()), max(0.0, high - low)


def _to_options(counted: Mapping[float, int], options: Sequence[float]) -> str | None:
    """Return the change of unit under which values are an ordinal's options, unless they are already."""
    total = sum(counted.values())

    def hits(convert: Callable[[float], float]) -> tuple[float, int]:
        met, count = set[float](), 0
        for value, n in counted.items():
            try:
                number = convert(value)
            except (ValueError, OverflowError):
                continue
            near = nearest(options, number)
            if abs(near - number) <= EXACT * max(abs(near), abs(number)):
                met.add(near)
                count += n
        return count / total, len(met)

    home, _ = hits(lambda v: v)
    if home >= CONVERTED:
        return None
    best: tuple[float, str] | None = None
    for name, convert in CONVERSIONS.items():
        share, met = hits(convert)
        # One or two options may be met by accident, where there are more.
        enough = met >= min(3, len(options)) and 2 * met >= min(len(counted), len(options))
        if share >= CONVERTED and enough and (best is None or share > best[0]):
            best = (share, name)
    return best[1] if best is not None else None


def nearest(options: Sequence[float], number: float) -> float:
    """Return the option nearest to a number; options rise."""
    k = bisect_left(options, number)
    around = options[max(0, k - 1) : k + 1]
    return min(around, key=lambda option: abs(option - number))


def _is_logarithm(name: str) -> bool:
    return _LOGARITHM.search(name.lower()) is not None
