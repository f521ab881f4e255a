"""The conformance suite against a running vLLM, which the row `vllm` starts: `DEEPWELL_BENCH_VLLM_URL` names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.engine.conformance import EngineConformance
from tests.needs import VLLM

from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.hosting.remote.probe import open_remote

pytestmark = pytest.mark.needs(VLLM)


class TestConformance(EngineConformance):
    """Whatever vLLM does not lack holds, and what it lacks is refused."""

    @pytest.fixture
    def engine(self) -> Iterator[RemoteEngine]:
        key = SecretStr(os.environ["DEEPWELL_BENCH_VLLM_KEY"])
        options = RemoteOptions(
            RemoteAddress.parse(os.environ["DEEPWELL_BENCH_VLLM_URL"]), key=key, look_s=3600
        )
        with open_remote(options, Path(os.environ["DEEPWELL_BENCH_VLLM_MODEL"])) as engine:
            yield engine
