"""Who speaks: the operator, a pod of a trial, or a reader. Tokens are cached by their hash."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from foretune.errors import ForbiddenError
from foretune.ports import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POSITIVE_TTL_S: Final = 60.0
"""Seconds a token that was accepted is not reviewed again."""

NEGATIVE_TTL_S: Final = 5.0
"""Seconds a token that was refused is not reviewed again."""

JWT_PARTS: Final = 3
"""Header, claims, signature."""

CACHE_LIMIT: Final = 20_000
"""Tokens kept; 10,000 pods and their renewals fit."""


class UnknownCallerError(ForbiddenError):
    """The token is missing, wrong or expired (401)."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a token belongs to."""

    username: str
    groups: tuple[str, ...] = ()
    operator: bool = False
    """Whether it may do what the loop does."""
    pod_uid: str | None = None
    """Pod the token is bound to: it may report."""
    trial: str | None = None
    """`<job uid>/<index>` the token is limited to (local mode)."""
    reads_all: bool = False
    """Whether it may read every job (local mode)."""


class Authenticator(Protocol):
    """Tells who a token belongs to."""

    def identify(self, token: str) -> Identity:
        """Return the caller; raises `UnknownCallerError`, or `UnavailableError` when nobody can tell."""

    def may_read(self, identity: Identity, namespace: str) -> bool:
        """Whether the caller may read the jobs of a namespace."""


class LocalAuthenticator:
    """Random tokens, made by this process for this run."""

    def __init__(self) -> None:
        """Start with no token."""
        self._known: dict[str, Identity] = {}

    def issue(self, identity: Identity) -> str:
        """Return a new token for `identity`."""
        token = secrets.token_urlsafe(32)
        self._known[_digest(token)] = identity
        return token

    def identify(self, token: str) -> Identity:
        """Return the caller; raises `UnknownCallerError`."""
        identity = self._known.get(_digest(token))
        if identity is None:
            raise UnknownCallerError("the token is not of this run")
        return identity

    def may_read(self, identity: Identity, namespace: str) -> bool:  # noqa: ARG002 - one user, one machine
        """Whether the caller may read."""
        return identity.operator or identity.reads_all


class TokenReviews(Protocol):
    """The cluster's answers about tokens and rights (`adapters.kube.tokens` has them)."""

    def review(self, token: str) -> ReviewedToken | None:
        """Return whom the token belongs to, or None when the cluster refuses it."""

    def may_read(self, username: str, groups: Sequence[str], namespace: str) -> bool:
        """Whether the user may `get tuningjobs.foretune.io` in the namespace."""


class ReviewedToken(Protocol):
    """What a TokenReview says."""

    @property
    def username(self) -> str:
        """`system:serviceaccount:<namespace>:<name>` for a service account."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The user's groups."""

    @property
    def pod_uid(self) -> str | None:
        """Pod that the token is bound to, if any."""


@dataclass
class KubeAuthenticator:
    """TokenReview and SubjectAccessReview, cached."""

    reviews: TokenReviews
    clock: Clock
    operator_users: frozenset[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cache: dict[str, tuple[float, Identity | bool | None]] = field(default_factory=dict)

    def identify(self, token: str) -> Identity:
        """Return the caller; raises `UnknownCallerError`."""
        now = self.clock.now()
        expires_at = _expiry(token)
        if expires_at <= now:
            raise UnknownCallerError("the token has expired")
        key = "token:" + _digest(token)
        identity = self._cached(key, lambda: self._review(token), until=expires_at)
        if not isinstance(identity, Identity):
            raise UnknownCallerError("the cluster does not accept this token for audience foretune")
        return identity

    def may_read(self, identity: Identity, namespace: str) -> bool:
        """Whether the caller may `get tuningjobs.foretune.io` in the namespace."""
        if identity.operator:
            return True
        key = f"read:{identity.username}:{','.join(identity.groups)}:{namespace}"
        ask = lambda: self.reviews.may_read(identity.username, identity.groups, namespace)  # noqa: E731
        return bool(self._cached(key, ask))

    def _review(self, token: str) -> Identity | None:
        found = self.reviews.review(token)
        if found is None:
            return None
        operator = found.username in self.operator_users
        return Identity(
            username=found.username,
            groups=found.groups,
            operator=operator,
            pod_uid=found.pod_uid,
        )

    def _cached(
        self,
        key: str,
        ask: Callable[[], Identity | bool | None],
        until: float = math.inf,
    ) -> Identity | bool | None:
        now = self.clock.now()
        with self._lock:
            kept = self._cache.get(key)
            if kept is not None and kept[0] > now:
                return kept[1]
        answer = ask()
        with self._lock:
            if len(self._cache) >= CACHE_LIMIT:
                self._cache = {k: v for k, v in self._cache.items() if v[0] > now}
                if len(self._cache) >= CACHE_LIMIT:
                    self._cache.clear()
            ttl = POSITIVE_TTL_S if answer else NEGATIVE_TTL_S
            self._cache[key] = (min(now + ttl, until), answer)
        return answer


def _expiry(token: str) -> float:
    """Return when a service account's token ends, Unix seconds; infinity when it does not say.

    Read, not checked: the cluster checks the token, this only ends what is remembered of its answer.
    """
    parts = token.split(".")
    if len(parts) != JWT_PARTS:
        return math.inf
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
