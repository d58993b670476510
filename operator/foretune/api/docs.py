"""docs/reference/tuningjob.md from the models: every field of `spec` and `status`.

python -m foretune.api.docs            writes it
python -m foretune.api.docs --check    says when it is stale; exit code 1
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import constants
from foretune.api import generated
from foretune.api.cel import RULES
from foretune.api.crd import COLUMNS, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foretune.api.cel import Rule

PAGE: Final = Path("docs/reference/tuningjob.md")
"""Where the page is, below the repository's root."""

HEAD: Final = f"""\
<!-- Written by `python -m foretune.api.docs` from the models: do not edit. -->

# TuningJob

`apiVersion: {constants.GROUP}/{constants.VERSION}`, `kind: {constants.KIND}`, short name `tj`. The same manifest is
applied to a cluster and run by `foretune run`; `examples/` has some to start from. `foretune run` and the
operator say everything that is wrong with a manifest at once, the API server refuses what its schema can tell.

`<name>` stands for any key, `[]` for each entry of a list. Amounts are written as in Kubernetes (`2`, `500m`,
`4Gi`). YAML reads `1e-4` as a text: write `0.0001` or `1.0e-4`.
"""

Schema = dict[str, Any]


def page() -> str:
    """Return the page."""
    root = schema()["properties"]
    named = [f"* {_said(rule)}" for rule in _rules_at("")]
    spec = _sections("spec", root["spec"])
    return "\n".join([HEAD, *named, "", *spec, _section("status", root["status"]), _columns()])


def _sections(name: str, node: Schema) -> Iterator[str]:
    """Yield a section for an object's plain fields, then one for each object among them."""
    fields = node["properties"].items()
    plain = {key: child for key, child in fields if not _is_map(child)}
    yield _section(name, {**node, "properties": plain})
    for key, child in fields:
        if _is_map(child):
            yield _section(f"{name}.{key}", child, required=key in node["required"])


def _is_map(node: Schema) -> bool:
    return "properties" in node or isinstance(node.get("additionalProperties"), dict)


def _section(path: str, node: Schema, *, required: bool = False) -> str:
    words = [node["description"], *(["Required."] if required else [])]
    rules = [f"* {_said(rule)}" for rule in _rules_at(path)]
    rows = ["| field | type | default | rule | meaning |", "|---|---|---|---|---|"]
    rows += [_row(*field) for field in _fields(path, node)]
    blocks = [f"## {path}", " ".join(words), "\n".join(rules), "\n".join(rows)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _fields(path: str, node: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """Yield (path, schema, whether it is required) of all fields below an object, in order."""
    required = node.get("required", ())
    for key, child in node.get("properties", {}).items():
        yield f"{path}.{key}", child, key in required
        yield from _fields(f"{path}.{key}", child)
    values = node.get("additionalProperties", {})
    if "type" in values:
        yield f"{path}.*", values, False
        yield from _fields(f"{path}.*", values)
    yield from _fields(f"{path}[]", node["items"]) if "items" in node else ()


def _row(path: str, node: Schema, required: bool) -> str:  # noqa: FBT001 - a row of `_fields`
    rules = [*_limits(node), *(_said(rule) for rule in (*_rules_at(path), *_field_rules(path)))]
    default = node.get("default")
    cells = (
        f"`{path.replace('*', '<name>')}`",
        _type(node),
        "**required**"
        if required
        else f"`{json.dumps(default)}`"
        if default not in (None, {})
        else "-",
        "; ".join(rules) or "-",
        node.get("description", "-"),
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _type(node: Schema) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node.get("type") == "array":
        inner = _type(node["items"])
        return "list" if inner == "any" else f"list of {inner}"
    if node.get("format") == "date-time":
        return "time"
    return str(node.get("type", "any"))


_RANGES: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " entries"),
    ("minProperties", "maxProperties", " entries"),
)
"""Keys of a smallest and a largest value, and what they count."""


def _limits(node: Schema) -> list[str]:
    """Return the bounds of a schema in words."""
    found = []
    if "enum" in node:
        found.append("one of " + ", ".join(f"`{value}`" for value in node["enum"]))
    if "pattern" in node:
        found.append(f"matches `{node['pattern']}`")
    for low, high, unit in _RANGES:
        least, most = node.get(low), node.get(high)
        if least is not None and most is not None:
            found.append(f"{least} to {most}{unit}")
        elif least is not None:
            above = "more than" if node.get("exclusiveMinimum") else "at least"
            found.append(f"{above} {least}{unit}")
        elif most is not None:
            found.append(f"at most {most}{unit}")
    return found


def _rules_at(path: str) -> list[Rule]:
    """Return the rules of an object that name none of its fields."""
    return [rule for rule in RULES.get(path, ()) if not rule.field]


def _field_rules(path: str) -> list[Rule]:
    """Return the rules between fields that an ancestor of `path` has for it."""
    return [
        rule
        for where, rules in RULES.items()
        for rule in rules
        if rule.field and where + rule.field == path
    ]


def _said(rule: Rule) -> str:
    """Return a rule's message without what it quotes from the manifest at hand."""
    if rule.message:
        return rule.message
    return re.sub(r"(, not )?' \+ self\.[\w.]*?(\w+)$", _quoted, rule.expression)[1:]


def _quoted(match: re.Match[str]) -> str:
    return "" if match[1] else f"<{match[2]}>"


def _columns() -> str:
    rows = ["| column | field |", "|---|---|"]
    for name, _, path, priority in COLUMNS:
        wide = ", with `-o wide`" if priority else ""
        rows.append(f"| {name} | `{path.removeprefix('.')}`{wide} |")
    return "## Columns of kubectl get\n\n" + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page in the current folder; return the exit code."""
    return generated.run(arguments, module="foretune.api.docs", path=PAGE, text=page())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
