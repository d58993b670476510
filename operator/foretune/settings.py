"""Settings of a process: frozen, read once from the environment, handed down from the command line.

Every variable starts with `FORETUNE_`. A value that can't be read raises `InvalidInputError` naming it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

OPERATOR_METRICS_PORT: Final = 9090
"""Port of the operator's /metrics, /healthz and /readyz."""

TRACKER_METRICS_PORT: Final = 9091
"""Port of the tracker's /metrics, /healthz and /readyz."""

SUGGESTION_METRICS_PORT: Final = 9092
"""Port of the suggestion service's /metrics, /healthz and /readyz."""

TRACKER_PORT: Final = 8080
"""Port to which trials report and at which the operator asks for proposals."""

SUGGESTION_PORT: Final = 8081
"""Port at which the tracker asks for suggestions; bound to loopback in the compact topology."""

IN_CLUSTER_TOKEN: Final = "/var/run/secrets/foretune/token"
"""Projected service-account token (audience `foretune`) of the operator."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """Settings of `foretune operator`."""

    tracker_url: str = f"http://127.0.0.1:{TRACKER_PORT}"
    """FORETUNE_TRACKER_URL: where the operator reaches the tracker."""
    report_url: str = f"http://foretune-tracker:{TRACKER_PORT}"
    """FORETUNE_REPORT_URL: where trial pods reach the tracker."""
    token_file: str = IN_CLUSTER_TOKEN
    """FORETUNE_TOKEN_FILE: the operator's own token for the tracker."""
    trainer_image: str = "ghcr.io/foretune/trainer:0.1.0"
    """FORETUNE_TRAINER_IMAGE: image of `trial.builtin`."""
    sdk_image: str = "ghcr.io/foretune/foretune:0.1.0"
    """FORETUNE_SDK_IMAGE: image with the command `foretune`, from which `trial.inject` copies the SDK."""
    trial_metrics_port: int = 0
    """FORETUNE_TRIAL_METRICS_PORT: port at which pods of `trial.builtin` show live figures; 0: at none."""
    namespaces: tuple[str, ...] = ()
    """FORETUNE_NAMESPACES: comma-separated; empty watches the whole cluster."""
    namespace: str = "foretune"
    """FORETUNE_NAMESPACE: the operator's own, for its Lease."""
    identity: str = "foretune-operator"
    """FORETUNE_IDENTITY: name of this replica in the Lease (the pod's name)."""
    metrics_port: int = OPERATOR_METRICS_PORT
    """FORETUNE_METRICS_PORT: /metrics, /healthz and /readyz."""
    api_qps: float = 50.0
    """FORETUNE_API_QPS: mean rate of requests to the API server."""
    api_burst: int = 100
    """FORETUNE_API_BURST: requests allowed at once on top of that."""
    leader_election: bool = True
    """FORETUNE_LEADER_ELECTION: hold the Lease before acting."""


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """Settings of `foretune tracker`."""

    database_url: str = "sqlite:////var/lib/foretune/history.db"
    """FORETUNE_DATABASE_URL: SQLAlchemy URL, `sqlite:///...` or `postgresql+psycopg://...`."""
    host: str = "0.0.0.0"  # noqa: S104 - trial pods reach it through a Service
    """FORETUNE_HOST: address to listen on."""
    port: int = TRACKER_PORT
    """FORETUNE_PORT: port to listen on."""
    metrics_port: int = TRACKER_METRICS_PORT
    """FORETUNE_METRICS_PORT: /metrics, /healthz and /readyz."""
    suggestion_url: str = f"http://127.0.0.1:{SUGGESTION_PORT}"
    """FORETUNE_SUGGESTION_URL: where the tracker reaches the suggestion service."""
    operator_users: tuple[str, ...] = ()
    """FORETUNE_OPERATOR_USERS: comma-separated user names (`system:serviceaccount:NS:NAME`) that act
    as the operator."""
    prior_scope: str = "namespace"
    """FORETUNE_PRIOR_SCOPE: whose jobs a job learns from when its `spec.prior.scope` does not say:
    `namespace` or `cluster`."""
    publishers: tuple[str, ...] = ()
    """FORETUNE_PUBLISHERS: comma-separated namespaces whose jobs may publish to the whole cluster
    (`spec.history.scope: cluster`); `*` is all."""

    def __post_init__(self) -> None:
        """Refuse a scope that is none."""
        if self.prior_scope not in {"namespace", "cluster"}:
            message = f"must be namespace or cluster, not {self.prior_scope!r}"
            raise InvalidInputError(f"FORETUNE_PRIOR_SCOPE: {message}")


@dataclass(frozen=True, kw_only=True)
class SuggestionSettings:
    """Settings of `foretune suggestion`."""

    host: str = "127.0.0.1"
    """FORETUNE_HOST: address to listen on."""
    port: int = SUGGESTION_PORT
    """FORETUNE_PORT: port to listen on."""
    metrics_port: int = SUGGESTION_METRICS_PORT
    """FORETUNE_METRICS_PORT: /metrics, /healthz and /readyz."""
    threads: int = 1
    """FORETUNE_THREADS: torch threads; more than one is slower for problems of this size."""
    prior: str = "starter"
    """FORETUNE_PRIOR: what jobs with few past jobs look at: `starter` (the prior that ships), `none`, or a
    folder with a prior of another place (`foretune prior export`), which is added to the starter."""


SettingsT = TypeVar("SettingsT", OperatorSettings, TrackerSettings, SuggestionSettings)


def from_environ(kind: type[SettingsT], environ: Mapping[str, str] | None = None) -> SettingsT:
    """Return the settings of `kind`: each field from `FORETUNE_<FIELD>`, else its default.

    Raises `InvalidInputError` naming the variable whose text does not fit.
    """
    source = os.environ if environ is None else environ
    values = {
        field.name: _read(f"FORETUNE_{field.name.upper()}", source, field.default)
        for field in fields(kind)
    }
    return kind(**values)


def _read(name: str, environ: Mapping[str, str], default: Any) -> Any:
    text = environ.get(name)
    if text is None or text == "":
        return default
    if isinstance(default, bool):
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        raise InvalidInputError(f"{name}: must be true or false, not {text!r}")
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return type(default)(text)
    except ValueError:
        raise InvalidInputError(
            f"{name}: must be a {_KINDS[type(default)]}, not {text!r}"
        ) from None


_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_KINDS: Final = {int: "whole number", float: "number", str: "text"}
