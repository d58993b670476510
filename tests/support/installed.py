"""The chart, installed on the cluster of the tests: operator, tracker and suggestion service as pods.

Operator and tracker run from the root file system of their own image, the suggestion service and the
trials of the built-in trainer from the environment of the tests. Namespaces have Pod Security
"restricted". `installed` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import yaml
from scripts.build_images import IMAGES
from scripts.tools import Missing, tool
from tests.support.chart import CHART, NAMESPACE, RELEASE
from tests.support.cluster import (
    ROOT,
    Cluster,
    NotHereError,
    metric_lines,
    requirements,
    running_cluster,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.images import Built


TEAM: Final = "team-a"
"""Namespace of the TuningJobs."""

READER: Final = "reader"
"""Service account of `TEAM` with the rights of a viewer: somebody who looks at jobs."""

ACCOUNT: Final = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
"""The service account that the chart makes for its pod."""

PORTS: Final = {"operator": 9090, "tracker": 9091, "suggestion": 9092}
"""Container: port of its metrics and probes."""

RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}

AUDIT: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "Metadata"},
    ],
}
"""Every write, with who, when and what of, but not its content."""

VALUES: Final = {
    "persistence": {"storageClass": "-"},
    "podLabels": {"test": "e2e"},
}
"""No storage class: the claim is bound to the volume that `_prepare` makes."""


@dataclass(frozen=True)
class Write:
    """A write that the API server carried out."""

    verb: str
    resource: str
    """With the subresource, if any: `tuningjobs/status`."""
    namespace: str
    name: str
    user: str
    at: float
    """When it arrived, Unix seconds."""


@dataclass
class Installed:
    """A cluster with the release in it, and what a test asks of it."""

    cluster: Cluster
    helm: Path
    values: Path
    """The values that the tests install with."""
    audit: Path
    known: dict[str, str] = field(default_factory=dict)
    """Addresses and tokens that were asked for."""

    def run_helm(self, command: str, *args: str) -> str:
        """Return what `helm command RELEASE args` prints; raises `AssertionError` with its message."""
        words = [str(self.helm), command, RELEASE, *args, "--namespace", NAMESPACE]
        code, out, err = self.cluster.run(words)
        assert code == 0, f"helm {command}: {err.strip() or out.strip()}"
        return out

    def install(self) -> None:
        """Install the chart, and wait until all its processes are ready."""
        self.run_helm("install", str(CHART), "-f", str(self.values))
        self.wait_ready()

    # --- the release's pod -------------------------------------------------------------------

    def pod(self) -> dict[str, Any]:
        """Return the release's pod: the one that is not about to go."""
        found = self.cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=server")
        staying = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        assert len(staying) == 1, [pod["metadata"]["name"] for pod in found]
        return staying[0]

    def container(self, name: str) -> dict[str, Any]:
        """Return the status of a container of the release's pod."""
        statuses = self.pod()["status"].get("containerStatuses", [])
        found = [status for status in statuses if status["name"] == name]
        assert found, f"no status of container {name} yet"
        return found[0]

    def kill(self, name: str) -> int:
        """Kill a container's process with SIGKILL; returns how often it will have been restarted."""
        pod, before = self.pod()["metadata"]["name"], self.container(name)["restartCount"]
        self.cluster.fault(f"/kill/{NAMESPACE}/{pod}/{name}?signal=9")
        return int(before) + 1

    def wait_ready(self) -> dict[str, Any]:
        """Return the release's pod once all its containers are ready."""

        def probe() -> dict[str, Any] | None:
            pod = self.pod()
            statuses = pod["status"].get("containerStatuses", [])
            assert len(statuses) == len(PORTS), pod["status"]
            waiting = {s["name"]: s["state"] for s in statuses if not s["ready"]}
            assert not waiting, waiting
            return pod

        return wait_for("all containers of the release to be ready", probe)

    def wait_restarted(self, name: str, count: int) -> None:
        """Return once a container was restarted `count` times and its process runs."""

        def probe() -> bool:
            status = self.container(name)
            return bool(status["restartCount"] >= count and "running" in status["state"])

        wait_for(f"restart {count} of {name}", probe, every_s=0.05)

    # --- over HTTP, from this machine --------------------------------------------------------

    def address(self, service: str, namespace: str = NAMESPACE) -> str:
        """Return the ClusterIP of a Service; this machine reaches it."""
        key = f"{namespace}/{service}"
        if key not in self.known:
            found = self.cluster.get("service", service, namespace)
            assert found, f"there is no Service {key}"
            self.known[key] = str(found["spec"]["clusterIP"])
        return self.known[key]

    def get(self, url: str, **headers: str) -> httpx.Response:
        """GET from this machine, once; raises `AssertionError` where nothing answers or not with 2xx."""
        try:
            answer = httpx.get(url, headers=headers, timeout=20, trust_env=False)
        except httpx.TransportError as error:
            raise AssertionError(f"{url}: {error!r}") from error
        assert answer.is_success, f"{url}: {answer.status_code}: {answer.text[:500]}"
        return answer

    def metrics(self, name: str) -> str:
        """Return the metrics of the operator, the tracker or the suggestion service."""
        address = self.address(f"{RELEASE}-metrics")
        return self.get(f"http://{address}:{PORTS[name]}/metrics").text

    def samples(self, process: str, metric: str, **labels: str) -> list[tuple[dict, float]]:
        """Return (labels, value) of the samples of a metric that have these labels."""
        found = metric_lines(self.metrics(process), metric)
        return [(own, value) for own, value in found if labels.items() <= own.items()]

    @property
    def tracker_url(self) -> str:
        """Base URL of the tracker, for this machine."""
        return f"http://{self.address(f'{RELEASE}-tracker')}:8080"

    def token(self, account: str = READER) -> str:
        """Return a token for the tracker, of a service account of `TEAM`."""
        key = f"token of {account}"
        if key not in self.known:
            made = ("create", "token", account, "-n", TEAM, "--audience", "foretune")
            self.known[key] = self.cluster.kubectl(*made).strip()
        return self.known[key]

    def history(self, path: str) -> Any:
        """Return what the tracker answers a reader."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        return self.get(self.tracker_url + path, **headers).json()

    def recorded(self, job: str, *, namespace: str = TEAM) -> list[dict[str, Any]]:
        """Return the jobs of this name that the history knows, newest first."""
        return list(self.history(f"/v1/jobs?namespace={namespace}&name={job}"))

    def trials(self, uid: str) -> list[dict[str, Any]]:
        """Return the trials of a job by index, as the tracker tells them."""
        return list(self.history(f"/v1/jobs/{uid}/trials"))

    def curve(self, uid: str, index: int) -> list[dict[str, Any]]:
        """Return the points of a trial's curve."""
        return list(self.history(f"/v1/jobs/{uid}/trials/{index}/curve"))

    # --- TuningJobs --------------------------------------------------------------------------

    def apply_file(self, path: Path) -> str:
        """Apply a manifest as a user would; returns what kubectl says."""
        return self.cluster.kubectl("apply", "-n", TEAM, "-f", str(path))

    def job(self, name: str) -> dict[str, Any]:
        """Return a TuningJob."""
        found = self.cluster.get("tuningjob", name, TEAM)
        assert found, f"there is no TuningJob {name}"
        return found

    def jobs_of(self, name: str) -> list[dict[str, Any]]:
        """Return the Jobs of a TuningJob."""
        return self.cluster.items("jobs", TEAM, f"foretune.io/job={name}")

    def pods_of(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a TuningJob's trials."""
        return self.cluster.items("pods", TEAM, f"foretune.io/job={name}")

    def wait_over(self, name: str, phase: str = "Complete", *, limit_s: float) -> dict[str, Any]:
        """Return a TuningJob once it is in this last phase; fails at once if it ended otherwise."""

        def probe() -> dict[str, Any] | None:
            job = self.job(name)
            status = job.get("status", {})
            if status.get("phase") == phase:
                return job
            other = {"Complete", "Failed"} - {phase}
            if status.get("phase") in other:
                raise EndedOtherwiseError(json.dumps(status, indent=1))
            raise AssertionError(json.dumps({k: status.get(k) for k in ("phase", "counts")}))

        return wait_for(f"TuningJob {name} to be {phase}", probe, limit_s=limit_s)

    def add_claim(self, name: str, files: Mapping[str, Path]) -> Path:
        """Make a claim in `TEAM`, bound to a volume that holds copies of these files; return its folder."""
        self.cluster.apply(_volume(f"{TEAM}-{name}", TEAM, name))
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
        spec |= {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": f"{TEAM}-{name}"}
        meta = {"name": name}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta}
        self.cluster.apply(claim | {"spec": spec}, namespace=TEAM)
        folder = self.cluster.folder / "nodes" / "claims" / TEAM / name  # as the nodes have it
        for path, source in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / path)
        return folder

    # --- what the API server did -------------------------------------------------------------

    def writes(self) -> list[Write]:
        """Return all writes that were carried out so far, dry runs and refusals left out."""
        found = []
        # Behind the last line end there is nothing, or a line that is being written.
        for line in self.audit.read_text(encoding="utf-8").split("\n")[:-1]:
            event = json.loads(line)
            target = event.get("objectRef", {})
            code = event.get("responseStatus", {}).get("code", 0)
            if code >= 400 or "dryRun=" in event["requestURI"]:
                continue
            parts = (target.get("resource", ""), target.get("subresource", ""))
            at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
            found.append(
                Write(
                    verb=event["verb"],
                    resource="/".join(p for p in parts if p),
                    namespace=target.get("namespace", ""),
                    name=target.get("name", ""),
                    user=event["user"]["username"],
                    at=at,
                )
            )
        return found


class EndedOtherwiseError(Exception):
    """A job ended in another phase than the test waits for; the message is its status."""


def memory_of(pod: str, word: str) -> dict[str, int]:
    """Return `VmRSS` and `VmHWM` (bytes) of the process of a pod whose command has this argument."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            names = (folder / "environ").read_text(errors="replace").split("\0")
            if word in words and f"HOSTNAME={pod}" in names:
                return _memory((folder / "status").read_text(encoding="utf-8"))
    raise AssertionError(f"pod {pod} has no process with the argument {word}")


def memory_after(code: str) -> dict[str, int]:
    """Return `VmRSS` and `VmHWM` (bytes) of a Python of the tests after it ran `code`."""
    show = "print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", f"{code}\n{show}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _memory(done.stdout)


def _memory(text: str) -> dict[str, int]:
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: int(rows[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def _node_flags(image: Built) -> list[str]:
    """Return what the nodes must know of our images."""
    binaries = Path(sys.prefix) / "bin"
    light, suggestion, trainer = (IMAGES[n].tag for n in ("light", "suggestion", "trainer"))
    commands = {
        light: shlex.join(image.config["Entrypoint"]),
        suggestion: str(binaries / "foretune"),
        trainer: f"{binaries / 'python'} -m foretune_trainer",
    }
    flags = [flag for tag, said in commands.items() for flag in ("--image", f"{tag}={said}")]
    return [*flags, "--image-root", f"{light}={image.root}"]


def _prepare(cluster: Cluster) -> None:
    """Make the namespaces, somebody who reads, and the volume of the history."""

    def namespace(name: str) -> dict[str, Any]:
        meta = {"name": name, "labels": RESTRICTED}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}

    cluster.apply(namespace(NAMESPACE), namespace(TEAM))
    cluster.kubectl("create", "serviceaccount", READER, "-n", TEAM)
    # Rights of an installation for the whole cluster come with the role `view`; one for some namespaces
    # has a Role in each of them.
    roles = {"--clusterrole": "view", "--role": f"{RELEASE}-{NAMESPACE}-viewer"}
    for number, (kind, role) in enumerate(roles.items()):
        to = (f"{kind}={role}", f"--serviceaccount={TEAM}:{READER}")
        cluster.kubectl("create", "rolebinding", f"{READER}-{number}", "-n", TEAM, *to)
    cluster.apply(_volume("history", NAMESPACE, f"{RELEASE}-history"))


def _volume(name: str, namespace: str, claim: str) -> dict[str, Any]:
    """Return a volume for one claim. The nodes give each claim a folder; the path here is not used."""
    spec = {
        "capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "hostPath": {"path": "/nonexistent"},
        "claimRef": {"namespace": namespace, "name": claim},
    }
    meta = {"name": name}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}


@contextlib.contextmanager
def installed(
    folder: Path, image: Built, values: Mapping[str, Any] | None = None
) -> Iterator[Installed]:
    """Yield a cluster on which the chart was installed by helm and is ready.

    Raises `NotHereError` where a cluster or helm can't be had.
    """
    requirements()
    helm = tool("helm")
    if isinstance(helm, Missing):
        raise NotHereError(helm.reason)
    policy, audit, own = folder / "audit.yaml", folder / "audit.log", folder / "values.yaml"
    policy.write_text(yaml.safe_dump(AUDIT), encoding="utf-8")
    own.write_text(yaml.safe_dump({**VALUES, **(values or {})}), encoding="utf-8")
    server = {"audit-policy-file": policy, "audit-log-path": audit}
    flags = [f for k, v in server.items() for f in ("--arg", f"apiserver:--{k}={v}")]
    with running_cluster(
        folder, node_flags=_node_flags(image), control_plane_flags=flags
    ) as cluster:
        _prepare(cluster)
        release = Installed(cluster, helm, own, audit)
        try:
            release.install()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{cluster.report()}") from error
        yield release


__all__ = ["NAMESPACE", "RELEASE", "ROOT", "TEAM", "Installed", "Write", "installed"]
