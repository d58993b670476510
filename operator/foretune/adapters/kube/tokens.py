"""`KubeTokenReviews`: what the cluster says of a token and of a user's rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foretune import constants, contract
from foretune.adapters.kube.resources import ACCESS_REVIEWS, TOKEN_REVIEWS
from foretune.errors import ClusterUnavailableError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.adapters.kube.client import Json, KubeApi
    from foretune.adapters.kube.resources import Resource

POD_UID: Final = "authentication.kubernetes.io/pod-uid"
"""Extra of a user whose token is bound to a pod."""


@dataclass(frozen=True, kw_only=True)
class ReviewedToken:
    """Whom an accepted token belongs to."""

    username: str
    groups: tuple[str, ...] = ()
    pod_uid: str | None = None


class KubeTokenReviews:
    """Implements the tracker's `TokenReviews`."""

    def __init__(self, api: KubeApi) -> None:
        """Ask through `api`, whose user needs `create` on both kinds of review."""
        self._api = api

    def review(self, token: str) -> ReviewedToken | None:
        """Return whom the token belongs to; None if it is refused, or is not for audience foretune."""
        spec = {"token": token, "audiences": [contract.TOKEN_AUDIENCE]}
        status = self._ask(TOKEN_REVIEWS, "TokenReview", spec)
        accepted = contract.TOKEN_AUDIENCE in (status.get("audiences") or ())
        if not status.get("authenticated") or not accepted:
            return None
        user = status.get("user") or {}
        pods = list((user.get("extra") or {}).get(POD_UID) or ())
        return ReviewedToken(
            username=user.get("username", ""),
            groups=tuple(user.get("groups") or ()),
            pod_uid=pods[0] if len(pods) == 1 else None,
        )

    def may_read(self, username: str, groups: Sequence[str], namespace: str) -> bool:
        """Whether the user may `get tuningjobs.foretune.io` in the namespace."""
        wanted = {
            "namespace": namespace,
            "verb": "get",
            "group": constants.GROUP,
            "resource": constants.PLURAL,
        }
        spec = {"user": username, "groups": list(groups), "resourceAttributes": wanted}
        return bool(self._ask(ACCESS_REVIEWS, "SubjectAccessReview", spec).get("allowed"))

    def _ask(self, resource: Resource, kind: str, spec: Mapping[str, Any]) -> Json:
        version = f"{resource.group}/{resource.version}"
        try:
            answer = self._api.create(
                resource, {"apiVersion": version, "kind": kind, "spec": dict(spec)}
            )
        except ForbiddenError as error:
            # It is us who may not ask: the caller keeps its reports and tries again.
            raise ClusterUnavailableError(f"the tracker needs the right to ask: {error}") from error
        status = answer.get("status")
        return status if isinstance(status, dict) else {}
