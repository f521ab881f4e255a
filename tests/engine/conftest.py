"""Fixtures of the tests that run on every kernel table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine.backends import backend
from tests.parallel import every_processor

from deepwell.engine.backends import native
from deepwell.engine.machine import usable_cpus

ISAS = native.available_isas() if native.is_available() else ["none"]
if "avx512_amx" in ISAS:
    # It has the functions of `avx512_bf16` but for products and attention as tiles, and what it does without tiles `avx512`
    # has too; what is emulated elsewhere, tiles among it, is the processor's own here, to which tests hold the emulation.
    ISAS.remove("avx512_bf16")
    ISAS.remove("avx512_emulated")


@pytest.fixture(autouse=True, scope="session")
def _threads_as_an_engine_takes() -> None:
    """Kernels that a test calls without an engine have the threads that an engine would give them."""
    if native.is_available():
        native.set_threads(usable_cpus())


@pytest.fixture(params=ISAS, scope="module")
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kernel table in turn; the best one again afterwards."""
    backend("native")
    before = native.isa()
    native.set_isa(request.param)
    yield request.param
    native.set_isa(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Both threads of the pool, where the machine may have fewer or more."""
    before = native.threads()
    with every_processor():
        native.set_threads(2)
        yield
        native.set_threads(before)
