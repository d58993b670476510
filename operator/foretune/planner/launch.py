"""What every attempt is given, in a pod as on a laptop: `trial.json`, parameters, threads.

Runners differ in where files lie and in how a process is started; what stands in the files and in the
environment is written down here once.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune.domain.job import Builtin

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from foretune.domain.space import Params
    from foretune.ports import LaunchRequest

MAX_SEED: Final = 2**31
"""Seeds in `trial.json` are below this, since numpy and others take no larger ones."""

DEFAULT_ENV: Final = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_MININTERVAL": "10",  # seconds: progress bars must not push metrics out of the log's tail
}
"""Variables that every trial gets unless the user says otherwise."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that hold `threads`, unless the user says otherwise."""


def threads(resources: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the whole CPUs that `limits` or `requests` give, at least 1: more threads make it slower."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    text = str(limits.get("cpu") or requests.get("cpu") or "")
    try:
        cpus = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    except ValueError:
        return 1
    return max(1, math.floor(cpus)) if math.isfinite(cpus) else 1


def trial_config(request: LaunchRequest, *, report_url: str, checkpoint_dir: str) -> dict[str, Any]:
    """Return the content of `trial.json`."""
    job, spec = request.job, request.job.spec
    workload: dict[str, Any] = {}
    if isinstance(spec.trial.workload, Builtin):
        chosen = spec.trial.workload
        workload = {"model": chosen.model, "dataset": chosen.dataset, "extras": dict(chosen.extras)}
        if chosen.data_path is not None:
            workload["path"] = chosen.data_path
    return {
        "version": contract.CONTRACT_VERSION,
        "trial": {
            "namespace": job.key.namespace,
            "job": job.key.name,
            "jobUid": job.uid,
            "index": request.index,
            "attempt": request.number,
        },
        "params": dict(request.params),
        **_fidelity(request),
        "objective": {"metric": spec.objective.metric, "goal": spec.objective.goal.value},
        "workload": workload,
        "seed": spec.search.seed % MAX_SEED,
        "report": {"url": report_url},
        "checkpoint": {"dir": checkpoint_dir},
    }


def _fidelity(request: LaunchRequest) -> dict[str, Any]:
    """Return `fidelity`: the epochs of a whole training, where parameters or `earlyStopping.max` say them.

    A learning rate's schedule spans these, however early the trial is cut off.
    """
    spec = request.job.spec
    workload = spec.trial.workload
    extras = workload.extras if isinstance(workload, Builtin) else {}
    declared = [
        value
        for name in contract.EPOCH_PARAMETERS
        for value in (request.params.get(name, extras.get(name)),)
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 1
    ]
    whole = [*declared[:1], *([] if spec.early_stopping.max is None else [spec.early_stopping.max])]
    if not whole:
        return {}
    return {"fidelity": {"name": contract.EPOCH_PARAMETERS[0], "max": math.ceil(max(whole))}}


def identity_env(request: LaunchRequest, *, report_url: str, checkpoint_dir: str) -> dict[str, str]:
    """Return the variables of the contract that don't depend on where the attempt runs."""
    return {
        contract.ENV_PARAMS: json.dumps(request.params),
        **{
            contract.parameter_variable(name): contract.render_value(value)
            for name, value in request.params.items()
        },
        contract.ENV_TRIAL: f"{request.job.uid}/{request.index}",
        contract.ENV_ATTEMPT: str(request.number),
        contract.ENV_REPORT_URL: report_url,
        contract.ENV_CHECKPOINT_DIR: checkpoint_dir,
    }


def kubeflow_env(
    request: LaunchRequest, *, report_url: str, token_file: str, taken: Collection[str] = ()
) -> dict[str, str]:
    """Return the variables by which a program that knows Kubeflow Trainer posts its status to us.

    None where one of them is in `taken`: whoever set it reports to somebody else.
    """
    if not set(contract.KUBEFLOW_VARIABLES).isdisjoint(taken):
        return {}
    path = f"{contract.KUBEFLOW_PATH}/{request.job.uid}/{request.index}"
    return {
        contract.ENV_KUBEFLOW_URL: report_url.rstrip("/") + path,
        contract.ENV_KUBEFLOW_TOKEN: token_file,
    }


def escaped(params: Params) -> dict[str, Any]:
    """Return parameters as texts in which `$(NAME)` is not a reference, for a command, args or env."""
    return {name: literal(contract.render_value(value)) for name, value in params.items()}


def literal(text: str) -> str:
    """Return a text that stays as it is when references to variables are replaced."""
    return text.replace("$", "$$")
