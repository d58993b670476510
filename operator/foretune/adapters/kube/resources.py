"""The kinds that are asked of the API server, and their paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from foretune import constants


@dataclass(frozen=True)
class Resource:
    """A kind of object: its group (empty for the core), version and name in URLs."""

    group: str
    version: str
    plural: str

    def path(
        self, *, namespace: str | None = None, name: str | None = None, sub: str | None = None
    ) -> str:
        """Return the URL's path; without a namespace, that of the whole cluster."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = [root, self.version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [self.plural]
        parts += [part for part in (name, sub) if part]
        return "/".join(parts)


TUNINGJOBS: Final = Resource(constants.GROUP, constants.VERSION, constants.PLURAL)
JOBS: Final = Resource("batch", "v1", "jobs")
PODS: Final = Resource("", "v1", "pods")
EVENTS: Final = Resource("", "v1", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")
ACCESS_REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews")
