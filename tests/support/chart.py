"""The chart, rendered by helm as a user would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from scripts.tools import Missing, tool

CHART: Final = Path(__file__).parents[2] / "charts" / "foretune"

NAMESPACE: Final = "foretune"
"""In which the tests install."""

RELEASE: Final = "foretune"


class RefusedError(Exception):
    """Helm refused; the message is its own."""


def helm(*args: str, version: int = 4) -> str:
    """Return what `helm args` prints; raises `RefusedError`. Skips where helm can't be had."""
    binary = tool("helm" if version == 4 else "helm3")
    if isinstance(binary, Missing):
        pytest.skip(binary.reason)
    done = subprocess.run(
        [str(binary), *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    if done.returncode:
        raise RefusedError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def merged(flat: dict[str, Any]) -> dict[str, Any]:
    """Return nested values for dotted paths (`{"a.b": 1}` is `{"a": {"b": 1}}`)."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def render_text(
    folder: Path, values: dict[str, Any] | None = None, *flags: str, version: int = 4
) -> str:
    """Return what `helm template` prints for values given by dotted paths, rendered once."""
    text = yaml.safe_dump(merged(values or {}))
    key = (text, flags, version)
    if key not in _RENDERED:
        file = folder / "values.yaml"
        file.write_text(text, encoding="utf-8")
        where = [RELEASE, str(CHART), "--namespace", NAMESPACE, "-f", str(file)]
        _RENDERED[key] = helm("template", *where, *flags, version=version)
    return _RENDERED[key]


_RENDERED: dict[tuple[str, tuple[str, ...], int], str] = {}


def parse(text: str) -> list[dict[str, Any]]:
    """Return the objects of a rendered chart."""
    return [found for found in yaml.safe_load_all(text) if found]


def render(folder: Path, values: dict[str, Any] | None = None, *flags: str) -> list[dict[str, Any]]:
    """Return the objects that the chart makes of values given by dotted paths."""
    return parse(render_text(folder, values, *flags))


def only(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """Return the one object of a kind whose name ends in `name`."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name))
    return found


def pod_specs(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the spec of every pod that the objects make, by the object's name."""
    found = {}
    for each in objects:
        if each["kind"] == "Pod":
            found[each["metadata"]["name"]] = each["spec"]
        elif "template" in each.get("spec", {}):
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
    return found


def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the containers of the Deployment by name."""
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    return {c["name"]: c for c in spec["containers"]}


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """Return a container's variables: the text, or where it comes from."""
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}
