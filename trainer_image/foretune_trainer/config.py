"""What to train: `trial.json`, checked. Every value has a type, a range and a default here."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from foretune import contract
from foretune_trainer.errors import BadConfigError, BadExtraError, TrainerError

OPTIMIZERS: Final = ("adam", "sgd", "rmsprop")
"""Values of `optimizer`."""

SCHEDULES: Final = ("constant", "cosine")
"""Values of `schedule`."""

PRECISIONS: Final = ("auto", "fp32", "tf32", "bf16")
"""Values of `precision`."""

SWITCH: Final = ("auto", "on", "off")
"""Values of what the trainer may decide itself."""

MASKED: Final = ("lstm", "transformer", "bert")
"""Models to which the padding of a text makes no difference. The batch normalisation of the others sees it."""

CHECKPOINT_EVERY_S: Final = 60.0
"""Seconds between checkpoints unless `checkpoint.everySeconds` says otherwise."""


SYNTHETIC: Final = re.compile(r"synthetic:(image|text):([1-9]\d*):([1-9]\d*)")
"""Names of made data sets: kind, classes, size."""


KINDS: Final[Mapping[str, str]] = {
    "digits": "image",
    "mnist": "image",
    "cifar10": "image",
    "imdb": "text",
    "ag_news": "text",
    "sst2": "text",
}
"""What the examples of each data set are."""

NATURAL: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("cnn", "resnet"),
    "text": ("lstm", "transformer", "bert"),
}
"""Models that are made for images or texts; the others take them as well, with less success."""


def natural(model: str, kind: str) -> bool:
    """Whether a model is made for examples of this kind (`image`, `text`)."""
    return model in NATURAL[kind]


@dataclass(frozen=True)
class Real:
    """A number in a range; `open_low` leaves its lower end out."""

    default: float
    low: float
    high: float
    open_low: bool = False

    @property
    def range(self) -> str:
        """Say what is taken."""
        sign = ">" if self.open_low else ">="
        return f"a number {sign} {self.low:g} and <= {self.high:g}"

    def read(self, value: Any) -> float:
        """Return the value; raises `ValueError` saying what would be right."""
        right = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and not (self.open_low and value == self.low)
        )
        if not right:
            raise ValueError(f"must be {self.range}")
        return float(value)


@dataclass(frozen=True)
class Whole:
    """A whole number in a range; None as default lets the model or the data set choose."""

    default: int | None
    low: int
    high: int

    @property
    def range(self) -> str:
        """Say what is taken."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: Any) -> int:
        """Return the value; raises `ValueError` saying what would be right. 32.0 is 32."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # The range first: infinity has no floor.
        if not number or not self.low <= value <= self.high or value != math.floor(value):
            raise ValueError(f"must be {self.range}")
        return int(value)


@dataclass(frozen=True)
class Word:
    """One of some words."""

    default: str
    words: tuple[str, ...]

    @property
    def range(self) -> str:
        """Say what is taken."""
        return f"one of {', '.join(self.words)}"

    def read(self, value: Any) -> str:
        """Return the value; raises `ValueError` saying what would be right."""
        if value not in self.words:
            raise ValueError(f"must be {self.range}")
        return str(value)


@dataclass(frozen=True)
class Text:
    """Any text; None as default is none."""

    default: str | None

    @property
    def range(self) -> str:
        """Say what is taken."""
        return "a text"

    def read(self, value: Any) -> str:
        """Return the value; raises `ValueError` saying what would be right."""
        if not isinstance(value, str) or not value:
            raise ValueError(f"must be {self.range}")
        return value


Field = Real | Whole | Word | Text

HYPERPARAMETERS: Final[Mapping[str, Field]] = {
    "learning_rate": Real(1e-3, 0.0, 100.0, open_low=True),
    "batch_size": Whole(32, 1, 65536),
    "layers": Whole(2, 1, 48),
    "dropout": Real(0.1, 0.0, 0.95),
    "optimizer": Word("adam", OPTIMIZERS),
    "epochs": Whole(10, 1, 100_000),
}
"""The six of the contract."""

USUAL: Final[Mapping[str, str]] = {
    "learning_rate": "0.0001 to 0.1",
    "batch_size": "16 to 128",
    "layers": "2 to 5",
    "dropout": "0.1 to 0.4",
    "epochs": "10 to 40",
}
"""Where the good values of a hyperparameter mostly are: what a space should span."""

EXTRAS: Final[Mapping[str, Field]] = {
    "width": Whole(None, 8, 4096),
    "weight_decay": Real(0.0, 0.0, 1.0),
    "momentum": Real(0.9, 0.0, 0.999),
    "label_smoothing": Real(0.0, 0.0, 0.9),
    "gradient_clip": Real(0.0, 0.0, 1e6),
    "schedule": Word("constant", SCHEDULES),
    "precision": Word("auto", PRECISIONS),
    "max_length": Whole(64, 4, 4096),
    "vocabulary": Whole(8000, 16, 1_000_000),
    "max_samples": Whole(None, 10, 2**31 - 1),
    "valid_fraction": Real(0.1, 0.01, 0.5),
    "warmup": Real(0.0, 0.0, 0.9),
    "pretrained": Text(None),
    "frozen_layers": Whole(0, 0, 48),
    "length_groups": Word("off", SWITCH),
    "graph": Word("auto", SWITCH),
    "compile": Word("off", SWITCH),
}
"""What else may be set, in `builtin.extras` or as a parameter of the space."""

ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    "pretrained": ("bert",),
    "frozen_layers": ("bert",),
    "length_groups": MASKED,
}
"""Extras that not every model has, and the models that do."""

_ALIASES: Final = {
    alias: name for name, others in contract.BUILTIN_PARAMETERS.items() for alias in others
}

_MAX_EPOCHS: Final = Whole(None, 1, 100_000)
_EPOCHS: Final = frozenset({"epochs", *contract.BUILTIN_PARAMETERS["epochs"]})


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial, checked."""

    model: str
    dataset: str
    path: str | None = None
    seed: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters and extras, each there, by their first name."""
    max_epochs: int | None = None
    """Epochs of a whole training (`fidelity.max`); None means the trial's own `epochs`."""
    objective: str = "accuracy"
    job: str = "local"
    index: int = 0
    attempt: int = 0
    checkpoint_dir: Path | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S

    def __getitem__(self, name: str) -> Any:
        """Return a hyperparameter or an extra."""
        return self.values[name]

    @property
    def horizon(self) -> int:
        """Return the epochs that schedule, warm-up and progress span, however early the trial is cut off."""
        return int(self.values["epochs"]) if self.max_epochs is None else self.max_epochs

    @property
    def digest(self) -> str:
        """Return a hash of all that a checkpoint depends on, but for how long to train."""
        parts = {
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            "values": {n: value for n, value in sorted(self.values.items()) if n != "epochs"},
            # The number of epochs shapes the training only through a schedule.
            "horizon": self.horizon
            if self.values["schedule"] != "constant" or self.values["warmup"]
            else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load(path: Path, environ: Mapping[str, str] | None = None) -> TrialConfig:
    """Return the trial of a `trial.json`; raises `BadConfigError` or `BadExtraError`."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise BadConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadConfigError(f"{path}: must be JSON: {error}") from error
    return parse(raw, os.environ if environ is None else environ)


def parse(raw: Any, environ: Mapping[str, str]) -> TrialConfig:
    """Return the trial that the content of a `trial.json` describes."""
    if not isinstance(raw, Mapping):
        raise BadConfigError("trial.json: must be an object")
    version = raw.get("version")
    if version != contract.CONTRACT_VERSION:
        known = contract.CONTRACT_VERSION
        raise BadConfigError(f"version: this trainer speaks {known}, not {version!r}")
    workload, trial = _part(raw, "workload"), _part(raw, "trial")
    params, extras = _part(raw, "params"), _part(workload, "extras")
    checkpoint = _part(raw, "checkpoint")
    model = _known("workload.model", workload.get("model"), contract.BUILTIN_MODELS)
    dataset = _dataset(workload.get("dataset"))
    values = read_values(params, extras)
    _check_family(model, params, extras, values)
    most = _most_epochs(raw, values, given=not _EPOCHS.isdisjoint({*params, *extras}))
    folder = environ.get(contract.ENV_CHECKPOINT_DIR) or checkpoint.get("dir")
    if folder is not None:
        folder = _text("checkpoint.dir", folder)
    return TrialConfig(
        model=model,
        dataset=dataset,
        path=_text("workload.path", workload["path"]) if "path" in workload else None,
        seed=_integer("seed", raw.get("seed", 0)),
        values=values,
        max_epochs=most,
        objective=str(_part(raw, "objective").get("metric", "accuracy")),
        job=str(trial.get("job", "local")),
        index=_integer("trial.index", trial.get("index", 0)),
        attempt=_integer("trial.attempt", trial.get("attempt", 0)),
        checkpoint_dir=Path(folder) if folder else None,
        checkpoint_every_s=_seconds(
            "checkpoint.everySeconds", checkpoint.get("everySeconds", CHECKPOINT_EVERY_S)
        ),
    )


def read_values(params: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """Return every hyperparameter and extra; a parameter of the space goes before an extra."""
    values: dict[str, Any] = {
        name: kind.default for name, kind in (*HYPERPARAMETERS.items(), *EXTRAS.items())
    }
    given: dict[str, tuple[str, Any]] = {}
    for where, part in (("workload.extras", extras), ("params", params)):
        for spelt, value in part.items():
            name = _ALIASES.get(spelt, spelt)
            path = f"{where}.{spelt}"
            if name not in values:
                raise BadExtraError(f"{path}: is not known to this trainer; {_nearest(spelt)}")
            if name in given and given[name][0].startswith(f"{where}."):
                raise BadConfigError(f"{path}: is the same as {given[name][0]}: give one of them")
            given[name] = (path, value)
    for name, (path, value) in given.items():
        error: type[TrainerError] = BadConfigError if name in HYPERPARAMETERS else BadExtraError
        kind = HYPERPARAMETERS.get(name) or EXTRAS[name]
        try:
            values[name] = kind.read(value)
        except ValueError as wrong:
            raise error(f"{path}: {wrong}, not {value!r}") from None
    return values


def _most_epochs(raw: Mapping[str, Any], values: dict[str, Any], *, given: bool) -> int | None:
    """Return the epochs of a whole training as `fidelity` says, or None where there is none.

    A trial whose own `epochs` are not `given` is trained for as many: `values` gets them.
    """
    fidelity = _part(raw, "fidelity")
    if not fidelity:
        return None
    name = fidelity.get("name", "epochs")
    if name not in _EPOCHS:
        raise BadConfigError(f"fidelity.name: must be epochs, not {name!r}")
    try:
        most = _MAX_EPOCHS.read(fidelity.get("max"))
    except ValueError as wrong:
        raise BadConfigError(f"fidelity.max: {wrong}, not {fidelity.get('max')!r}") from None
    if not given:
        values["epochs"] = most
    if values["epochs"] > most:
        raise BadConfigError(
            f"params.epochs: must be at most fidelity.max, {most}, not {values['epochs']}"
        )
    return most


def _check_family(
    model: str, params: Mapping[str, Any], extras: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Raise `BadExtraError` for an extra that this model does not have, or that another one rules out."""
    for where, part in (("workload.extras", extras), ("params", params)):
        for name in part:
            models = ONLY.get(name, contract.BUILTIN_MODELS)
            if model not in models:
                raise BadExtraError(f"{where}.{name}: goes with {', '.join(models)}, not {model}")
            if name == "width" and values["pretrained"]:
                raise BadExtraError(f"{where}.{name}: comes with the pretrained model")
            if name == "frozen_layers" and not values["pretrained"]:
                raise BadExtraError(f"{where}.{name}: needs pretrained")


def _nearest(name: str) -> str:
    known = (*HYPERPARAMETERS, *_ALIASES, *EXTRAS)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join((*HYPERPARAMETERS, *EXTRAS))}"


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name, {})
    if not isinstance(value, Mapping):
        raise BadConfigError(f"{name}: must be an object, not {value!r}")
    return value


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadConfigError(f"{path}: must be a text, not {value!r}")
    return value


def _known(path: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadConfigError(f"{path}: must be one of {', '.join(known)}, not {value!r}{hint}")
    return str(value)


def _dataset(value: Any) -> str:
    if isinstance(value, str) and SYNTHETIC.fullmatch(value):
        return value
    known = (*contract.BUILTIN_DATASETS, "synthetic:<image|text>:<classes>:<size>")
    return _known("workload.dataset", value, known)


def _integer(path: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadConfigError(f"{path}: must be a whole number >= 0, not {value!r}")
    return value


def _seconds(path: str, value: Any) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not right or not math.isfinite(value):
        raise BadConfigError(f"{path}: must be a number >= 0, not {value!r}")
    return float(value)
