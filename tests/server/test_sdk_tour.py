"""Every method of the served families through the official SDKs, synchronous and not, streaming and not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell_bench.workloads.tour import take_tour


@pytest.fixture
def roomy(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running
    running.stop()


def test_every_method_answers_as_documented(roomy: Live) -> None:
    done = take_tour(roomy.url, "toy")
    assert done["openai"] == done["async openai"]
    assert done["anthropic"] == done["async anthropic"]
    assert len(done["openai"]) > 40 and len(done["anthropic"]) == 16
