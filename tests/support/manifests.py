"""Manifests for tests: a small good one, and the table of bad ones (tests/api/cases.yaml)."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CASES: Final = Path(__file__).parents[1] / "api" / "cases.yaml"


@dataclass(frozen=True)
class Case:
    """A manifest that must be refused."""

    name: str
    text: str
    """YAML of the manifest."""
    says: tuple[tuple[str, str], ...]
    """(path, fragment of the message) of each problem."""
    kubectl: tuple[str, ...]
    """Fragments of what kubectl prints."""

    @property
    def body(self) -> Any:
        """The manifest as Python values."""
        return yaml.safe_load(self.text)

    def told(self, problems: Any) -> list[str]:
        """Return what was expected of `problems` (with path and message) and is not there."""
        return [
            f"{path}: ...{fragment}..."
            for path, fragment in self.says
            if not any(p.path == path and fragment in p.message for p in problems)
        ]


@functools.cache
def _table() -> dict[str, Any]:
    return yaml.load(CASES.read_text(), Loader=yaml.CSafeLoader)


def cases(where: str) -> list[Case]:
    """Return the cases that `where` (load, parse or crd) must refuse."""
    table = _table()
    return [_case(entry, table["base"]) for entry in table["cases"] if where in entry["where"]]


def good(**changes: Any) -> dict[str, Any]:
    """Return a manifest that is right, with changes of its spec (None removes a field)."""
    base = copy.deepcopy(_table()["base"])
    base["metadata"]["name"] = "good"
    return merged(base, {"spec": changes})


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` put over it, key by key; None removes a key."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class _Plain(yaml.SafeDumper):
    """Writes repeated parts out, and texts in quotes: "1e-4" must not become a number on its way."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Plain.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def _case(entry: dict[str, Any], base: dict[str, Any]) -> Case:
    text = entry.get("text") or yaml.dump(
        merged(base, entry["change"]), Dumper=_Plain, sort_keys=False
    )
    says = tuple((path, fragment) for path, fragment in entry["says"])
    default = tuple(part for path, fragment in says for part in (path, fragment))
    return Case(entry["name"], text, says, tuple(entry.get("kubectl", default)))
