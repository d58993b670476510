"""The release that the end-to-end tests use, and what a failed one shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.cluster import Cluster, NotHereError, requirements
from tests.support.images import light_image
from tests.support.installed import Installed, installed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def release(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """The chart on a cluster of this module's own, with the module's VALUES and all processes ready."""
    values = getattr(request.module, "VALUES", {})
    try:
        requirements()  # before an image is built for nothing
        image = light_image()
        with installed(tmp_path_factory.mktemp("e2e"), image, values) as found:
            yield found
    except NotHereError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def cluster(release: Installed) -> Cluster:
    """Part of each test's report when it fails; see `tests/conftest.py`."""
    return release.cluster
