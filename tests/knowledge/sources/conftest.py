"""One PostgreSQL server for the tests of sources that ask databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres import Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as server:
        yield server
