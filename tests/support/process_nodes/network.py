"""Where pods get their addresses: PodNetwork (a network namespace per pod) or HostNetwork (the machine's own).

PodNetwork keeps its bridge in a network namespace of its own, the hub. Only two things are on the machine itself: the
interface pkN, a port of that bridge, and the route of the Services' range over it. The namespaces have no names; they live
as long as the agent holds their descriptors, so the kernel removes them and all interfaces with the agent, even on SIGKILL.

    pod (eth0, 10.200.1.1) --veth-- hub (bridge, gateway 10.200.0.1, all ClusterIPs are local) --veth-- machine (pkN, 10.200.0.2)
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from . import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


PREFIX = "pk"  # of the interface on the machine
SLOTS = 32  # agents at once on one machine


def inside(namespace: int | None, function: Callable[[], Any]) -> Future[Any]:
    """Function's result, run by a thread that is in the network namespace of this descriptor (None: a new one)."""
    result = Future()

    def work() -> None:
        try:
            kernel.unshare(kernel.NEWNET) if namespace is None else kernel.setns(
                namespace, kernel.NEWNET
            )
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return result


def ip(*lines: str) -> None:
    """Runs lines of the ip command as one batch; raises OSError with its message."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()} (of {lines})")


def this_namespace() -> int:
    """Returns a descriptor of this thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def path(descriptor: int) -> str:
    """Returns the path under which other processes reach a descriptor of ours."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


class HostNetwork:
    """No namespaces. All of 127/8 is this machine: servers on 0.0.0.0 are reached, and servers on their pod's IP do not collide."""

    host_ip, gateway, hub = "127.0.0.1", None, None

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def next_ip(self) -> str:
        """Returns a loopback address that no pod had lately."""
        count = next(self.count)
        return f"127.77.{count >> 8 & 255}.{count & 255}"

    async def attach(self, address: str) -> None:
        """Does nothing: pods have this machine's network."""
        return

    def close(self) -> None:
        """Has nothing to remove."""


class PodNetwork:
    """A network namespace per pod, on a bridge in a namespace of our own."""

    def __init__(self, first_range: str, service_range: str) -> None:
        """Raises OSError where the machine does not allow it."""
        taken = [
            ipaddress.ip_network(line.split()[0])
            for line in subprocess.run(
                ["ip", "-4", "route", "show", "table", "all", "type", "unicast"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.splitlines()
            if line[0].isdigit() and f"dev {PREFIX}" not in line
        ]
        self.range = self.claim(ipaddress.ip_network(first_range), taken)
        self.gateway, self.host_ip = str(self.range[1]), str(self.range[2])
        self.free, self.width = itertools.count(257), self.range.prefixlen
        self.machine, self.device = this_namespace(), f"{PREFIX}{self.slot}"
        self.hub = inside(None, this_namespace).result()
        inside(
            self.hub,
            lambda: ip(
                "link set lo up",
                "link add br0 address 02:00:00:00:00:01 type bridge",
                f"addr add {self.gateway}/{self.width} dev br0",
                "link set br0 up",
                f"route add local {service_range} dev lo",
                f"link add port0 master br0 up type veth peer name {self.device} netns {path(self.machine)}",
            ),
        ).result()
        ip(f"addr add {self.host_ip}/{self.width} dev {self.device}", f"link set {self.device} up")
        self.services_from_machine = not any(
            ipaddress.ip_network(service_range).overlaps(t) for t in taken
        )
        try:
            ip(
                f"route add {service_range} via {self.gateway}"
            ) if self.services_from_machine else None
        except OSError:
            self.services_from_machine = False
        if not self.services_from_machine:
            print(
                f"{service_range} is in use on this machine: Services are reached from pods only "
                "(another range: --arg apiserver:--service-cluster-ip-range=... of the control plane)",
                file=sys.stderr,
            )

    def claim(self, first: Any, taken: list[Any]) -> Any:
        """The first range that no other agent has (each holds an abstract socket) and no route of this machine; removes leftovers of dead agents."""
        found = None
        for slot in range(SLOTS):
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0process-kubelet-{slot}")
            except OSError:
                continue
            subprocess.run(
                ["ip", "link", "del", f"{PREFIX}{slot}"], capture_output=True, check=False
            )
            mine = ipaddress.ip_network(
                (int(first.network_address) + slot * first.num_addresses, first.prefixlen)
            )
            if found is None and not any(mine.overlaps(t) for t in taken):
                found, self.slot, self.lock = mine, slot, lock
            else:
                lock.close()
        if found is None:
            raise OSError(f"no free range from {first} on")
        return found

    def next_ip(self) -> str:
        """Returns an address that no pod had lately."""
        return str(self.range[next(self.free) % (self.range.num_addresses - 1)])

    async def attach(self, address: str) -> int:
        """The descriptor of a new network namespace with this address."""
        name = f"v{int(ipaddress.ip_address(address)) & 0xFFFFFF:x}"

        def build() -> int:
            pod = this_namespace()
            try:
                ip(
                    "link set lo up",
                    f"link add eth0 type veth peer name {name} netns {path(self.hub)}",
                    f"addr add {address}/{self.width} dev eth0",
                    "link set eth0 up",
                    f"route add default via {self.gateway}",
                )
                kernel.setns(self.hub, kernel.NEWNET)
                ip(f"link set {name} master br0 up")
            except OSError:
                os.close(pod)
                raise
            return pod

        return await asyncio.wrap_future(inside(None, build))

    def socket(self, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket in the hub, bound to (address, port)."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            return made

        return inside(self.hub, make).result()

    def close(self) -> None:
        """Removes the interface on the machine, and with it the route."""
        subprocess.run(["ip", "link", "del", self.device], capture_output=True, check=False)


async def certificate_covers(api_server: Any, tls: Any, name: str) -> bool:
    """Returns whether the API server's certificate is valid for this name."""
    try:
        _, writer = await asyncio.open_connection(
            api_server.hostname, api_server.port, ssl=tls, server_hostname=name
        )
    except ssl.SSLCertVerificationError:
        return False
    writer.close()
    return True
