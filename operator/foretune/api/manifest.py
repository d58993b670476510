"""Manifests in files: YAML as kubectl reads it, with the line of what is wrong."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from foretune.api.v1alpha1 import TuningJob, parse
from foretune.errors import InvalidJobError, Problem

SIZE_LIMIT: Final = 100 * 1024
"""Bytes; a larger spec would not fit in the annotations that tools copy it to."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats (`1e-4` is a number, as for kubectl) and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        """Build a mapping; a key that stands there twice is an error with its line."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(text: str, source: str = "manifest") -> TuningJob:
    """Return the one TuningJob of a manifest; raises `InvalidJobError` with `source:line` where known."""
    if len(text.encode()) > SIZE_LIMIT:
        raise InvalidJobError([Problem(source, f"is larger than {SIZE_LIMIT // 1024} KiB")])
    try:
        documents = [d for d in yaml.load_all(text, Loader=_Loader) if d is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidJobError([Problem(where, f"is not YAML: {what}")]) from None
    if not documents:
        raise InvalidJobError([Problem(source, "is empty; a TuningJob is expected")])
    if len(documents) > 1:
        message = f"holds {len(documents)} documents; put one TuningJob in a file"
        raise InvalidJobError([Problem(source, message)])
    if not isinstance(documents[0], dict):
        found = type(documents[0]).__name__
        raise InvalidJobError([Problem(source, f"must be a mapping, not a {found}")])
    return parse(documents[0])
