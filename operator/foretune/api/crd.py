"""crds/foretune.io_tuningjobs.yaml, rendered from the models.

python -m foretune.api.crd            writes it
python -m foretune.api.crd --check    says when it is stale; exit code 1

The schema is structural: no references, a type for each field, unknown fields pruned. What pydantic's JSON
schema can't say stands in `OVERLAYS`, what JSON schema can't say in `foretune.api.cel`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from foretune import constants, contract
from foretune.api import generated
from foretune.api import spec as models
from foretune.api.cel import RULES
from foretune.api.status import STATUS

Schema = dict[str, Any]

PATH: Final = Path(f"crds/{constants.GROUP}_{constants.PLURAL}.yaml")
"""Where the CRD is, below the repository's root."""

ANY: Final[Schema] = {"x-kubernetes-preserve-unknown-fields": True}
"""A value of any type."""

OPEN: Final[Schema] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
"""An object that another API checks."""

_NAMED: Final[Schema] = {
    **OPEN,
    "required": ["name"],
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253}},
}

_CONTAINERS: Final[Schema] = {"type": "array", "minItems": 1, "maxItems": 32, "items": _NAMED}

_JOB: Final[Schema] = {
    **OPEN,
    "required": ["apiVersion", "kind", "spec"],
    "properties": {
        "apiVersion": {"type": "string", "enum": ["batch/v1"]},
        "kind": {"type": "string", "enum": ["Job"]},
    },
}


def _nested(names: list[str], last: Schema) -> Schema:
    """Return open objects inside each other, each with the next one's name required.

    A Job is typed down to the names of its containers, so that CEL can look for the primary one.
    """
    if len(names) == 1:
        return {names[0]: last}
    inner = _nested(names[1:], last)
    return {names[0]: {**OPEN, "required": list(inner), "properties": inner}}


OVERLAYS: Final[dict[str, Schema]] = {
    "spec.space.*": {
        "oneOf": [{"required": ["min", "max"]}, {"required": ["values"]}, {"required": ["value"]}]
    },
    "spec.trial.builtin.model": {"enum": list(contract.BUILTIN_MODELS)},
    "spec.trial.env[]": {
        **_NAMED,
        "properties": {**_NAMED["properties"], "value": {"type": "string", "maxLength": 65536}},
    },
    "spec.trial.volumes[]": _NAMED,
    "spec.trial.volumeMounts[]": _NAMED,
    "spec.trial.template.job": {
        **_JOB,
        "properties": {
            **_JOB["properties"],
            **_nested(["spec", "template", "spec", "containers"], _CONTAINERS),
        },
    },
    "spec.failurePolicy.maxFailed": {"pattern": models.PERCENT, "minimum": 0},
    **{
        f"spec.trial.resources.{kind}.*": {"pattern": models.QUANTITY}
        for kind in ("requests", "limits")
    },
}
"""What is put over the schema at a path."""

COLUMNS: Final = (
    ("Phase", "string", ".status.phase", 0),
    ("Best", "number", ".status.best.value", 0),
    ("Done/Total", "string", ".status.progress", 0),
    ("GPUh", "number", ".status.spent.gpuHours", 0),
    ("Prior", "string", ".status.prior.decision", 0),
    ("Running", "integer", ".status.counts.running", 1),
    ("Failed", "integer", ".status.counts.failed", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)
"""Columns of `kubectl get`: name, type, path, priority (1: only with -o wide)."""


def schema() -> Schema:
    """Return the structural schema of a TuningJob."""
    raw = models.Spec.model_json_schema(by_alias=True)
    spec = _structural(raw, raw.get("$defs", {}), "spec")
    root: Schema = {
        "type": "object",
        "description": "A hyperparameter tuning job.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": STATUS,
        },
    }
    return _with_rules(root)


def crd() -> Schema:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{constants.PLURAL}.{constants.GROUP}"},
        "spec": {
            "group": constants.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": constants.KIND,
                "listKind": f"{constants.KIND}List",
                "plural": constants.PLURAL,
                "singular": constants.KIND.lower(),
                "shortNames": ["tj"],
                "categories": ["all", "foretune"],
            },
            "versions": [
                {
                    "name": constants.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [
                        {"jsonPath": ".spec.suspend"},
                        {"jsonPath": ".status.phase"},
                    ],
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
"""What pydantic calls the bounds of an optional number."""


def _structural(node: Schema, definitions: Schema, path: str) -> Schema:
    """Return pydantic's schema of one field as a structural one."""
    node = _resolved(node, definitions)
    found: Schema = {}
    if "description" in node:
        found["description"] = " ".join(node["description"].split())
    if path == "spec.space":
        return {**found, "type": "object", **_counts(node), "additionalProperties": _parameter()}
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) > 1:
        found["x-kubernetes-int-or-string"] = True
    elif "type" not in node and "enum" not in node:
        found |= ANY
    else:
        found |= _typed(node, definitions, path)
    if node.get("default") is not None:
        found["default"] = node["default"]
    return found | OVERLAYS.get(path, {})


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """Return a node without $ref and without the null of an optional field."""
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) == 1:
        node = branches[0] | {k: v for k, v in node.items() if k != "anyOf"}
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _resolved(target, definitions) | {k: v for k, v in node.items() if k != "$ref"}
    return node


def _typed(node: Schema, definitions: Schema, path: str) -> Schema:
    kind = node.get("type", "string")
    found: Schema = {"type": kind}
    if kind == "object":
        return found | _object(node, definitions, path)
    if kind == "array":
        items = node.get("items", {})
        found |= {k: node[k] for k in ("minItems", "maxItems") if k in node}
        return found | {"items": _structural(items, definitions, f"{path}[]")}
    if kind == "integer":
        found["format"] = "int64"
    node = {_BOUNDS.get(key, key): value for key, value in node.items()}
    if "exclusiveMinimum" in node:
        found |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    kept = ("enum", "minimum", "maximum", "minLength", "maxLength", "pattern")
    return found | {key: node[key] for key in kept if key in node}


def _object(node: Schema, definitions: Schema, path: str) -> Schema:
    if "properties" in node:
        required = node.get("required", [])
        properties = {}
        for name, child in node["properties"].items():
            properties[name] = _structural(child, definitions, f"{path}.{name}")
            optional = name not in required and "anyOf" not in child
            if optional and "properties" in properties[name]:
                properties[name]["default"] = {}  # so that what is inside gets its defaults
        return ({"required": required} if required else {}) | {"properties": properties}
    values = node.get("additionalProperties", True)
    if values is True or values == {}:
        return _counts(node) | ANY
    entry = _structural(values, definitions, f"{path}.*")
    return _counts(node) | {"additionalProperties": entry}


def _counts(node: Schema) -> Schema:
    return {key: node[key] for key in ("minProperties", "maxProperties") if key in node}


def _parameter() -> Schema:
    raw = models.Parameter.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}), "spec.space.*")


def _with_rules(node: Schema) -> Schema:
    """Put the rules of `foretune.api.cel` where they belong; raises `KeyError` for a path that is none."""
    for rules_path, rules in RULES.items():
        target = node
        for part in rules_path.replace("[]", ".[]").split("."):
            if part == "*":
                target = target["additionalProperties"]
            elif part == "[]":
                target = target["items"]
            elif part:
                target = target["properties"][part]
        target["x-kubernetes-validations"] = [rule.render() for rule in rules]
    return node


class _Dumper(yaml.SafeDumper):
    """Writes shared parts out in full, and lists as yamllint wants them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the signature is PyYAML's
        super().increase_indent(flow, False)


def text() -> str:
    """Return the file."""
    head = (
        "# Written by `python -m foretune.api.crd` from the models: do not edit.\n"
        "# yamllint disable rule:line-length\n---\n"
    )
    body = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return head + body


def main(arguments: list[str]) -> int:
    """Write or check the file in the current folder; return the exit code."""
    return generated.run(arguments, module="foretune.api.crd", path=PATH, text=text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
