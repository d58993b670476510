"""The contract between Foretune and a trial's process, version 1.

Standard library only: the trainer, the reporting SDK, the tracker and the operator all import
this module, so that a name or a number of the contract is written down once. With the SDK it goes into
images of other people: it runs with Python 3.8.

What goes in: a read-only file `trial.json` (`ENV_CONFIG` names it) and environment variables.
What comes out: reports, carried three ways (HTTP, a marked line on stdout, the termination
message), and an exit code.
"""

from __future__ import annotations

import enum
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

CONTRACT_VERSION: Final = 1
"""Version of `trial.json` and of a report; a tracker refuses others with 409."""

CONFIG_DIR: Final = "/foretune/config"
"""Where a pod finds `trial.json` and `token`; read-only."""

WORK_DIR: Final = "/foretune/work"
"""Where a pod writes checkpoints and its report spool."""

CACHE_DIR: Final = "/foretune/cache"
"""Where a pod finds hub blobs; may be read-only."""

SDK_DIR: Final = "/foretune/sdk"
"""Where a pod finds the reporting SDK that `trial.inject` puts there; read-only."""

ENV_CONFIG: Final = "FORETUNE_CONFIG"
"""Path of `trial.json`."""

ENV_PARAMS: Final = "FORETUNE_PARAMS"
"""The trial's parameters as one JSON object."""

ENV_PARAM_PREFIX: Final = "FORETUNE_PARAM_"
"""Prefix of one variable a parameter; see `parameter_variable`."""

ENV_TRIAL: Final = "FORETUNE_TRIAL"
"""`<job uid>/<index>`: the trial uid under which reports are booked; unset outside a trial."""

ENV_ATTEMPT: Final = "FORETUNE_ATTEMPT"
"""Number of the attempt, from 0."""

ENV_POD_UID: Final = "FORETUNE_POD_UID"
"""Uid of the pod (in local mode: of the process); part of a report's identity."""

ENV_REPORT_URL: Final = "FORETUNE_REPORT_URL"
"""Base URL of the tracker; reports go to `<url>` + `REPORTS_PATH`."""

ENV_TOKEN_FILE: Final = "FORETUNE_TOKEN_FILE"
"""File that holds the bearer token; read anew for each request, since kubelets rotate it."""

ENV_CA_FILE: Final = "FORETUNE_CA_FILE"
"""CA bundle for an https tracker; optional."""

ENV_KUBEFLOW_URL: Final = "KUBEFLOW_TRAINER_SERVER_URL"
"""Where programs that know Kubeflow Trainer post their status: `<url of the tracker>` + `KUBEFLOW_PATH`
+ `/<trial uid>`. The Trainer of `transformers` does so by itself when it is set."""

ENV_KUBEFLOW_TOKEN: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""File with the token for it: the same as `ENV_TOKEN_FILE`."""

ENV_KUBEFLOW_CA: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
"""CA bundle for it, where the tracker speaks https."""

KUBEFLOW_VARIABLES: Final = (ENV_KUBEFLOW_URL, ENV_KUBEFLOW_TOKEN, ENV_KUBEFLOW_CA)
"""Given all or none: a token of ours must not go to a server of somebody else's."""

KUBEFLOW_PATH: Final = "/compat/kubeflow"
"""Path of the tracker that takes Kubeflow Trainer's status, followed by the trial uid."""

ENV_CHECKPOINT_DIR: Final = "FORETUNE_CHECKPOINT_DIR"
"""Folder for this trial's checkpoints, shared by its attempts; optional."""

ENV_TERMINATION_LOG: Final = "FORETUNE_TERMINATION_LOG"
"""Where the termination message goes; default `TERMINATION_LOG`."""

ENV_METRICS_PORT: Final = "FORETUNE_TRIAL_METRICS_PORT"
"""Port at which the built-in trainer shows live figures to Prometheus; unset: at none."""

METRICS_PORT: Final = 9464
"""The usual one."""

TERMINATION_LOG: Final = "/dev/termination-log"
"""Kubernetes' default path of the termination message."""

TERMINATION_LIMIT: Final = 4096
"""Bytes Kubernetes keeps of a termination message."""

TOKEN_AUDIENCE: Final = "foretune"
"""Audience of every projected service-account token that Foretune accepts."""

REPORTS_PATH: Final = "/v1/reports"
"""Path of the tracker to which a JSON array of reports is POSTed."""

BODY_LIMIT: Final = 64 * 1024
"""Largest body, in bytes, that a trial may send at once."""

STDOUT_MARK: Final = "FORETUNE "
"""Start of a line of stdout that carries one report as JSON behind it."""

BUILTIN_MODELS: Final = ("cnn", "resnet", "lstm", "transformer", "bert")
"""Models of the built-in trainer."""

BUILTIN_DATASETS: Final = ("digits", "mnist", "cifar10", "imdb", "ag_news", "sst2")
"""Data sets of the built-in trainer; `synthetic:<image|text>:<classes>:<size>` is one more."""

BUILTIN_METRICS: Final = ("accuracy", "val_loss", "train_loss")
"""Metrics that the built-in trainer reports each epoch and that an objective may name."""

BUILTIN_PARAMETERS: Final = {
    "learning_rate": ("lr",),
    "batch_size": ("bs",),
    "layers": ("num_layers",),
    "dropout": ("dropout_rate",),
    "optimizer": ("optim",),
    "epochs": ("num_epochs",),
}
"""Hyperparameters of the built-in trainer and the other names it takes for them."""

EPOCH_PARAMETERS: Final = (
    "epochs",
    *BUILTIN_PARAMETERS["epochs"],
    "max_epochs",
    "num_train_epochs",
)
"""Parameters that say how long a training is."""


class ExitCode(enum.IntEnum):
    """Exit codes with a meaning; 1, 2 and 126 to 143 stay the shell's."""

    DONE = 0
    """Finished, or stopped on request; the fidelity reached tells which."""
    BAD_CONFIG = 64
    """The parameters or the workload can't be run: never retried."""
    BUG = 70
    """The trainer failed in a way it did not foresee."""
    DATA_UNREACHABLE = 74
    """The data set could not be read: retried. By hand also: not all of `--out` could be written."""
    PREEMPTED = 75
    """Asked to leave; a checkpoint was written: resumed, never counted."""
    BAD_EXTRA = 78
    """An unknown or ill-typed extra parameter: never retried."""
    DIVERGED = 79
    """The loss was not finite twice in a row."""
    OUT_OF_MEMORY = 80
    """The device ran out of memory."""


class Action(str, enum.Enum):  # noqa: UP042 - StrEnum is of Python 3.11
    """What the tracker's reply to a report asks of the trial."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"

    def __str__(self) -> str:
        """Return the word itself."""
        return str(self.value)


_UNSAFE = re.compile(r"[^A-Z0-9_]")


def parameter_variable(name: str) -> str:
    """Return the environment variable of parameter `name` (`lr` -> `FORETUNE_PARAM_LR`).

    Dots and dashes become underscores; a space whose names collide is refused at acceptance.
    """
    return ENV_PARAM_PREFIX + _UNSAFE.sub("_", name.upper())


def substitute(text: str, params: dict[str, Any]) -> str:
    """Replace each `$(params.<name>)` in `text`; unknown names raise `KeyError`.

    `$$(params.x)` is the literal `$(params.x)`, as in a pod's command.
    """

    def value(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return render_value(params[match[1]])

    return re.sub(r"\$?\$\(params\.([A-Za-z0-9_.-]+)\)", value, text)


def render_value(value: Any) -> str:
    """Return a parameter value as text: JSON for anything but a string."""
    return value if isinstance(value, str) else json.dumps(value)


def split_metrics(metrics: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the finite metrics and the names of those that are NaN or infinite.

    Bare NaN is not JSON, so a report names such metrics under `nonfinite` instead.
    """
    finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
    return finite, sorted(set(metrics) - set(finite))


EVAL_PREFIX: Final = "eval_"
"""What the Trainer of `transformers` puts before the metrics of an evaluation."""

_EVAL_ALIASES: Final = {"eval_loss": "val_loss"}
_CLOCKS: Final = ("runtime", "samples_per_second", "steps_per_second")


def evaluation_names(metrics: Mapping[str, T]) -> dict[str, T]:
    """Return metrics with those of an evaluation under their plain names, too.

    `eval_accuracy` is also `accuracy`, unless that is there, and `eval_loss` is also `val_loss`. How fast
    an evaluation or the training was is left out: it says nothing about the model.
    """
    found: dict[str, T] = {}
    for name, value in metrics.items():
        if name.startswith((EVAL_PREFIX, "train_")) and name.endswith(_CLOCKS):
            continue
        found[name] = value
        if name.startswith(EVAL_PREFIX):
            alias = _EVAL_ALIASES.get(name, name[len(EVAL_PREFIX) :])
            if alias not in metrics:
                found[alias] = value
    return found


def sdk_python_path(folder: str, *, shims: bool = False) -> str:
    """Return what goes in front of a program's PYTHONPATH for an SDK in `folder` (`foretune sdk copy`).

    With `shims` the stand-ins for other tools' reporting functions install themselves.
    """
    return f"{folder}/foretune_report/shims/startup:{folder}" if shims else folder


def report_line(report: dict[str, Any]) -> str:
    """Return a report as the marked stdout line that the log tail is searched for."""
    return STDOUT_MARK + json.dumps(report, separators=(",", ":"), allow_nan=False)


def parse_report_lines(text: str) -> list[dict[str, Any]]:
    """Return every report found on marked lines of `text`, in order; torn lines are passed over."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        _, mark, payload = line.partition(STDOUT_MARK)
        if not mark:
            continue
        try:
            record = json.loads(payload)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("v") == CONTRACT_VERSION:
            found.append(record)
    return found
