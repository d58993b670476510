"""Services of the pod network: a TCP proxy on each ClusterIP and port, and a name server on the hub's gateway address."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


CONNECT_SECONDS = 1
ZONE = ["svc", "cluster", "local"]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one direction of a connection until it ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


class Services:
    """The proxies and the name server, kept as the API server's objects say."""

    def __init__(self, api: Any, network: Any) -> None:
        self.api, self.network = api, network
        self.services, self.slices, self.listeners, self.turn = {}, {}, {}, itertools.count()

    async def run(self) -> None:
        """Follows Services and EndpointSlices for ever."""
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: NameServer(self),
            sock=self.network.socket((self.network.gateway, 53), socket.SOCK_DGRAM),
        )
        await asyncio.gather(
            self.mirror("/api/v1/services", self.services),
            self.mirror("/apis/discovery.k8s.io/v1/endpointslices", self.slices),
        )

    async def mirror(self, path: str, store: dict[Any, Any]) -> None:
        """Keeps store like the objects of a path, and the listeners with it."""
        async for kind, obj in self.api.watch(path):
            if kind == "SYNC":
                store.clear()
            for o in obj if kind == "SYNC" else [obj]:
                key = o["metadata"]["namespace"], o["metadata"]["name"]
                store.pop(key, None) if kind == "DELETED" else store.update({key: o})
            await self.listen()

    def endpoints(
        self, key: tuple[str, str], port_name: str | None = None
    ) -> Iterator[tuple[str, int | None, str | None]]:
        """(address, port, host name) of each ready endpoint; port is None where the Service has none of this name."""
        namespace, name = key
        for (ns, _), piece in list(self.slices.items()):
            if (
                ns == namespace
                and (piece["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
                == name
                and piece["addressType"] == "IPv4"
            ):
                port = next(
                    (
                        p["port"]
                        for p in piece.get("ports") or []
                        if (p.get("name") or "") == (port_name or "")
                    ),
                    None,
                )
                for e in piece.get("endpoints") or []:
                    if (e.get("conditions") or {}).get("ready", True):
                        yield e["addresses"][0], port, e.get("hostname")

    def backends(self, key: tuple[str, str], port_name: str | None) -> list[tuple[str, int]]:
        """Returns the (address, port) pairs to which a Service's port leads."""
        if key == ("default", "kubernetes"):
            return [(self.api.server.hostname, self.api.server.port)]
        return [(address, port) for address, port, _ in self.endpoints(key, port_name) if port]

    async def listen(self) -> None:
        """One listener per ClusterIP and port that has ready endpoints; without one, connections are refused."""
        wanted = {}
        for key, service in self.services.items():
            spec = service["spec"]
            for port in spec.get("ports") or []:
                if (
                    spec.get("clusterIP") not in (None, "", "None")
                    and port.get("protocol", "TCP") == "TCP"
                    and self.backends(key, port.get("name"))
                ):
                    wanted[spec["clusterIP"], port["port"]] = (
                        key,
                        port.get("name"),
                        spec.get("sessionAffinity") == "ClientIP",
                    )
        for address in [a for a in self.listeners if self.listeners[a][0] != wanted.get(a)]:
            self.listeners.pop(address)[1].close()
        for address in wanted.keys() - self.listeners.keys():
            self.listeners[address] = (
                wanted[address],
                None,
            )  # taken before the await: two watches come here
            try:
                server = await asyncio.start_server(
                    lambda r, w, target=wanted[address]: self.serve(r, w, *target),
                    sock=self.network.socket(address),
                )
                self.listeners[address] = wanted[address], server
            except OSError as error:
                del self.listeners[address]
                print(f"service {wanted[address][0]}: {error}", file=sys.stderr)

    async def serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        key: tuple[str, str],
        port_name: str | None,
        sticky: bool,
    ) -> None:
        """Forwards a connection to the next endpoint that accepts it."""
        backends = sorted(self.backends(key, port_name))
        first = hash(writer.get_extra_info("peername")[0]) if sticky else next(self.turn)
        other = None
        try:
            for i in range(len(backends)):
                try:
                    there, other = await asyncio.wait_for(
                        asyncio.open_connection(*backends[(first + i) % len(backends)]),
                        CONNECT_SECONDS,
                    )
                    break
                except (TimeoutError, OSError):
                    continue
            if other:
                await asyncio.gather(pump(reader, other), pump(there, writer))
        except OSError:
            pass
        finally:
            for w in (writer, other):
                if w and not w.is_closing():
                    w.close()

    def resolve(self, labels: list[str]) -> list[str] | None:
        """The addresses of a name; None if there is no such name."""
        if labels[-3:] != ZONE or len(labels) not in (5, 6):
            return None
        *host, name, namespace = labels[:-3]
        service = self.services.get((namespace, name))
        if not service:
            return None
        if not host and service["spec"].get("clusterIP") not in (None, "", "None"):
            return [service["spec"]["clusterIP"]]
        found = list(
            {a for a, _, h in self.endpoints((namespace, name), None) if not host or h == host[0]}
        )
        random.shuffle(found)
        return found or None


class NameServer(asyncio.DatagramProtocol):
    """Answers UDP queries for A records."""

    def __init__(self, services: Any) -> None:
        self.services = services

    def connection_made(self, transport: Any) -> None:
        """Keeps the transport for the answers."""
        self.transport = transport

    def datagram_received(self, query: bytes, sender: Any) -> None:
        """Answers a query; what is no query gets no answer."""
        with contextlib.suppress(IndexError, ValueError):
            self.transport.sendto(self.answer(query), sender)

    def answer(self, query: bytes) -> bytes:
        """Returns the packet that answers a query."""
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode().lower())
            at += 1 + size
        kind, addresses = (
            int.from_bytes(query[at + 1 : at + 3], "big"),
            self.services.resolve(labels),
        )
        shown = addresses[:60] if addresses and kind in (1, 255) else []
        code = 0x8580 | (3 if addresses is None else 0)  # an authoritative answer; 3: no such name
        header = query[:2] + struct.pack(">5H", code, 1, len(shown), 0, 0) + query[12 : at + 5]
        return header + b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(a) for a in shown
        )
