"""The API server, as few calls and in raw JSON: decoding typed models costs 86 times `json.loads`.

Thread-safe. Every call has a time limit, goes through one token bucket, and is counted.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import urllib3
from kubernetes import config as kube_config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException

from foretune import constants
from foretune.adapters.kube.failures import failure
from foretune.adapters.kube.resources import Resource
from foretune.errors import ClusterUnavailableError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S: Final = (5.0, 30.0)
"""Seconds to connect, and of silence while reading; without them a lost connection hangs for ever."""

URGENT_TIMEOUT_S: Final = (2.0, 4.0)
"""The same for what must be known soon or not at all: a Lease that hangs for 30 s is lost meanwhile."""

POOL_SIZE: Final = 32
"""Connections kept; twice the worker threads."""

ANY: Final = "application/json, */*"
"""What is accepted as an answer, unless only metadata is wanted."""

METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Asks for a list without specs and states."""

PAGE: Final = 500
"""Objects of one page of a list, so that ten thousand pods never stand in memory at once."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One request. `verb` is Kubernetes' word for it, which its rights and our metrics use."""

    verb: str
    method: str
    resource: Resource
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    accept: str = ANY
    sub: str = ""
    creates_job: bool = False
    urgent: bool = False
    """Passes the token bucket, and waits only `URGENT_TIMEOUT_S`."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class TokenBucket:
    """Lets `qps` calls a second pass on average, and `burst` at once."""

    def __init__(
        self,
        qps: float,
        burst: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start full; `monotonic` and `sleep` are replaced in tests."""
        self._qps, self._burst = qps, float(burst)
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._tokens, self._at = self._burst, monotonic()

    def take(self) -> float:
        """Wait for a token; return the seconds waited."""
        with self._lock:
            now = self._monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps)
            self._at = now
            self._tokens -= 1.0
            wait = max(0.0, -self._tokens / self._qps)
        if wait:
            self._sleep(wait)
        return wait


def connection() -> tuple[Configuration, bool]:
    """Return how to reach the API server, and whether from inside its cluster.

    In a pod its service account, else the kubeconfig (KUBECONFIG, else ~/.kube/config). Raises
    `InvalidInputError` when there is neither.
    """
    configuration = Configuration()
    try:
        kube_config.load_incluster_config(client_configuration=configuration)
    except kube_config.ConfigException:
        pass
    else:
        return configuration, True
    try:
        kube_config.load_kube_config(client_configuration=configuration)
    except (kube_config.ConfigException, OSError) as error:
        message = "no cluster: this is no pod with a service account, and there is no kubeconfig"
        raise InvalidInputError(f"{message} (set KUBECONFIG): {error}") from error
    return configuration, False


class KubeApi:
    """Calls of the API server. Objects go in and come out as plain JSON."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        qps: float = 50.0,
        burst: int = 100,
        on_request: Callable[[str, str, str, float], None] | None = None,
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> None:
        """Talk to the server of `configuration`; `on_request` hears of each request."""
        configuration.connection_pool_maxsize = POOL_SIZE
        # A kept connection that the server closed meanwhile must not fail a read; writes are never
        # repeated here, the loop looks first.
        configuration.retries = urllib3.Retry(
            total=2, connect=0, read=1, redirect=0, status=0, other=0, allowed_methods={"GET"}
        )
        self._client = ApiClient(configuration)
        self._client.user_agent = constants.FIELD_MANAGER
        self._bucket = TokenBucket(qps, burst)
        self._on_request = on_request
        self._timeout_s = timeout_s

    def create(
        self,
        resource: Resource,
        body: Mapping[str, Any],
        *,
        namespace: str | None = None,
        dry_run: bool = False,
        creates_job: bool = False,
        urgent: bool = False,
    ) -> Json:
        """Create an object and return it; raises `ConflictError` when the name is taken."""
        request = _Request(
            verb="create",
            method="POST",
            resource=resource,
            path=resource.path(namespace=namespace),
            query=(("dryRun", "All"),) if dry_run else (),
            body=body,
            creates_job=creates_job,
            urgent=urgent,
        )
        return self._json(request)

    def get(
        self, resource: Resource, name: str, *, namespace: str | None = None, urgent: bool = False
    ) -> Json:
        """Return an object; raises `NotFoundError`."""
        path = resource.path(namespace=namespace, name=name)
        return self._json(
            _Request(verb="get", method="GET", resource=resource, path=path, urgent=urgent)
        )

    def pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        selector: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> Iterator[Json]:
        """Yield the pages of a list; each has `metadata.resourceVersion` and `items`.

        `selector` is of labels, `fields` of fields. With `metadata_only` the items are `PartialObjectMetadata`, a small part of the whole.
        Raises `ClusterUnavailableError` also when the list's continuation expired (410): begin anew.
        """
        path, token = resource.path(namespace=namespace), ""
        while True:
            query = [("limit", str(PAGE))]
            query += [("labelSelector", selector)] if selector else []
            query += [("fieldSelector", fields)] if fields else []
            query += [("continue", token)] if token else []
            page = self._json(
                _Request(
                    verb="list",
                    method="GET",
                    resource=resource,
                    path=path,
                    query=tuple(query),
                    accept=METADATA if metadata_only else ANY,
                )
            )
            yield page
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return

    def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        selector: str = "",
        fields: str = "",
    ) -> tuple[list[Json], str]:
        """Return all objects and the list's resource version; see `pages`."""
        items: list[Json] = []
        version = ""
        for page in self.pages(resource, namespace=namespace, selector=selector, fields=fields):
            items.extend(page.get("items") or ())
            version = page.get("metadata", {}).get("resourceVersion", version)
        return items, version

    def apply_status(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str
    ) -> Json:
        """Own the status with a server-side apply, by force; return the object.

        Raises `NotFoundError`, and `ConflictError` when `metadata.resourceVersion` is given and is stale.
        """
        request = _Request(
            verb="apply",
            method="PATCH",
            resource=resource,
            path=resource.path(namespace=namespace, name=name, sub="status"),
            query=(("fieldManager", constants.FIELD_MANAGER), ("force", "true")),
            body=body,
            content_type="application/apply-patch+yaml",
            sub="status",
        )
        return self._json(request)

    def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str
    ) -> Json:
        """Merge `body` into an object and return it.

        Raises `NotFoundError`, and `InvalidInputError` when `metadata.uid` is given and is another object's.
        """
        request = _Request(
            verb="patch",
            method="PATCH",
            resource=resource,
            path=resource.path(namespace=namespace, name=name),
            query=(("fieldManager", constants.FIELD_MANAGER),),
            body=body,
            content_type="application/merge-patch+json",
        )
        return self._json(request)

    def replace(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str
    ) -> Json:
        """Replace an object whose resource version is in `body`; raises `ConflictError`. Urgent."""
        path = resource.path(namespace=namespace, name=name)
        request = _Request(
            verb="update", method="PUT", resource=resource, path=path, body=body, urgent=True
        )
        return self._json(request)

    def delete(self, resource: Resource, name: str, *, namespace: str, uid: str) -> Json:
        """Delete the object of this uid and, in the background, what it owns.

        Returns the object if it stays for a finalizer, else a `Status`. Raises `NotFoundError`, and
        `ConflictError` when another object has the name now.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        path = resource.path(namespace=namespace, name=name)
        return self._json(
            _Request(verb="delete", method="DELETE", resource=resource, path=path, body=body)
        )

    def log_tail(
        self,
        resource: Resource,
        pod: str,
        *,
        namespace: str,
        container: str,
        lines: int,
        limit_bytes: int,
    ) -> str:
        """Return the last lines of a container's log, of these the first `limit_bytes`.

        Empty when the pod or the container has no log: gone, or it never started.
        """
        request = _Request(
            verb="get",
            method="GET",
            resource=resource,
            path=resource.path(namespace=namespace, name=pod, sub="log"),
            query=(
                ("container", container),
                ("tailLines", str(lines)),
                ("limitBytes", str(limit_bytes)),
            ),
            sub="log",
        )
        try:
            body = self._call(request)
        except (NotFoundError, InvalidInputError):  # 400: "is waiting to start"
            return ""
        return body.decode(errors="replace")

    def close(self) -> None:
        """Release connections."""
        self._client.close()

    def _json(self, request: _Request) -> Json:
        raw = self._call(request)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            message = f"{request}: the answer is no JSON: {raw[:200]!r}"
            raise ClusterUnavailableError(message) from error
        if not isinstance(answer, dict):
            raise ClusterUnavailableError(f"{request}: the answer is no object")
        return answer

    def _call(self, request: _Request) -> bytes:
        if not request.urgent:
            self._bucket.take()
        name = (
            f"{request.resource.plural}/{request.sub}" if request.sub else request.resource.plural
        )
        began, code = time.monotonic(), "error"
        try:
            status, raw = self._send(request)
            code = str(status)
        finally:
            if self._on_request is not None:
                self._on_request(request.verb, name, code, time.monotonic() - began)
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return raw
        raise failure(str(request), status, raw, creates_job=request.creates_job)

    def _send(self, request: _Request) -> tuple[int, bytes]:
        headers, text = {"Accept": request.accept}, None
        if request.body is not None:
            # The text is made here: the client would rewrite dates and drop empty values.
            text = json.dumps(request.body, separators=(",", ":"), allow_nan=False)
            headers["Content-Type"] = request.content_type
        _, url, sent_headers, _, _ = self._client.param_serialize(
            request.method,
            request.path,
            query_params=[*request.query],
            header_params=headers,
            auth_settings=["BearerToken"],
        )
        connect, read = URGENT_TIMEOUT_S if request.urgent else self._timeout_s
        try:
            response = self._client.rest_client.pool_manager.request(
                request.method,
                url,
                body=text,
                headers=sent_headers,
                timeout=urllib3.Timeout(connect=connect, read=read),
            )
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise ClusterUnavailableError(f"{request}: {type(error).__name__}: {error}") from error
        return response.status, response.data
