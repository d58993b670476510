"""A real Prometheus in a pod of the tests' cluster, set up with what the documentation shows."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import yaml
from tests.support.cluster import ROOT, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.installed import Installed

PAGE: Final = ROOT / "docs" / "operations" / "monitoring.md"

NAMESPACE: Final = "monitoring"

NOT_HERE: Final = "Prometheus is not here: Debian package prometheus"

UNANSWERED: Final = "# nothing to show"
"""Comment on a documented query that has no answer while all is well."""


def documented_config() -> dict[str, Any]:
    """Return the configuration that the monitoring page shows, with a shorter interval."""
    (text,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, **yaml.safe_load(text)}


def promtool(text: str) -> str:
    """Return what promtool has against our metrics in a scrape."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(NOT_HERE)
    assert "# TYPE foretune_" in text
    command = [program, "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode in {0, 1, 3}, said
    return "\n".join(line for line in said.splitlines() if line.startswith("foretune"))


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that has scraped every target."""

    url: str

    def query(self, text: str) -> list[tuple[dict[str, str], float]]:
        """Return (labels, value) of each sample that a PromQL query gives now."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": text}, timeout=20, trust_env=False
        )
        assert answer.is_success, f"{text}: {answer.text}"
        data = answer.json()["data"]
        assert data["resultType"] == "vector", data["resultType"]
        return [(s["metric"], float(s["value"][1])) for s in data["result"]]

    def documented_queries(self) -> list[tuple[str, bool]]:
        """Return (query, whether it has an answer after a job) for each one of the monitoring page."""
        blocks = re.findall(r"```promql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        assert blocks
        return [(block.strip(), UNANSWERED not in block) for block in blocks]

    @classmethod
    @contextlib.contextmanager
    def running(cls, release: Installed, config: dict[str, Any]) -> Iterator[Prometheus]:
        """Yield a Prometheus that runs with `config` and has scraped each of its targets once.

        Skips where Prometheus is not installed.
        """
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip(NOT_HERE)
        cluster = release.cluster
        cluster.apply(*_objects(program, config), namespace=NAMESPACE)
        try:
            found = cls(f"http://{release.address('prometheus', NAMESPACE)}:9090")

            def scraped() -> bool:
                try:
                    up = found.query("up")
                except httpx.TransportError as error:
                    raise AssertionError(repr(error)) from error
                assert len(up) == len(config["scrape_configs"]), up
                assert all(value for _, value in up), up
                return True

            wait_for("Prometheus to have scraped its targets", scraped)
            yield found
        finally:
            cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _objects(program: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the namespace, configuration, pod and Service of a Prometheus."""
    own = {"name": "prometheus", "namespace": NAMESPACE}
    args = ["--config.file=/etc/own/prometheus.yml", "--storage.tsdb.path=/data"]
    container = {
        "name": "prometheus",
        "image": "prom/prometheus:v2.42.0",
        "command": [program, *args, "--web.listen-address=0.0.0.0:9090"],
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/own"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [
        {"name": "config", "configMap": {"name": "prometheus"}},
        {"name": "data", "emptyDir": {}},
    ]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": own,
            "data": {"prometheus.yml": yaml.safe_dump(config)},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**own, "labels": {"app": "prometheus"}},
            "spec": {"containers": [container], "volumes": volumes},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": own,
            "spec": {"selector": {"app": "prometheus"}, "ports": [{"port": 9090}]},
        },
    ]
