"""The cluster of the tests does what a cluster does, so that a failure elsewhere is our own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.support.cluster import Cluster, wait_for

pytestmark = pytest.mark.cluster


def pod(name: str, *command: str, **more: object) -> dict:
    """Return a pod of one container."""
    container = {"name": "main", "image": "example.org/any:1", "command": list(command)}
    container |= more.pop("container", {})
    spec = {"restartPolicy": "Never", "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def ended(cluster: Cluster, name: str) -> dict:
    """Return the terminated state of a pod's container once it is there."""

    def probe() -> dict | None:
        statuses = (cluster.get("pod", name) or {}).get("status", {}).get("containerStatuses")
        return statuses and statuses[0]["state"].get("terminated")

    return wait_for(f"pod {name} to end", probe)


def test_the_nodes_have_gpus(cluster):
    """Two nodes are Ready, each with four GPUs to give away."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [n["status"]["allocatable"]["nvidia.com/gpu"] for n in nodes] == ["4", "4"]


def test_a_job_completes_and_goes_after_its_ttl(cluster):
    """A Job's pod runs as a process, its end is read back, and its TTL removes both."""
    template = pod("x", "sh", "-c", "echo done >/dev/termination-log; echo hello")
    spec = {"template": {"spec": template["spec"]}, "backoffLimit": 0}
    cluster.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": spec}
    )
    cluster.wait_condition("job", "one", "Complete")
    (found,) = cluster.items("pods", selector="batch.kubernetes.io/job-name=one")
    state = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["exitCode"], state["message"]) == (0, "done\n")
    assert cluster.kubectl("logs", found["metadata"]["name"]) == "hello\n"
    cluster.kubectl("patch", "job", "one", "-p", '{"spec": {"ttlSecondsAfterFinished": 0}}')
    wait_for("the Job to go", lambda: cluster.get("job", "one") is None)
    wait_for("its pod to go", lambda: not cluster.items("pods"))


def test_a_user_without_rights_can_start_the_interpreter_of_the_tests(cluster):
    """Our .venv works for uid 65532 in a container, even if it lies below a folder closed to others."""
    code = (
        "import os, yaml; open('/dev/termination-log', 'w').write(f'{os.getuid()} {os.getcwd()}')"
    )
    user = {"runAsUser": 65532, "runAsNonRoot": True, "fsGroup": 65532}
    python = str(Path(sys.prefix) / "bin" / "python")
    cluster.apply(pod("own", python, "-c", code, securityContext=user))
    state = ended(cluster, "own")
    assert (state["exitCode"], state["message"]) == (0, "65532 /"), state


def test_a_killed_container_is_started_again(cluster):
    """The kill fault ends a container with SIGKILL; under restartPolicy Always it comes back."""
    cluster.apply(pod("again", "sleep", "1000", restartPolicy="Always"))
    cluster.wait_condition("pod", "again", "Ready")
    cluster.fault("/kill/default/again/main?signal=9")

    def back() -> dict | None:
        status = cluster.get("pod", "again")["status"]["containerStatuses"][0]
        return status if status["restartCount"] == 1 and "running" in status["state"] else None

    assert wait_for("the restart", back)["lastState"]["terminated"]["exitCode"] == 137
    cluster.kubectl("delete", "pod", "again", "--grace-period=1")


def test_a_node_says_that_it_is_ready_again(cluster):
    """A node that was marked as silent while the control plane was away is soon Ready again."""
    conditions = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]
    change = json.dumps({"status": {"conditions": conditions}})
    patch = ("patch", "node", "node-0", "--subresource=status", "--type=merge", "-p", change)
    cluster.kubectl(*patch)
    cluster.wait_condition("node", "node-0", "Ready")


def test_a_pod_that_asks_for_too_many_gpus_waits(cluster):
    """The scheduler counts GPUs: five on one node are never to be had."""
    limits = {"container": {"resources": {"limits": {"nvidia.com/gpu": 5}}}}
    cluster.apply(pod("greedy", "true", **limits))
    found = cluster.wait_condition("pod", "greedy", "PodScheduled", status="False")
    (condition,) = found["status"]["conditions"]
    assert "2 Insufficient nvidia.com/gpu" in condition["message"]
    cluster.kubectl("delete", "pod", "greedy")


def test_a_service_answers_from_a_pod_and_from_this_machine(cluster):
    """A Service's name resolves in pods, and its ClusterIP is reached from the machine."""
    server = (
        "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080, bind='0.0.0.0')"
    )
    web = pod("web", sys.executable, "-c", server)
    web["metadata"]["labels"] = {"app": "web"}
    port = {"port": 80, "targetPort": 8080}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    cluster.apply(web, service | {"spec": {"selector": {"app": "web"}, "ports": [port]}})
    address = cluster.get("service", "web")["spec"]["clusterIP"]
    ask = "import urllib.request as u; print(u.urlopen('http://{}/', timeout=5).status)"

    def from_here() -> bool:
        done = cluster.run([sys.executable, "-c", ask.format(address)])
        assert done[0] == 0, done[2]
        return True

    wait_for("the ClusterIP to answer", from_here)
    cluster.apply(pod("client", sys.executable, "-c", ask.format("web.default.svc")))
    assert ended(cluster, "client")["exitCode"] == 0, cluster.kubectl("logs", "client")
    cluster.kubectl("delete", "pod", "web", "client", "--grace-period=1")
