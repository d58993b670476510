"""The parts of the node agent that need neither root nor a cluster."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from tests.support.process_nodes.__main__ import parser
from tests.support.process_nodes.api import expand, quantity, spawn
from tests.support.process_nodes.content import Content
from tests.support.process_nodes.services import NameServer, Services


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("500m", 0.5), ("1Ki", 1024), ("32Gi", 32 * 2**30), (4, 4), ("1.5M", 1.5e6)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text, number):
    """Binary and decimal suffixes, and milli."""
    assert quantity(text) == number


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$A ${A}", "$A ${A}"),
    ],
)
def test_variables_are_expanded_as_the_kubelet_does(text, result):
    """Unknown names and doubled dollars stay; a shell's forms are not ours."""
    assert expand(text, {"A": "1"}) == result


def test_an_error_in_the_background_is_told(capsys):
    """A task that nobody awaits does not fail silently."""

    async def bad() -> None:
        raise OSError("broken")

    async def start() -> None:
        spawn(bad())

    asyncio.run(start())
    assert "broken" in capsys.readouterr().err


class World:
    """Services and EndpointSlices without an API server."""

    def __init__(self) -> None:
        self.services = Services(api=None, network=None)

    def add(self, name: str, cluster_ip: str, *endpoints: tuple[str, str, bool]) -> None:
        """Add a Service with (address, host name, ready) endpoints on port 8080."""
        meta = {"namespace": "ns", "name": name}
        self.services.services["ns", name] = {
            "metadata": meta,
            "spec": {"clusterIP": cluster_ip, "ports": [{"port": 80}]},
        }
        listed = [
            {"addresses": [a], "hostname": h, "conditions": {"ready": ready}}
            for a, h, ready in endpoints
        ]
        self.services.slices["ns", name + "-x"] = {
            "metadata": meta | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}],
            "endpoints": listed,
        }


def ask(services: Services, name: str) -> tuple[int, list[str]]:
    """Return (response code, addresses) of a DNS query for an A record."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = b"\x12\x34" + struct.pack(">5H", 0x0100, 1, 0, 0, 0) + labels + b"\0\0\x01\0\x01"
    answer = NameServer(services).answer(query)
    assert answer[:2] == query[:2]
    code, count = answer[3] & 15, int.from_bytes(answer[6:8], "big")
    records = answer[len(query) :]
    return code, [socket.inet_ntoa(records[16 * i + 12 : 16 * i + 16]) for i in range(count)]


def test_a_service_name_resolves_to_its_cluster_ip():
    """A name in the cluster's zone has the Service's address; an unknown one does not exist."""
    world = World()
    world.add("web", "10.0.0.7", ("10.200.1.1", "", True))
    assert ask(world.services, "web.ns.svc.cluster.local") == (0, ["10.0.0.7"])
    assert ask(world.services, "WEB.ns.svc.cluster.local") == (0, ["10.0.0.7"])
    assert ask(world.services, "other.ns.svc.cluster.local") == (3, [])
    assert ask(world.services, "example.org") == (3, [])


def test_a_headless_service_resolves_to_its_ready_pods():
    """Pods that are not ready are left out; each host name is one pod."""
    world = World()
    world.add("ha", "None", ("10.200.1.1", "ha-0", True), ("10.200.1.2", "ha-1", False))
    assert ask(world.services, "ha.ns.svc.cluster.local") == (0, ["10.200.1.1"])
    assert ask(world.services, "ha-0.ha.ns.svc.cluster.local") == (0, ["10.200.1.1"])
    assert world.services.backends(("ns", "ha"), None) == [("10.200.1.1", 8080)]


@pytest.fixture
def content() -> Content:
    """A pod's content whose agent knows the users of one image."""
    made = Content()
    made.agent = type("Agent", (), {"image_users": {"ours:1": "65532:65532"}})()
    made.name, made.ns, made.uid, made.spec = "p", "ns", "u", {}
    return made


def test_the_user_comes_from_the_container_then_the_pod_then_the_image(content):
    """The nearest setting wins, and fsGroup is a group of the process."""
    content.spec = {"securityContext": {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 7}}
    container = {"name": "c", "image": "ours:1", "securityContext": {"runAsUser": 9}}
    assert content.user(container) == {"uid": 9, "gid": 6, "groups": [7]}
    content.spec = {}
    assert content.user({"name": "c", "image": "ours:1"})["uid"] == 65532
    assert content.user({"name": "c", "image": "other:1"})["uid"] == 0


@pytest.mark.parametrize("pod", [{"runAsNonRoot": True}, {"runAsNonRoot": True, "runAsUser": 0}])
def test_root_is_refused_where_the_pod_forbids_it(content, pod):
    """A container that would run as root under runAsNonRoot never starts."""
    content.spec = {"securityContext": pod}
    with pytest.raises(LookupError, match="root"):
        content.user({"name": "c", "image": "other:1"})


def test_the_command_line_names_images_several_times():
    """--image, --image-root and --image-user may be repeated."""
    flags = ["--kubeconfig", "k", "--root", "r", "--image", "a=x", "--image", "b=y z"]
    assert parser().parse_args(flags).image == ["a=x", "b=y z"]
