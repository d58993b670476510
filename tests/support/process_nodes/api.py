"""The API server's client, and small helpers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from typing import Any


MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


def now(micro: str = "") -> str:
    """Returns the time as Kubernetes writes it, with microseconds if asked."""
    return datetime.now(UTC).strftime(f"%Y-%m-%dT%H:%M:%S{micro}Z")


ATTEMPTS = 1000
"""Of a request during an outage, about 50 minutes."""

TASKS = set()
"""Tasks that nobody awaits; the event loop itself holds only weak references."""


def spawn(work: Coroutine[Any, Any, Any]) -> None:
    """Runs a coroutine in the background; an error of it is printed."""
    task = asyncio.ensure_future(work)
    TASKS.add(task)
    task.add_done_callback(_ended)


def _ended(task: Any) -> None:
    TASKS.discard(task)
    if not task.cancelled() and task.exception():
        print(f"in the background: {task.exception()!r}", file=sys.stderr)


def write(path: Path, data: bytes) -> None:
    """Writes a file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def expand(text: str, env: dict[str, str]) -> str:
    """Replaces $(NAME) by env's value as the kubelet does; $$(NAME) stays as $(NAME)."""
    return re.sub(r"\$(\$\([\w.-]+\))|\$\(([\w.-]+)\)", lambda m: m[1] or env.get(m[2], m[0]), text)


def quantity(text: Any) -> float:
    """Returns a Kubernetes quantity as a number: 1Ki is 1024.0, 100m is 0.1."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()
    return (
        float(number)
        * {
            "": 1,
            "m": 0.001,
            "k": 1e3,
            "M": 1e6,
            "G": 1e9,
            "T": 1e12,
            "Ki": 2**10,
            "Mi": 2**20,
            "Gi": 2**30,
            "Ti": 2**40,
        }[unit]
    )


class Api:
    """A client of the API server that waits out its outages."""

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        cluster = config["clusters"][0]["cluster"]
        self.tls = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        self.server = urlsplit(cluster["server"])
        self.http = httpx.AsyncClient(
            base_url=cluster["server"],
            verify=self.tls,
            timeout=20,
            limits=httpx.Limits(max_connections=100),
            headers={"Authorization": "Bearer " + config["users"][0]["user"]["token"]},
        )

    async def __call__(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        kind: str = "application/json",
        **params: str,
    ) -> Any:
        """The answer's object; None if it was refused (404, 409, 4xx). Outages are waited out."""
        for attempt in range(ATTEMPTS):
            try:
                r = await self.http.request(
                    method, path, params=params, headers={"Content-Type": kind}, json=body
                )
                if r.status_code != 429 and r.status_code < 500:
                    if r.is_error and r.status_code not in (404, 409):
                        print(f"{method} {path}: {r.status_code} {r.text[:300]}", file=sys.stderr)
                    return None if r.is_error else r.json()
            except httpx.TransportError:
                pass
            await asyncio.sleep(min(3, 0.1 * 2 ** min(attempt, 6)))
        raise TimeoutError(f"{method} {path}: no answer in {ATTEMPTS} attempts")

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Any]]:
        """Yields ("SYNC", [objects]) after each list, then (type, object) for each event, for ever."""
        while listed := await self("GET", path, **params):
            yield "SYNC", listed["items"]
            query = dict(params, watch="1", resourceVersion=listed["metadata"]["resourceVersion"])
            try:
                async with self.http.stream(
                    "GET", path, params=query, timeout=httpx.Timeout(20, read=None)
                ) as r:
                    async for line in r.aiter_lines():
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        yield event["type"], event["object"]
            except (httpx.TransportError, ValueError):
                pass
            await asyncio.sleep(0.5)
