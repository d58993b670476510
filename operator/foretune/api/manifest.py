"""Manifests in files: YAML as kubectl reads it, with the line of what is wrong."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from foretune.api.v1alpha1 import TuningJob, parse
from foretune.errors import InvalidJobError, Problem

SIZE_LIMIT: Final = 100 * 1024
"""Bytes; a larger spec would not fit in the annotations that tools copy it to."""


NODE_LIMIT: Final = 20_000
"""Values of a manifest with its aliases written out: ten aliases of ten aliases of ... are no manifest."""

_REPLACED: Final = frozenset(
    {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
)
"""Kinds that PyYAML sees where kubectl does not: 1e-4 as a text, 22:22 as 1342, 2026-01-01 as a date."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads scalars as kubectl does (`1e-4` is a number), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        """Build a mapping; a key that stands there twice is an error with its line."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # <<: its keys may be given again, that is what it is for
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"{key!r} stands there twice (first in line {seen[key]})",
                    key_node.start_mark,
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def load(text: str, source: str = "manifest") -> TuningJob:
    """Return the one TuningJob of a manifest; raises `InvalidJobError` with `source:line` where known."""
    document = read_yaml(text, source, "TuningJob")
    problems = _whole_floats(document)
    try:
        job = parse(document)
    except InvalidJobError as error:
        raise InvalidJobError([*error.problems, *problems]) from None
    if problems:
        raise InvalidJobError(problems)
    return job


def read_yaml(text: str, source: str, what: str) -> dict[Any, Any]:
    """Return the one mapping of a YAML file, which is to hold a `what`, read as kubectl reads it.

    Raises `InvalidJobError` with `source:line` where known.
    """
    if len(text.encode()) > SIZE_LIMIT:
        raise InvalidJobError([Problem(source, f"is larger than {SIZE_LIMIT // 1024} KiB")])
    try:
        documents = [d for d in yaml.load_all(text, Loader=_Loader) if d is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidJobError([Problem(where, f"is not YAML: {problem}")]) from None
    if not documents:
        raise InvalidJobError([Problem(source, f"is empty; a {what} is expected")])
    if len(documents) > 1:
        message = f"holds {len(documents)} documents; put one {what} in a file"
        raise InvalidJobError([Problem(source, message)])
    document = documents[0]
    if not isinstance(document, dict):
        found = type(document).__name__
        raise InvalidJobError([Problem(source, f"must be a mapping, not a {found}")])
    _check_size(document, source)
    return document


def _check_size(document: object, source: str) -> None:
    """Refuse what becomes huge, or endless, once its aliases are written out."""
    waiting, count = [document], 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > NODE_LIMIT:
            message = f"has more than {NODE_LIMIT} values once its aliases are written out"
            raise InvalidJobError([Problem(source, message)])
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _whole_floats(document: dict[Any, Any]) -> list[Problem]:
    """Return the parameters whose bounds are written as floats and are whole.

    On its way to a cluster 2.0 becomes 2, so that the same file would mean a float here and an int there.
    """
    spec = document.get("spec")
    space = spec.get("space") if isinstance(spec, dict) else None
    return [
        Problem(f"spec.space.{name}", "a cluster reads these bounds as whole: say type: float")
        for name, entry in (space.items() if isinstance(space, dict) else ())
        if isinstance(entry, dict)
        and "type" not in entry
        and _reads_as_int([entry.get("min"), entry.get("max"), entry.get("step", 1)])
    ]


def _reads_as_int(bounds: list[Any]) -> bool:
    numbers = [b for b in bounds if isinstance(b, int | float) and not isinstance(b, bool)]
    whole = len(numbers) == len(bounds) and all(float(b).is_integer() for b in numbers)
    return whole and any(isinstance(b, float) for b in numbers)
