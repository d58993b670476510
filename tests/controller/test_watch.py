"""kopf's part: its settings, its credentials, and handlers that only tell."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client import Configuration

from foretune.controller.watch import credentials, watch_registry, watch_settings

if TYPE_CHECKING:
    import kopf


def test_the_settings_are_those_of_the_design():
    """Long patience, server-side selectors, and nothing that writes, peers or scans."""
    found = watch_settings()
    watching, networking = found.watching, found.networking
    assert (watching.chunk_size, watching.server_timeout, watching.client_timeout) == (
        500,
        300,
        330,
    )
    assert (watching.connect_timeout, watching.inactivity_timeout) == (10, 70)
    assert {str(s.plural or s.any_name): v for s, v in watching.label_selectors.items()} == {
        "jobs": "foretune.io/job",
        "pods": "foretune.io/job",
    }
    assert (networking.request_timeout, networking.connect_timeout) == (30, 10)
    assert networking.error_backoffs == (1, 2, 5, 10, 20, *[30] * 20)
    assert networking.enforce_retry_after
    assert (found.queueing.worker_limit, found.queueing.idle_timeout) == (None, 1)
    assert found.queueing.error_delays == (1, 2, 5, 10, 30)
    assert found.posting.enabled is False
    assert found.peering.standalone is True
    assert found.scanning.disabled is True
    assert found.process.ultimate_exiting_timeout == 25
    assert found.execution.max_workers == 16


def registry(heard: list[Any]) -> kopf.OperatorRegistry:
    def hear(kind: str) -> Any:
        return lambda body, gone: heard.append((kind, body["metadata"]["name"], gone))

    return watch_registry(
        connect=Configuration, tuningjob=hear("tuningjob"), job=hear("job"), pod=hear("pod")
    )


def test_only_event_handlers_are_registered():
    """A change handler, timer, daemon or index would write annotations or finalizers to users' objects."""
    made = registry([])
    assert [h.id for h in made._watching.get_all_handlers()] == ["tuningjobs", "jobs", "pods"]
    assert not made._changing.get_all_handlers()
    assert not made._spawning.get_all_handlers()
    assert not made._indexing.get_all_handlers()
    assert not made._webhooks.get_all_handlers()


def test_handlers_tell_the_object_and_whether_it_is_gone():
    """A list's item, a change and a deletion are told as they came; nothing is returned for kopf to patch."""
    heard: list[Any] = []
    handlers = {h.id: h.fn for h in registry(heard)._watching.get_all_handlers()}
    for kind, event in (("tuningjobs", None), ("jobs", "MODIFIED"), ("pods", "DELETED")):
        told = {"type": event, "object": {"metadata": {"name": kind}}}
        assert asyncio.run(handlers[kind](event=told, logger=logging.getLogger())) is None
    assert heard == [
        ("tuningjob", "tuningjobs", False),
        ("job", "jobs", False),
        ("pod", "pods", True),
    ]


@pytest.mark.parametrize(
    ("header", "scheme", "token"),
    [("bearer abc\n", "bearer", "abc"), ("abc", None, "abc"), (None, None, None)],
)
def test_credentials_are_those_of_the_official_client(header, scheme, token):
    """Server, CA, certificate and token come from one place, with or without the token's scheme."""
    configuration = SimpleNamespace(
        host="https://10.0.0.1:443",
        ssl_ca_cert="/ca",
        verify_ssl=True,
        username="",
        password="",
        cert_file="/cert",
        key_file="/key",
        proxy=None,
        get_api_key_with_prefix=lambda name, alias: header,
    )
    found = credentials(configuration)
    assert (found.server, found.ca_path, found.insecure) == ("https://10.0.0.1:443", "/ca", False)
    assert (found.scheme, found.token) == (scheme, token)
    assert (found.certificate_path, found.private_key_path) == ("/cert", "/key")
    assert found.username is None
