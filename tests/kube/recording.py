"""Records what the API server tells of trials' Jobs and pods, for the tests of order.

    python -m tests.kube.recording

writes tests/data/kube/streams.json: for each way to end, the events of both watches in the order in which
they came. Needs the control plane and process nodes (root).
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import urllib3
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config
from tests.kube.cases import IMAGE, SDK_IMAGE, job_of, request_of
from tests.support.cluster import Cluster, running_cluster, wait_for

from foretune.adapters.kube.client import KubeApi
from foretune.adapters.kube.resources import JOBS, PODS, Resource
from foretune.adapters.kube.template import build_job

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS: Final = Path(__file__).parents[1] / "data" / "kube" / "streams.json"


@functools.cache
def recorded() -> dict[str, list[dict[str, Any]]]:
    """Return the recorded events by scenario; shared, so change copies only."""
    streams: dict[str, list[dict[str, Any]]] = json.loads(STREAMS.read_text())
    return streams


def bodies(scenario: str, resource: str) -> list[dict[str, Any]]:
    """Return the recorded states of a scenario's Job, or of its pods, oldest first."""
    return [e["object"] for e in recorded()[scenario] if e["resource"] == resource]


def configuration(cluster: Cluster) -> Configuration:
    """Return how to reach a test's cluster."""
    made = Configuration()
    load_kube_config(str(cluster.kubeconfig), client_configuration=made)
    return made


@dataclass
class Watch:
    """Both watches of a namespace, in one list of events."""

    api: KubeApi
    namespace: str
    events: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, resource: Resource) -> None:
        """Start the watch of one kind."""
        threading.Thread(target=self._follow, args=(resource,), daemon=True).start()

    def _follow(self, resource: Resource) -> None:
        client = self.api._client
        path = resource.path(namespace=self.namespace)
        query = [("watch", "true"), ("labelSelector", "foretune.io/job")]
        _, url, headers, _, _ = client.param_serialize(
            "GET", path, query_params=query, header_params={}, auth_settings=["BearerToken"]
        )
        stream = client.rest_client.pool_manager.request(
            "GET", url, headers=headers, preload_content=False, timeout=urllib3.Timeout(read=600)
        )
        rest = b""
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # the server ends before we do
            for chunk in stream.stream(4096, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    self._note(resource, json.loads(line))

    def _note(self, resource: Resource, event: dict[str, Any]) -> None:
        body = slimmed(event["object"])
        with self.lock:
            self.events.append({"resource": resource.plural, "type": event["type"], "object": body})

    def of(self, job: str) -> list[dict[str, Any]]:
        """Return the events of one Job and its pods."""
        with self.lock:
            return [e for e in self.events if job in e["object"]["metadata"]["name"]]


def slimmed(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what says nothing of a trial's life."""
    body["metadata"].pop("managedFields", None)
    holder = body["spec"].get("template", body)
    for meta in (body["metadata"], holder.get("metadata", {})):
        meta.get("annotations", {}).pop("foretune.io/trial-config", None)
    pod = holder["spec"]
    keep = ("name", "image", "resources")
    kept = {name: pod[name] for name in ("nodeName",) if name in pod}
    for kind in ("containers", "initContainers"):
        if kind in pod:
            kept[kind] = [{k: one[k] for k in keep if k in one} for one in pod[kind]]
    holder["spec"] = kept
    return body


def text_of(streams: dict[str, list[dict[str, Any]]]) -> str:
    """Return streams as JSON, an event a line."""
    parts = []
    for scenario, events in streams.items():
        lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
        parts.append(f"{json.dumps(scenario)}: [\n{lines}\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


SLEEP: Final = "sleep 600 & wait $!"


@dataclass
class Stage:
    """What a scenario may do."""

    cluster: Cluster
    api: KubeApi
    watch: Watch
    name: str

    def pods(self) -> list[dict[str, Any]]:
        """Return the attempt's pods, oldest first."""
        found, _ = self.api.list(PODS, namespace="default", selector=f"job-name={self.name}")
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def running(self, count: int = 1) -> dict[str, Any]:
        """Wait until the newest of `count` pods runs."""

        def probe() -> dict[str, Any] | None:
            live = [pod for pod in self.pods() if pod["status"].get("phase") == "Running"]
            return live[-1] if len(self.uids()) >= count and live else None

        return wait_for(f"pod {count} of {self.name}", probe)

    def uids(self) -> set[str]:
        """Return the uids of every pod that the watch has shown."""
        return {
            e["object"]["metadata"]["uid"]
            for e in self.watch.of(self.name)
            if e["resource"] == "pods"
        }

    def patch(self, **spec: Any) -> None:
        """Change the Job's spec."""
        self.api.patch(JOBS, self.name, {"spec": spec}, namespace="default")

    def evict(self) -> None:
        """Evict the running pod for want of memory."""
        self.cluster.fault(f"/evict/default/{self.running()['metadata']['name']}")

    def drain(self) -> None:
        """Evict the running pod as `kubectl drain` does."""
        pod = self.running()["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/default/pods/{pod}/eviction"
        self.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def delete_pod(self, *flags: str) -> None:
        """Delete the running pod by hand."""
        pod = self.running()["metadata"]["name"]
        self.cluster.kubectl("delete", "pod", pod, "--wait=false", *flags)


def _evicted(stage: Stage) -> None:
    stage.evict()
    stage.running(2)
    stage.cluster.fault(f"/kill/default/{stage.running(2)['metadata']['name']}/trainer?signal=9")


def _oom(stage: Stage) -> None:
    stage.cluster.fault(f"/oom/default/{stage.running()['metadata']['name']}/trainer")


def _suspended(stage: Stage) -> None:
    stage.running()
    stage.patch(suspend=True)
    wait_for("the pod to go", lambda: not stage.pods())
    stage.patch(suspend=False)
    stage.cluster.fault(f"/kill/default/{stage.running(2)['metadata']['name']}/trainer?signal=9")


def _replaced(stage: Stage) -> None:
    stage.delete_pod()
    stage.cluster.fault(f"/kill/default/{stage.running(2)['metadata']['name']}/trainer?signal=9")


def _nothing(stage: Stage) -> None:
    del stage


TRAP: Final = "trap 'exit {}' TERM; " + SLEEP
SCENARIOS: Final[dict[str, tuple[str, dict[str, Any], Callable[[Stage], None]]]] = {
    "complete": ("echo accuracy=0.5", {}, _nothing),
    "error": ("echo boom; exit 1", {}, _nothing),
    "bad-config": ("exit 64", {}, _nothing),
    "diverged": ("exit 79", {}, _nothing),
    "no-program": ("", {"command": ("/no/such/program",)}, _nothing),
    "deadline": (SLEEP, {"timeout_s": 5.0}, _nothing),
    "out-of-memory": (SLEEP, {}, _oom),
    "evicted": (SLEEP, {}, _evicted),
    "drained-with-zero": (TRAP.format(0), {}, lambda stage: stage.drain()),
    "pod-deleted": (TRAP.format(143), {}, _replaced),
    "pod-deleted-with-zero": (TRAP.format(0), {}, lambda stage: stage.delete_pod()),
    "pod-killed": (
        "trap '' TERM; while :; do sleep 0.1; done",
        {},
        lambda stage: stage.delete_pod("--grace-period=1"),
    ),
    "suspended": (TRAP.format(143), {}, _suspended),
    "leaves-by-itself": ("exit 75", {"timeout_s": 12.0}, _nothing),
}


def play(stage: Stage, number: int, scenario: str) -> list[dict[str, Any]]:
    """Run one scenario to the end of its Job and return its events."""
    code, options, act = SCENARIOS[scenario]
    job = job_of(code, **options)
    request = request_of(job, index=number)
    body = build_job(
        request, report_url="http://127.0.0.1:1", trainer_image=IMAGE, sdk_image=SDK_IMAGE
    )
    stage.api.create(JOBS, body, namespace="default")
    act(stage)

    def over() -> bool:
        jobs = [e["object"] for e in stage.watch.of(stage.name) if e["resource"] == "jobs"]
        ends = [c for job in jobs for c in job["status"].get("conditions", ())]
        return any(
            end["type"] in ("Complete", "Failed") and end["status"] == "True" for end in ends
        )

    wait_for(f"the end of {scenario}", over)
    return stage.watch.of(stage.name)


def record(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """Run every scenario, all at once, and return their events."""
    api = KubeApi(configuration(cluster), qps=1000, burst=1000)
    watch = Watch(api, "default")
    for resource in (JOBS, PODS):
        watch.follow(resource)
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        playing = {}
        for number, scenario in enumerate(SCENARIOS):
            stage = Stage(cluster, api, watch, request_of(job_of(""), index=number).name)
            playing[scenario] = pool.submit(play, stage, number, scenario)
    return {scenario: events.result() for scenario, events in playing.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as started:
        STREAMS.parent.mkdir(parents=True, exist_ok=True)
        STREAMS.write_text(text_of(record(started)))
