"""One POST to the tracker, by the standard library's own HTTP client. Proxies are not asked."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from foretune.contract import REPORTS_PATH

REPLY_LIMIT: Final = 64 * 1024
"""Bytes of an answer that are read."""


class UnreachableError(Exception):
    """There was no answer: refused, timed out, or not HTTP."""


@dataclass(frozen=True)
class Answer:
    """What the tracker said."""

    status: int
    body: dict[str, Any]
    """Empty for anything that is not a JSON object."""
    retry_after_s: float | None = None
    """Seconds to leave before the next try, or None."""


@dataclass(frozen=True)
class Transport:
    """Where reports go, and with which token."""

    url: str
    """Base URL of the tracker."""
    token_file: str | None = None
    """Read anew for each request, since kubelets rotate it."""
    ca_file: str | None = None

    def post(self, body: bytes, timeout_s: float) -> Answer:
        """Send a body of reports; raises `UnreachableError`."""
        try:
            return self._post(body, timeout_s)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.url}: {error or type(error).__name__}") from error

    def _post(self, body: bytes, timeout_s: float) -> Answer:
        parts = urlsplit(self.url)
        host, path = parts.hostname or "", parts.path.rstrip("/") + REPORTS_PATH
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca_file)
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json"}
        if self.token_file:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After") or ""
            return Answer(
                status=response.status,
                body=_json_object(response.read(REPLY_LIMIT)),
                retry_after_s=float(after) if after.isdigit() else None,
            )
        finally:
            connection.close()


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
