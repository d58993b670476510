"""What a trial's workload is on this machine: a command and an environment."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune.domain.job import Builtin, Image, Template
from foretune.errors import InvalidJobError, Problem
from foretune.planner.launch import DEFAULT_ENV, escaped

if TYPE_CHECKING:
    from foretune.domain.job import JobSpec
    from foretune.domain.space import Params

TRAINER_MODULE: Final = "foretune_trainer"
"""Module of the built-in trainer."""

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_CONTRACT_NAMES: Final = frozenset(
    value for name, value in vars(contract).items() if name.startswith("ENV_")
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command to run here; `$(params.x)` and `$(NAME)` are still in it."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a user should know of how this differs from a cluster, a line each."""


def program(spec: JobSpec, environ: Mapping[str, str]) -> Program:
    """Return what a trial of `spec` runs on this machine.

    `environ` is the user's environment, which stands in for references to Secrets and ConfigMaps. Raises
    `InvalidJobError` for a workload that only a cluster can run.
    """
    workload = spec.trial.workload
    match workload:
        case Builtin():
            if workload.data_path is not None and not Path(workload.data_path).exists():
                message = (
                    f"there is no {workload.data_path} on this machine; where is the data set?"
                )
                raise InvalidJobError([Problem("spec.trial.builtin.path", message)])
            return Program(
                command=(sys.executable, "-m", TRAINER_MODULE),
                env=_env(workload.env, "spec.trial.env", environ),
                notes=_left_out(workload),
            )
        case Image():
            found = Program(
                command=_command(workload.command, workload.args, "spec.trial", workload.image),
                env=_env(workload.env, "spec.trial.env", environ),
                notes=(_note(workload.image), *_left_out(workload)),
            )
        case Template():
            found = _primary(workload, environ)
    name = found.command[0]
    if "$(" not in name and shutil.which(name, path=environ.get("PATH")) is None:
        where = "spec.trial.command" if isinstance(workload, Image) else "spec.trial.template"
        message = f"{name!r} is no program on this machine's PATH, on which local trials run"
        raise InvalidJobError([Problem(where, message)])
    return found


def _note(image: str) -> str:
    return f"the image {image} is not used: its command runs as a process of this machine"


def _left_out(workload: Builtin | Image) -> tuple[str, ...]:
    """Return what is told of fields that need a cluster."""
    notes = []
    if workload.env_from:
        notes.append(
            "spec.trial.envFrom refers to the cluster: its variables are taken from your environment"
        )
    if workload.volume_mounts:
        notes.append("spec.trial.volumeMounts are not mounted: paths are those of this machine")
    return tuple(notes)


def _primary(template: Template, environ: Mapping[str, str]) -> Program:
    path = "spec.trial.template.job.spec.template.spec.containers"
    pod = template.job.get("spec", {}).get("template", {}).get("spec", {})
    for position, container in enumerate(pod.get("containers", ())):
        if container.get("name") == template.primary_container:
            where, image = f"{path}[{position}]", str(container.get("image", "of the template"))
            only = f"only container {template.primary_container!r} of the template runs"
            return Program(
                command=_command(
                    container.get("command", ()), container.get("args", ()), where, image
                ),
                env=_env(container.get("env", ()), f"{where}.env", environ),
                notes=(
                    f"{only}, without init containers and volumes: paths are those of this machine",
                    _note(image),
                ),
            )
    message = f"has no container {template.primary_container!r}"
    raise InvalidJobError([Problem(path, message)])


def _command(
    command: Sequence[str], args: Sequence[str], where: str, image: str
) -> tuple[str, ...]:
    if not command:
        message = (
            f"is needed by `foretune run`, which starts processes and no containers; the entry point "
            f"of image {image} is known to a cluster only"
        )
        raise InvalidJobError([Problem(f"{where}.command", message)])
    return (*(str(word) for word in command), *(str(word) for word in args))


def _env(
    variables: Sequence[Mapping[str, Any]], where: str, environ: Mapping[str, str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, variable in enumerate(variables):
        name = str(variable.get("name", ""))
        if "valueFrom" not in variable:
            found[name] = str(variable.get("value", ""))
        elif name not in environ:
            message = (
                f"refers to the cluster; set {name} in the environment of `foretune run` instead"
            )
            raise InvalidJobError([Problem(f"{where}[{position}].valueFrom", message)])
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as a kubelet does: unknown names stay, `$$` is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def render(
    found: Program,
    params: Params,
    base: Mapping[str, str],
    given: Mapping[str, str],
    *,
    sdk_path: str | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of one trial.

    `base` is the environment of `foretune run`; the contract's variables in `given` and the manifest's
    own come on top, in this order. `sdk_path` goes in front of PYTHONPATH.
    """
    env = {name: value for name, value in base.items() if not _of_contract(name)}
    for name, value in DEFAULT_ENV.items():
        env.setdefault(name, value)
    env.update(given)
    texts = escaped(params)
    for name, value in found.env.items():
        env[name] = expand(contract.substitute(value, texts), env)
    if sdk_path is not None:
        there = env.get("PYTHONPATH")
        env["PYTHONPATH"] = f"{sdk_path}:{there}" if there else sdk_path
    command = [expand(contract.substitute(word, texts), env) for word in found.command]
    return command, env


def _of_contract(name: str) -> bool:
    return name in _CONTRACT_NAMES or name.startswith(contract.ENV_PARAM_PREFIX)
