"""Settings come from the environment, each with its variable, default and sentence in the reference."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from foretune import settings as module
from foretune.errors import InvalidInputError
from foretune.settings import OperatorSettings, SuggestionSettings, TrackerSettings, from_environ

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
KINDS: Final = {
    "operator": OperatorSettings,
    "tracker": TrackerSettings,
    "suggestion": SuggestionSettings,
}


def sentences(kind: type) -> dict[str, str]:
    """Return what stands below each field: `FORETUNE_<FIELD>: what it is`."""
    tree = ast.parse(inspect.getsource(module))
    (body,) = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__]
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def rows(kind: type) -> list[str]:
    """Return the table of a process as the page has it."""
    made = []
    for field in fields(kind):
        variable, _, text = sentences(kind)[field.name].partition(": ")
        assert variable == f"FORETUNE_{field.name.upper()}"
        made.append(f"| `{variable}` | {shown(field.default)} | {text} |")
    return made


def shown(default: Any) -> str:
    """Return a default as it would be written in the environment."""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`" if default else "empty"
    return f"`{default}`"


@pytest.mark.parametrize("name", KINDS)
def test_the_reference_has_every_variable_default_and_sentence(name):
    """The page's table of each process is that of settings.py, in its order."""
    section = PAGE.read_text().split(f"## foretune {name}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `FORETUNE_")]
    assert table == rows(KINDS[name])


def test_values_are_read_by_the_type_of_their_default():
    """Numbers, booleans and lists are read; empty means the default."""
    environ = {
        "FORETUNE_API_QPS": "7.5",
        "FORETUNE_API_BURST": "9",
        "FORETUNE_LEADER_ELECTION": "False",
        "FORETUNE_NAMESPACES": " a, b ,",
        "FORETUNE_IDENTITY": "",
    }
    found = from_environ(OperatorSettings, environ)
    assert (found.api_qps, found.api_burst, found.leader_election) == (7.5, 9, False)
    assert found.namespaces == ("a", "b")
    assert found.identity == OperatorSettings().identity


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("FORETUNE_METRICS_PORT", "http", "must be a whole number, not 'http'"),
        ("FORETUNE_API_QPS", "many", "must be a number, not 'many'"),
        ("FORETUNE_LEADER_ELECTION", "maybe", "must be true or false, not 'maybe'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name, text, says):
    """One line names the variable and what would be right."""
    with pytest.raises(InvalidInputError, match=f"^{name}: {says}$"):
        from_environ(OperatorSettings, {name: text})
