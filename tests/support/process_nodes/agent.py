"""The nodes, the agent that runs their pods, and its HTTP services: logs for the API server, faults for the tests."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from .api import MERGE, Api, now, spawn
from .isolate import isolate, reap
from .network import HostNetwork, PodNetwork, certificate_covers
from .pod import Pod
from .probes import ENTER
from .services import Services

if TYPE_CHECKING:
    from typing import Any


def is_ready(node: dict[str, Any]) -> bool:
    """Returns whether the control plane takes a node for ready."""
    conditions = node.get("status", {}).get("conditions") or []
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


class Node:
    """One node: its heartbeat, its capacity, and which of its GPUs are free."""

    def __init__(self, agent: Any, name: str) -> None:
        self.agent, self.name, self.up, self.capacity = agent, name, True, dict(agent.capacity)
        self.free_gpus = set(range(int(self.capacity.get("nvidia.com/gpu", 0))))

    async def live(self) -> None:
        """Registers the node and renews its Lease for ever, except while it is down."""
        api, lease = (
            self.agent.api,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        )
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **self.agent.labels,
        }
        await api(
            "POST",
            "/api/v1/nodes",
            {"metadata": {"name": self.name, "labels": labels}, "status": self.status()},
        )
        await self.report()
        while True:
            if self.up:
                body = {
                    "metadata": {"name": self.name},
                    "spec": {
                        "holderIdentity": self.name,
                        "leaseDurationSeconds": 10,
                        "renewTime": now(".%f"),
                    },
                }
                await api("PATCH", f"{lease}/{self.name}", body, MERGE) or await api(
                    "POST", lease, body
                )
                # The control plane marks a node that it could not hear of, by no fault of the node's too.
                known = await api("GET", f"/api/v1/nodes/{self.name}")
                if known and not is_ready(known):
                    await self.report()
            await asyncio.sleep(2)

    async def report(self) -> None:
        """Writes the node's status to the API server."""
        await self.agent.api(
            "PATCH", f"/api/v1/nodes/{self.name}/status", {"status": self.status()}, MERGE
        )

    def status(self) -> dict[str, Any]:
        """Returns the node's status: Ready, with its capacity and the port of its logs."""
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }
        others = [
            dict(ready, type=t, status="False", reason="Ok")
            for t in ("MemoryPressure", "DiskPressure", "PIDPressure")
        ]
        info = dict.fromkeys(
            ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion"),
            "",
        )
        return {
            "capacity": self.capacity,
            "allocatable": self.capacity,
            "conditions": [ready, *others],
            "addresses": [
                {"type": "InternalIP", "address": self.agent.network.host_ip},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.agent.log_port}},
            "nodeInfo": info
            | {
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": "v1.36.0",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }


class Agent:
    """Runs the pods of all its nodes."""

    def __init__(self, args: Any) -> None:
        self.args, self.root, self.api, self.pods, self.bad_images = (
            args,
            Path(args.root).resolve(),
            Api(args.kubeconfig),
            {},
            [],
        )
        self.capacity = {"pods": "500"} | dict(x.split("=", 1) for x in args.capacity.split(","))
        self.labels = dict(x.split("=", 1) for x in args.labels.split(",") if x)
        self.images = {k: shlex.split(v) for k, v in (x.split("=", 1) for x in args.image)}
        self.image_roots, self.image_users = (
            dict(x.split("=", 1) for x in xs) for xs in (args.image_root, args.image_user)
        )
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2
        )

    async def choose_network(self) -> None:
        """Pods get namespaces of their own where that is asked for or possible."""
        self.network, self.api_for_pods = (
            HostNetwork(),
            (self.api.server.hostname, self.api.server.port),
        )
        if self.args.network == "host":
            return
        try:
            service = await self.api("GET", "/api/v1/namespaces/default/services/kubernetes")
            ranges = await self.api("GET", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
            self.network = PodNetwork(
                self.args.pod_range, next(r for r in ranges["spec"]["cidrs"] if "." in r)
            )
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"no network namespaces for pods here ({error}); they need root and the ip command (iproute2)"
            if self.args.network == "pods":
                sys.exit(message)
            print(
                f"{message}: all pods share this machine's network, Services do not work (--network host)",
                file=sys.stderr,
            )
            return
        host = service["spec"]["clusterIP"]
        covered = await certificate_covers(self.api.server, self.api.tls, host)
        self.api_for_pods = (
            host if covered else "kubernetes.default.svc",
            service["spec"]["ports"][0]["port"],
        )

    async def main(self) -> Any:
        """Serves until a signal comes or a part of it fails."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self.choose_network()
        try:
            work = [asyncio.create_task(w) for w in (self.serve(), reap(), stop.wait())]
            if self.network.gateway:
                work.append(asyncio.create_task(Services(self.api, self.network).run()))
            for done in asyncio.as_completed(work):
                return await done  # a signal, or an error
        finally:
            self.network.close()

    async def serve(self) -> None:
        """Opens the log and fault servers, says READY, and follows the pods bound to a node."""
        tls, pair = (
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
            (self.root / "kubelet.crt", self.root / "kubelet.key"),
        )
        subprocess.run(  # noqa: ASYNC221 - before anything is served
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=process-kubelet",
                "-out",
                pair[0],
                "-keyout",
                pair[1],
            ],
            check=True,
            capture_output=True,
        )
        tls.load_cert_chain(*pair)
        logs = await asyncio.start_server(self.http, self.network.host_ip, 0, ssl=tls)
        control = await asyncio.start_server(self.http, "127.0.0.1", self.args.control_port)
        self.log_port = logs.sockets[0].getsockname()[1]
        self.nodes = {
            n.name: n
            for n in (Node(self, f"{self.args.prefix}{i}") for i in range(self.args.nodes))
        }
        self.beats = [asyncio.create_task(n.live()) for n in self.nodes.values()]
        print(f"READY control=http://127.0.0.1:{control.sockets[0].getsockname()[1]}", flush=True)
        async for kind, obj in self.api.watch("/api/v1/pods", fieldSelector="spec.nodeName!="):
            for o in obj if kind == "SYNC" else [obj]:
                self.seen(kind, o)
            for pod in [
                p
                for p in self.pods.values()
                if kind == "SYNC" and p.node.up and p.uid not in {o["metadata"]["uid"] for o in obj}
            ]:
                self.seen("DELETED", pod.obj)

    def seen(self, kind: str, obj: dict[str, Any]) -> None:
        """Takes in one event of a pod's watch: starts, updates or ends the pod."""
        uid, node = obj["metadata"]["uid"], self.nodes.get(obj["spec"]["nodeName"])
        pod, leaving, over = (
            self.pods.get(uid),
            obj["metadata"].get("deletionTimestamp"),
            obj["status"].get("phase") in ("Succeeded", "Failed"),
        )
        if not node or not node.up:
            return
        if kind == "DELETED":
            if pod:
                spawn(self.pods.pop(uid).end())
                shutil.rmtree(pod.dir, ignore_errors=True) if pod.task.done() else None
        elif pod or not over or leaving:
            pod = self.pods[uid] = pod or Pod(self, node, obj)
            pod.obj = obj
            if leaving and not pod.deleting:
                pod.deleting = True
                spawn(pod.delete())

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Logs for the API server (over TLS), faults for the tests (plain)."""
        try:
            _, target, _ = (await reader.readline()).decode().split(" ", 2)
            while (await reader.readline()).strip():
                pass
            query, parts = (
                dict(parse_qsl(urlsplit(target).query)),
                [p for p in urlsplit(target).path.split("/") if p],
            )
            if writer.get_extra_info("ssl_object"):
                await self.logs(writer, query, *parts[1:4])
            else:
                await self.fault(query, *parts)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
                )
        except Exception as e:
            writer.write(f"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n{e!r}\n".encode())
        finally:
            writer.close()

    def find(self, ns: str, name: str) -> Pod:
        """Returns the newest pod of this name; raises ValueError if there is none."""
        return max(
            (p for p in self.pods.values() if (p.ns, p.name) == (ns, name)), key=lambda p: p.started
        )

    async def logs(
        self,
        writer: asyncio.StreamWriter,
        query: dict[str, str],
        ns: str,
        name: str,
        container: str,
    ) -> None:
        """Answers a log request of the API server, to the end of the container if it follows."""
        pod, at = self.find(ns, name), 0
        file = (
            pod.dir
            / "containers"
            / container
            / f"{pod.state[container]['restartCount'] - (query.get('previous') == 'true')}.log"
        )
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        if file.exists() and "tailLines" in query:
            lines = file.read_bytes().splitlines(True)
            at = sum(map(len, lines[: max(0, len(lines) - int(query["tailLines"]))]))
        while True:
            running = container in pod.procs
            if file.exists():
                with file.open("rb") as f:
                    f.seek(at)
                    writer.write(more := f.read(int(query.get("limitBytes", -1))))
                    at += len(more)
            await writer.drain()
            if not running or query.get("follow") != "true":
                return
            await asyncio.sleep(0.2)

    async def fault(self, query: dict[str, str], verb: str, *rest: str) -> None:
        """Carries out one fault; raises for an unknown one or an object that is not there."""
        if verb == "evict":
            spawn(
                self.find(*rest).end(
                    "Evicted",
                    query.get("message", "The node was low on resource: memory."),
                    0,
                    "TerminationByKubelet",
                )
            )
        elif verb in ("kill", "oom"):
            pod = self.find(*rest[:2])
            pod.why.update({rest[2]: ("OOMKilled", "")} if verb == "oom" else {})
            os.killpg(pod.procs[rest[2]].pid, int(query.get("signal", 9)))
        elif verb == "image":
            self.bad_images = [query["bad"]] if query.get("bad") else []
        elif verb == "capacity":
            self.nodes[rest[0]].capacity.update(query)
            await self.nodes[rest[0]].report()
        elif verb == "node":
            node, node_up = self.nodes[rest[0]], rest[1] == "up"
            node.up, mine = node_up, [p for p in self.pods.values() if p.node is node]
            for pod in mine if rest[1] == "lost" else []:
                spawn(pod.end("NodeLost", "the node was lost", 0))
            if node_up:
                await node.report()
                live = {
                    o["metadata"]["uid"]: o
                    for o in (
                        await self.api(
                            "GET", "/api/v1/pods", fieldSelector=f"spec.nodeName={node.name}"
                        )
                    )["items"]
                }
                for pod in mine:
                    await pod.report(**pod.final) if pod.uid in live else self.seen(
                        "DELETED", pod.obj
                    )
                for obj in live.values():
                    self.seen("MODIFIED", obj)
        else:
            raise ValueError(verb)


def run(args: Any) -> None:
    """Checks that this machine can do it, then runs the agent until it is told to end."""
    try:
        Path(args.root, "probe").mkdir(parents=True, exist_ok=True)
        isolate()
        spec = Path(args.root, "probe", "spec.json").resolve()
        spec.write_text(
            json.dumps(
                {
                    "argv": ["true"],
                    "env": {"PATH": args.path},
                    "cwd": "/",
                    "lower": "/",
                    "open": args.open,
                    "work": str(spec.parent),
                    "mounts": [],
                    "readonly": False,
                    "uid": 0,
                    "gid": 0,
                    "groups": [],
                    "no_new_privileges": False,
                    "net": None,
                    "hostname": "probe",
                }
            )
        )
        subprocess.run([*ENTER, str(spec), "2"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"this agent needs root and a machine that allows mount and PID namespaces with overlays: {error}"
        )
    asyncio.run(Agent(args).main())
    os._exit(0)  # as PID 1: all containers end too
