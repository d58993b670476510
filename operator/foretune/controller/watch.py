"""The watches: kopf's streams, and nothing else of it.

Handlers put what they hear into a store and a key into the queue. They do no I/O and patch nothing, so
that they can't fail: an `on.event` handler that fails is never called again for its event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import kopf

from foretune import constants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Hear = Callable[[Mapping[str, Any], bool], None]
    """Takes an object, and whether it is gone."""

NO_LIMIT: Final = None

ERROR_BACKOFFS_S: Final = (1, 2, 5, 10, 20, *[30] * 20)
"""Seconds between tries of a request of kopf's; after them it ends, and the kubelet starts us again."""


def watch_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: long patience, server-side selectors, and none of its own writing."""
    settings = kopf.OperatorSettings()
    watching = settings.watching
    watching.chunk_size = 500
    watching.server_timeout, watching.client_timeout = 300, 330
    watching.connect_timeout, watching.inactivity_timeout = 10, 70
    for group, version, plural in (("batch", "v1", "jobs"), ("", "v1", "pods")):
        watching.label_selectors[group, version, plural] = constants.LABEL_JOB
    settings.networking.request_timeout, settings.networking.connect_timeout = 30, 10
    settings.networking.error_backoffs = ERROR_BACKOFFS_S
    settings.networking.enforce_retry_after = True
    settings.queueing.worker_limit = NO_LIMIT  # a limit keeps events waiting for idle workers
    settings.queueing.idle_timeout = 1
    settings.queueing.error_delays = (1, 2, 5, 10, 30)
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = 25
    settings.execution.max_workers = 16
    return settings


def watch_registry(
    *, connect: Callable[[], Any], tuningjob: Hear, job: Hear, pod: Hear
) -> kopf.OperatorRegistry:
    """Return handlers that log in by `connect` and tell each event of the three kinds."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return credentials(connect())

    def handler(hear: Hear) -> Callable[..., Any]:
        async def heard(event: kopf.RawEvent, **_: Any) -> None:
            hear(event["object"], event["type"] == "DELETED")

        return heard

    kinds = (
        (constants.GROUP, constants.VERSION, constants.PLURAL, tuningjob),
        ("batch", "v1", "jobs", job),
        ("", "v1", "pods", pod),
    )
    for group, version, plural, hear in kinds:
        kopf.on.event(group, version, plural, id=plural, registry=registry)(handler(hear))
    return registry


def credentials(configuration: Any) -> kopf.ConnectionInfo:
    """Return for kopf what the official client was told: both reach the same server the same way."""
    header = configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    scheme, _, token = header.strip().rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
