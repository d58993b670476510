"""Every bad manifest of the table is refused with one clear line a problem, by file and by body alike."""

from __future__ import annotations

import pytest
from tests.support.manifests import Case, cases

from foretune.api.manifest import SIZE_LIMIT, load
from foretune.api.v1alpha1 import parse
from foretune.errors import InvalidJobError


def problems(case: Case, where: str):
    with pytest.raises(InvalidJobError) as caught:
        load(case.text, "bad.yaml") if where == "load" else parse(case.body)
    return caught.value.problems


@pytest.mark.parametrize("where", ["load", "parse"])
def test_the_table_covers_both(where):
    """There are cases for each way in."""
    assert len(cases(where)) > 50


@pytest.mark.parametrize("case", cases("load"), ids=lambda case: case.name)
def test_a_bad_file_is_refused(case):
    """A file is refused with exactly the problems of the table, each a single line."""
    found = problems(case, "load")
    assert case.told(found) == []
    assert len(found) == len(case.says)
    assert all("\n" not in str(problem) for problem in found)


@pytest.mark.parametrize("case", cases("parse"), ids=lambda case: case.name)
def test_a_bad_body_is_refused(case):
    """A body from an API server is refused with exactly the problems of the table."""
    found = problems(case, "parse")
    assert case.told(found) == []
    assert len(found) == len(case.says)


def test_a_huge_file_is_refused():
    """A manifest above the limit is refused before it is read as YAML."""
    with pytest.raises(InvalidJobError, match="larger than 100 KiB"):
        load("# " + "x" * SIZE_LIMIT, "big.yaml")


@pytest.mark.slow
def test_a_deep_file_is_refused():
    """Brackets without end are no YAML, rather than a crash."""
    with pytest.raises(InvalidJobError, match=r"deep\.yaml: is not YAML"):
        load("[" * 20_000, "deep.yaml")


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_something_else_than_an_object_is_refused(body):
    """What is no mapping can't be a TuningJob."""
    with pytest.raises(InvalidJobError, match="must be a TuningJob, not"):
        parse(body)


def test_many_parameters_are_refused():
    """65 parameters are one too many, said without listing them."""
    space = {f"p{i}": {"min": 1, "max": 5} for i in range(65)}
    body = cases("parse")[0].body | {"apiVersion": "foretune.io/v1alpha1", "kind": "TuningJob"}
    body["spec"]["space"] = space
    with pytest.raises(InvalidJobError) as caught:
        parse(body)
    assert [str(p) for p in caught.value.problems] == [
        "spec.space: must have 1 to 64 parameters, not 65"
    ]
