"""Limits and usage of images over HTTP: refused before anything is drawn, counted behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.images.test_images import FEW, options

from deepwell.dialogue.text import Codec
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.quota import RateLimits
from deepwell.server.options import LimitsConfig
from deepwell.storage.database import Database


@pytest.fixture(scope="module")
def limited(codec: Codec, e5_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine, folder = FakeEngine(), tmp_path_factory.mktemp("limits")
    service = make_service(
        engine,
        codec,
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        limits=LimitsConfig(rates=RateLimits(images_per_minute=3)),
        **options(folder, e5_path),
    )
    service.limiter.store = LimitTable(clock=lambda: 100.0)  # nothing comes back while the test runs
    running = start(service, engine)
    yield running
    running.stop()


def test_a_minute_has_so_many_images(limited: Live) -> None:
    begin = int(time.time())
    with OpenAI(base_url=f"{limited.url}/v1", api_key="none", max_retries=0) as client:
        same = {"model": "toy-draw", "prompt": "a red apple", "size": "256x256", "extra_body": FEW}
        raw = client.images.with_raw_response.generate(n=2, **same)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert raw.headers["x-ratelimit-limit-images"] == "3"
        assert raw.headers["x-ratelimit-remaining-images"] == "1"
        assert "x-ratelimit-limit-audio-seconds" not in raw.headers
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError, match="3 images a minute") as refused:
                client.images.generate(n=3, stream=stream, **same)  # pyright: ignore[reportArgumentType, reportCallIssue]
            assert int(refused.value.response.headers["retry-after"]) > 0
            assert refused.value.response.headers["x-ratelimit-remaining-images"] == "1"
        usage = client.with_options(admin_api_key="none").admin.organization.usage
        page = usage.images(start_time=begin, group_by=["size", "source", "model"])
        (result,) = page.data[0].results
        assert (result.images, result.num_model_requests) == (2, 1)
        assert (result.size, result.source, result.model) == ("256x256", "image.generation", "toy-draw")
    assert 'deepwell_rate_limited_total{limit="images"} 2.0' in limited.service.metrics.text().decode()
