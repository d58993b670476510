"""What a hyperparameter is called elsewhere, and how its unit may differ. No torch, no numpy.

Two jobs that mean the same dimension rarely spell it alike. Names are compared without case,
punctuation and the usual prefixes, then through a table of synonyms; values through the few changes of
unit that are met in practice.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    "learningrate": ("lr", "eta", "initlr", "learningrateinit", "baselr", "stepsize", "initiallr"),
    "batchsize": ("bs", "perdevicetrainbatchsize", "trainbatchsize", "minibatchsize", "batch"),
    "dropout": ("dropoutrate", "pdrop", "dropoutp", "dropoutprob", "maxdropout"),
    "layers": ("numlayers", "nlayers", "depth", "layercount", "numhiddenlayers", "hiddenlayers"),
    "units": ("numunits", "nunits", "width", "hiddensize", "hiddenunits", "numcells", "maxunits"),
    "epochs": ("numtrainepochs", "numepochs", "nepochs", "maxepochs", "epoch"),
    "weightdecay": ("wd", "l2", "weightdecayrate", "l2reg", "l2penalty"),
    "optimizer": ("optim", "optimiser", "opt", "solver"),
    "momentum": ("mom", "beta1", "sgdmomentum"),
    "warmup": ("warmupsteps", "warmupratio", "warmupproportion"),
    "activation": ("activationfn", "act", "nonlinearity"),
    "schedule": ("lrschedule", "lrscheduler", "scheduler", "lrschedulertype"),
    "heads": ("numheads", "nheads", "numattentionheads", "attentionheads"),
    "trees": ("nestimators", "numtrees", "numboostround", "ntrees", "nrounds"),
    "maxdepth": ("treedepth",),
    "c": ("cost", "svmc"),
    "gamma": ("svmgamma",),
    "kernel": ("kerneltype",),
}
"""Canonical name to its synonyms, all as `plain_name` writes them."""

_CANONICAL: Final = {alias: name for name, aliases in SYNONYMS.items() for alias in aliases}
_PREFIX: Final = re.compile(
    r"^(hp|hparam|hparams|hyper|param|params|config|conf|cfg|args)[^a-z0-9]"
)

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

AT_HOME: Final = 0.5
"""Share of the values inside the parameter's bounds from which they are taken as they stand."""

CONVERTED: Final = 0.95
"""Share that must lie inside after a change of unit for it to be believed."""

COVERED: Final = 0.5
"""Part of the parameter's range that the converted values must span."""

ROUNDING: Final = 1e-6
"""How far outside the unit interval a value may lie by rounding."""


def plain_name(name: str) -> str:
    """Return a name in lower case, without prefix and punctuation."""
    return re.sub(r"[^a-z0-9]", "", _PREFIX.sub("", name.lower())) or name


def canonical_name(name: str) -> str:
    """Return the name under which synonyms meet."""
    plain = plain_name(name)
    if plain in _CANONICAL:
        return _CANONICAL[plain]
    for suffix in ("log10", "log2", "log", "norm", "scaled", "raw"):
        short = plain.removesuffix(suffix)
        if short and short != plain:
            return _CANONICAL.get(short, short)
    return plain


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


def conversion(values: Sequence[float], unit: Callable[[float], float]) -> str | None:
    """Return the change of unit under which `values` fit a parameter, or None to take them as they are.

    `unit` maps a value to the parameter's unit interval, and raises `ValueError` where it can't. A
    change is believed only when most values lie outside as they stand, nearly all inside afterwards,
    and then over a good part of the range.
    """

    def inside(convert: Callable[[float], float]) -> tuple[float, float]:
        places = []
        for value in values:
            try:
                places.append(unit(convert(value)))
            except (ValueError, OverflowError):
                continue
        within = [u for u in places if -ROUNDING <= u <= 1 + ROUNDING]
        return len(within) / len(values), (max(within) - min(within)) if within else 0.0

    if not values or inside(lambda v: v)[0] >= AT_HOME:
        return None
    best: tuple[float, str] | None = None
    for name, convert in CONVERSIONS.items():
        share, span = inside(convert)
        if share >= CONVERTED and span >= COVERED and (best is None or span > best[0] + 1e-9):
            best = (span, name)
    return best[1] if best is not None else None
