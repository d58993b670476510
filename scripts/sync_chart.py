"""What the chart holds twice: its copy of the CRD, and README.md from the comments of values.yaml.

python scripts/sync_chart.py            writes both
python scripts/sync_chart.py --check    says what is stale; exit code 1

`make verify` checks, `make crds` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent

CHART: Final = ROOT / "charts" / "foretune"

CRDS: Final = ROOT / "crds"

COPY: Final = CHART / "templates" / "crds.yaml"

README: Final = CHART / "README.md"

METADATA: Final = """\
metadata:
  labels:
    {{- include "foretune.labels" (dict "root" $ "component" "crd") | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""
"""What the copy adds to the metadata of a CRD; crds/ itself has a name there and nothing else."""


class StaleError(Exception):
    """The sources can't be turned into the chart's files; the message says which and why."""


def crd_template() -> str:
    """Return templates/crds.yaml: every file of crds/ behind the switch `crds.enabled`.

    Raises `StaleError` when there is no CRD, or one whose metadata is not only a name.
    """
    paths = sorted(CRDS.glob("*.yaml"))
    if not paths:
        raise StaleError(f"{CRDS}: there is no CRD; `python -m foretune.api.crd` writes it")
    parts = ["{{- /* Written by scripts/sync_chart.py from crds/: do not edit. */}}\n"]
    parts.append("{{- if .Values.crds.enabled }}\n")
    for path in paths:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        if set(document["metadata"]) != {"name"}:
            raise StaleError(f"{path}: metadata must hold the name alone")
        body = "".join(line for line in text.splitlines(keepends=True) if line[:1] != "#")
        body = body.removeprefix("---\n").replace("{{", "{{ `{{` }}")
        if body.count("\nmetadata:\n") != 1:
            raise StaleError(f"{path}: expected one line `metadata:`")
        parts.append("---\n" + body.replace("\nmetadata:\n", "\n" + METADATA))
    parts.append("{{- end }}\n")
    return "".join(parts)


class Value(NamedTuple):
    """A documented line of values.yaml."""

    path: str
    default: Any
    text: str


def values() -> Iterator[Value]:
    """Yield each value whose comment starts with `# --`, in the file's order.

    Raises `StaleError` for a leaf without such a comment.
    """
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    documented: set[tuple[str, ...]] = set()
    parents: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r"\s*# (-- )?(.*)", line):
            if comment[1]:
                said = [comment[2]]
            elif said:
                said.append(comment[2])
            continue
        found = re.match(r"( *)([A-Za-z0-9]+):", line)
        if not found:
            said = []
            continue
        parents = [p for p in parents if p[0] < len(found[1])]
        parents.append((len(found[1]), found[2]))
        path = tuple(key for _, key in parents)
        if said:
            documented.add(path)
            yield Value(".".join(path), at(tree, path), " ".join(said))
            said = []
        elif not isinstance(at(tree, path), dict) and not any(
            path[:n] in documented for n in range(1, len(path))
        ):
            raise StaleError(f"values.yaml: {'.'.join(path)} has no comment that starts with # --")


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def readme() -> str:
    """Return README.md of the chart."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    rows = [
        f"| `{value.path}` | `{json.dumps(value.default)}` | {value.text.replace('|', chr(92) + '|')} |"
        for value in values()
    ]
    return "\n".join(
        [
            "<!-- Written by scripts/sync_chart.py from values.yaml: do not edit. -->",
            "",
            f"# {chart['name']} {chart['version']}",
            "",
            f"{chart['description']}. Kubernetes {chart['kubeVersion'].removesuffix('-0')}, Helm 3 or 4.",
            "",
            "```sh",
            "helm install foretune charts/foretune --namespace foretune --create-namespace",
            "```",
            "",
            "One pod runs the operator, the tracker and the suggestion service, with one volume for the history.",
            "[Installation](../../docs/operations/install.md) says more: PostgreSQL, Prometheus, upgrade, uninstall.",
            "",
            "## Values",
            "",
            "A value that is not in this list is refused.",
            "",
            "| value | default | what it does |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Write or check both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    check = parser.parse_args().check
    code = 0
    for path, make in ((COPY, crd_template), (README, readme)):
        try:
            wanted = make()
        except StaleError as error:
            print(error, file=sys.stderr)
            return 1
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            continue
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run scripts/sync_chart.py", file=sys.stderr)
            code = 1
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
