"""A real Kubernetes for a test: the control plane of tests/controlplane and process nodes.

`running_cluster` starts both and leaves nothing behind, also when it fails half-way. Everything
that waits polls a condition with a limit far above what it takes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx
from scripts.controlplane import controlplane
from scripts.tools import Missing, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
"""Of the repository."""

CAPACITY: Final = "cpu=8,memory=32Gi,nvidia.com/gpu=4"
"""Of each node."""

LIMIT_S: Final = 180.0
"""Default limit of a wait, seconds: a machine busy with other work must not fail a test."""

TAIL: Final = 40
"""Lines of each log that a failure shows."""

SERVICE_RANGES: Final = tuple(f"10.{number}.0.0/24" for number in range(100, 200))
"""For the Services of clusters that run at the same time; pods get 10.200.0.0/16 and above."""

T = TypeVar("T")


class NotHereError(Exception):
    """A cluster can't be had on this machine; the message is the reason of the skip."""


def wait_for(
    what: str, probe: Callable[[], T | None], *, limit_s: float = LIMIT_S, every_s: float = 0.2
) -> T:
    """Return what `probe` returns once that is true; raises `AssertionError` after `limit_s`.

    An `AssertionError` of the probe counts as "not yet" and is told at the end.
    """
    deadline = time.monotonic() + limit_s
    last: object = None
    while True:
        try:
            found = probe()
            last = found
            if found:
                return found
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what}; last seen: {last!r}")
        time.sleep(every_s)


@dataclass
class Process:
    """A child whose first word is a line that starts with READY."""

    name: str
    child: subprocess.Popen[str]
    log: Path
    ready: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, command: Sequence[str], *, folder: Path, limit_s: float) -> Process:
        """Start it and wait for its READY line; its output goes to `<folder>/<name>.log`."""
        log = folder / f"{name}.log"
        with log.open("a") as out:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=out, text=True
            )
        made = cls(name, child, log)
        event = threading.Event()
        threading.Thread(target=made._read, args=(event,), daemon=True).start()
        if not event.wait(limit_s) or not made.ready:
            made.stop()
            raise AssertionError(f"{name} did not get ready:\n{tail(log)}")
        return made

    def _read(self, event: threading.Event) -> None:
        """Take the READY line, then keep the rest of the output in the log."""
        assert self.child.stdout is not None
        with self.child.stdout as lines, self.log.open("a") as out:
            for line in lines:
                if line.startswith("READY "):
                    self.ready = dict(pair.split("=", 1) for pair in line.split()[1:])
                    event.set()
                else:
                    out.write(line)
                    out.flush()
        event.set()  # it ended: whoever waits sees that nothing is ready

    def stop(self, grace_s: float = 20) -> None:
        """End it: SIGTERM, and SIGKILL after the grace."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()


@dataclass
class Cluster:
    """A running cluster and what a test does with it."""

    folder: Path
    kubeconfig: Path
    kubectl_path: Path
    control: str
    """Base URL of the nodes' faults."""
    nodes_log: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and helm find this cluster and nothing else of ours."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(home),
            "KUBECONFIG": str(self.kubeconfig),
        }

    def run(self, command: Sequence[str], *, stdin: str | None = None) -> tuple[int, str, str]:
        """Run a command against this cluster; returns (exit code, stdout, stderr)."""
        done = subprocess.run(
            list(command),
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Return what `kubectl args` prints; raises `AssertionError` with its message."""
        code, out, err = self.run([str(self.kubectl_path), *args], stdin=stdin)
        assert code == 0, f"kubectl {' '.join(args)}: {err.strip() or out.strip()}"
        return out

    def refused(self, *args: str, stdin: str | None = None) -> str:
        """Return the message with which `kubectl args` is refused."""
        code, out, err = self.run([str(self.kubectl_path), *args], stdin=stdin)
        assert code != 0, f"kubectl {' '.join(args)} was not refused: {out}"
        return err

    def apply(self, *manifests: dict[str, Any], namespace: str = "default") -> None:
        """Apply manifests."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """Return an object, or None if it is not there."""
        out = self.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json")
        return json.loads(out) if out.strip() else None

    def items(self, kind: str, namespace: str = "default", selector: str = "") -> list[dict]:
        """Return all objects of a kind in a namespace."""
        out = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        return json.loads(out)["items"]

    def fault(self, path: str) -> None:
        """Make the nodes do something bad: the paths of `tests.support.process_nodes`."""
        httpx.post(self.control + path, timeout=20, trust_env=False).raise_for_status()

    def wait_condition(
        self,
        kind: str,
        name: str,
        condition: str,
        *,
        namespace: str = "default",
        status: str = "True",
        limit_s: float = LIMIT_S,
    ) -> dict[str, Any]:
        """Return the object once its condition has this status."""

        def probe() -> dict[str, Any] | None:
            found = self.get(kind, name, namespace)
            assert found, f"there is no {kind} {name}"
            conditions = found.get("status", {}).get("conditions", [])
            for entry in conditions:
                if entry["type"] == condition and entry["status"] == status:
                    return found
            raise AssertionError(f"conditions of {kind} {name}: {conditions}")

        what = f"{kind} {namespace}/{name} with {condition}={status}"
        return wait_for(what, probe, limit_s=limit_s)

    def container_logs(self) -> list[Path]:
        """Return the log files of all containers, those of ended runs too, newest last."""
        found = (self.folder / "nodes").glob("pods/*/containers/*/*.log")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def report(self) -> str:
        """Return what a failed test should show: objects, events and the ends of all logs."""
        parts = []
        for args in (
            ("get", "pods,jobs,tuningjobs", "-A", "-o", "wide"),
            ("get", "pods,jobs", "-A", "-o", "wide"),
            ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        ):
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, out, err = self.run([str(self.kubectl_path), *args])
                parts.append(f"--- kubectl {' '.join(args)}\n{_last(out + err)}")
        components = [self.folder / "controlplane" / f"{n}.log" for n in ("kcm", "scheduler")]
        for path in (self.nodes_log, *components, *self.container_logs()[-30:]):
            parts.append(f"--- {path.relative_to(self.folder)}\n{tail(path)}")
        return "\n".join(parts)


def tail(path: Path) -> str:
    """Return the last lines of a file, or a word that it is not there."""
    return _last(path.read_text(errors="replace")) if path.exists() else "(not there)"


def _last(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL:])


def readable_folders(*paths: Path) -> list[Path]:
    """Return the folders above `paths` that users other than their owner may not pass.

    An interpreter below /root is one that a container's user 65532 could not start.
    """
    above = {folder for path in paths for p in (path, path.resolve()) for folder in p.parents}
    return sorted(f for f in above if f.stat().st_mode & 0o005 != 0o005)


def free_service_range() -> str:
    """Return a range that this machine has no route to, so that Services can be reached from it."""
    command = ["ip", "-4", "-o", "route", "show", "table", "all", "type", "unicast"]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    words = (line.split()[0] for line in done.stdout.splitlines() if line[:1].isdigit())
    taken = [ipaddress.ip_network(word) for word in words]
    first = os.getpid() % len(SERVICE_RANGES)  # two that look at the same time take different ones
    for found in (*SERVICE_RANGES[first:], *SERVICE_RANGES[:first]):
        if not any(ipaddress.ip_network(found).overlaps(network) for network in taken):
            return found
    raise NotHereError("process nodes need a free range of addresses for Services below 10.0.0.0/8")


def requirements() -> tuple[Path, Path]:
    """Return the control plane's binary and kubectl; raises `NotHereError` with the reason."""
    if os.geteuid() != 0:
        raise NotHereError("process nodes need root (mount and PID namespaces)")
    for program in ("openssl", "ip"):
        if not shutil.which(program) and not Path("/usr/sbin", program).exists():
            raise NotHereError(f"process nodes need the program {program}")
    kubectl = tool("kubectl")
    if isinstance(kubectl, Missing):
        raise NotHereError(kubectl.reason)
    binary = controlplane()
    if isinstance(binary, Missing):
        raise NotHereError(binary.reason)
    return binary, kubectl


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    *,
    nodes: int = 2,
    node_flags: Sequence[str] = (),
    control_plane_flags: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Yield a cluster whose nodes are Ready; stops all of it at the end.

    Raises `NotHereError` where it can't be had, `AssertionError` when it does not start.
    """
    binary, kubectl = requirements()
    home = folder / "controlplane"
    services = f"apiserver:--service-cluster-ip-range={free_service_range()}"
    command = [str(binary), "--dir", str(home), "--arg", services, *control_plane_flags]
    with contextlib.ExitStack() as stack:
        plane = Process.start("controlplane", command, folder=folder, limit_s=LIMIT_S)
        stack.callback(plane.stop)
        kubeconfig = Path(plane.ready["kubeconfig"])
        venv = Path(sys.prefix)
        closed = readable_folders(venv / "bin" / "python", Path(sys.executable), ROOT / "x")
        command = [sys.executable, "-m", "tests.support.process_nodes", "--network", "pods"]
        command += ["--kubeconfig", str(kubeconfig), "--root", str(folder / "nodes")]
        command += ["--nodes", str(nodes), "--capacity", CAPACITY, *node_flags]
        command += [flag for f in closed for flag in ("--open", str(f))]
        agent = Process.start("nodes", command, folder=folder, limit_s=LIMIT_S)
        stack.callback(agent.stop)
        cluster = Cluster(folder, kubeconfig, kubectl, agent.ready["control"], agent.log)
        for number in range(nodes):
            cluster.wait_condition("node", f"node-{number}", "Ready")
        yield cluster


def job_name_of(pod: dict[str, Any]) -> str:
    """Return the name of the Job that a pod belongs to, or an empty text."""
    return str(pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name", ""))


def metric_lines(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Return (labels, value) of each sample of a metric in Prometheus' text format."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"{re.escape(name)}(?:{{(.*)}})? (\S+)(?: \d+)?", line)
        if match:
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[1] or ""))
            found.append((labels, float(match[2])))
    return found
