"""`Lease`: at most one operator acts. It saves work; correctness never depends on it.

As in client-go, a lease has expired when its record has not changed for its duration by *our* monotonic
clock: the clocks of two machines are never compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from foretune.adapters.kube.resources import LEASES
from foretune.errors import ConflictError, ForetuneError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.adapters.kube.client import Json, KubeApi

NAME: Final = "foretune-operator"
"""Name of the Lease; the chart grants rights to this one only."""

DURATION_S: Final = 15.0
"""Seconds after its last renewal in which nobody else takes the lease."""

DEADLINE_S: Final = 10.0
"""Seconds without a successful renewal after which the holder must stop acting."""

RETRY_S: Final = 2.0
"""Seconds between two tries, to acquire or to renew."""


@dataclass(frozen=True)
class _Seen:
    """The record as it was when it last changed."""

    holder: str
    version: str
    at: float


class Lease:
    """The Lease of the operator, for one candidate. Used by one thread at a time; never blocks long."""

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        identity: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take part as `identity`, unique among the replicas."""
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._monotonic = monotonic
        self._seen: _Seen | None = None
        self._body: Json | None = None
        self._renewed_at: float | None = None

    @property
    def renewed_at(self) -> float | None:
        """When the lease was last acquired or renewed, monotonic seconds; None while not held."""
        return self._renewed_at

    @property
    def holder(self) -> str:
        """Who held the lease when it was last looked at; empty for nobody."""
        return self._seen.holder if self._seen is not None else ""

    def acquire(self) -> bool:
        """Try once to take the lease; call again after `RETRY_S` while it is False.

        Raises `UnavailableError` when the cluster does not answer, `ForbiddenError` without the right.
        """
        now = self._monotonic()
        try:
            body = self._api.get(LEASES, NAME, namespace=self._namespace, urgent=True)
        except NotFoundError:
            return self._create(now)
        self._note(body, now)
        assert self._seen is not None
        held = self._seen.holder not in {"", self._identity}
        if held and now - self._seen.at < self._duration(body):
            return False
        return self._take(body, now)

    def renew(self) -> bool:
        """Renew once; call again every `RETRY_S`. False: the lease is lost, stop acting at once.

        A try that fails is not a loss until `DEADLINE_S` have passed since the last that succeeded.
        """
        now = self._monotonic()
        if self._renewed_at is None or self._body is None:
            return False
        try:
            held = self._take(self._body, now) or self._again(now)
        except UnavailableError:
            held = self._monotonic() - self._renewed_at < DEADLINE_S
        if not held:
            self._renewed_at = None
        return held

    def release(self) -> None:
        """Give the lease back, so that the next one need not wait; does nothing when it is not held."""
        if self._renewed_at is None or self._body is None:
            return
        body, self._renewed_at = self._body, None
        spec = {**body["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            self._api.replace(LEASES, NAME, {**body, "spec": spec}, namespace=self._namespace)
        except ForetuneError:
            return  # it expires by itself

    def _again(self, now: float) -> bool:
        """Renew after a conflict: somebody touched the record, who is not always another holder."""
        try:
            body = self._api.get(LEASES, NAME, namespace=self._namespace, urgent=True)
        except NotFoundError:
            return self._create(now)
        self._note(body, now)
        return self.holder == self._identity and self._take(body, now)

    def _create(self, now: float) -> bool:
        meta = {"name": NAME, "namespace": self._namespace}
        spec = self._spec(acquired=_stamp(), transitions=0)
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": spec,
        }
        try:
            made = self._api.create(LEASES, body, namespace=self._namespace, urgent=True)
        except ConflictError:
            return False
        return self._held(made, now)

    def _take(self, body: Json, now: float) -> bool:
        """Write ourselves into the record as it was read; False when it was changed meanwhile."""
        old = body.get("spec") or {}
        same = old.get("holderIdentity") == self._identity
        spec = self._spec(
            acquired=(old.get("acquireTime") or _stamp()) if same else _stamp(),
            transitions=int(old.get("leaseTransitions") or 0) + (not same),
        )
        try:
            made = self._api.replace(
                LEASES, NAME, {**body, "spec": spec}, namespace=self._namespace
            )
        except (ConflictError, NotFoundError):
            return False
        return self._held(made, now)

    def _held(self, body: Json, now: float) -> bool:
        self._note(body, now)
        self._renewed_at, self._body = now, body
        return True

    def _note(self, body: Json, now: float) -> None:
        version = body["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            holder = (body.get("spec") or {}).get("holderIdentity") or ""
            self._seen = _Seen(holder, version, now)

    def _spec(self, *, acquired: str, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_S),
            "acquireTime": acquired,
            "renewTime": _stamp(),
            "leaseTransitions": transitions,
        }

    @staticmethod
    def _duration(body: Json) -> float:
        return float((body.get("spec") or {}).get("leaseDurationSeconds") or DURATION_S)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
