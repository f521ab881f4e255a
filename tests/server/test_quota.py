"""Limits of a minute: what a bucket gives, what settling gives back, and that processes share a table."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.principal import Principal
from deepwell.server.access.quota import WINDOW_S, Quota, RateLimited, RateLimits, bucket_key, charge, settle
from deepwell.storage.database import Tenant

KEY = bucket_key("tokens", "tenant a")
steps = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 40)), min_size=1, max_size=60)


@given(st.integers(1, 30), steps)
def test_no_window_gives_more_than_two_limits_and_one_request(
    limit: int, plan: list[tuple[float, int]]
) -> None:
    """A full bucket and a minute of refilling; a single request may be larger than the limit, and then owes."""
    now, full_at = 100.0, 0.0
    given_out: list[tuple[float, int]] = []
    for pause, cost in plan:
        now += pause
        full_at, result = charge(full_at, now, limit, cost)
        if result.allowed:
            given_out.append((now, cost))
        assert 0 <= result.remaining <= limit
        assert result.allowed == (result.retry_s == 0)
    largest = max(cost for _, cost in plan)
    for begin, _ in given_out:
        window = sum(cost for when, cost in given_out if begin <= when < begin + WINDOW_S)
        assert window <= 2 * limit + largest


@given(st.integers(1, 1000), steps)
def test_whoever_waits_as_long_as_told_is_let_in(limit: int, plan: list[tuple[float, int]]) -> None:
    now, full_at = 100.0, 0.0
    for pause, cost in plan:
        now += pause
        full_at, result = charge(full_at, now, limit, cost)
        if not result.allowed:
            now += result.retry_s + 1e-6
            full_at, result = charge(full_at, now, limit, cost)
            assert result.allowed


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 1000), st.floats(0, 20))
def test_settling_leaves_what_the_use_alone_would_have(
    limit: int, reserved: int, used: int, took_s: float
) -> None:
    reserved, used = min(reserved, limit), min(used, reserved, limit)
    now = 100.0
    after, result = charge(0.0, now, limit, reserved)
    exact, _ = charge(0.0, now, limit, used)
    settled = settle(after, now + took_s, result.charged_s - used * WINDOW_S / limit)
    assert settled == pytest.approx(max(exact, now + took_s))


def test_a_limit_is_a_full_minute_at_once_and_comes_back_evenly() -> None:
    full_at = 0.0
    for left in (2, 1, 0):
        full_at, result = charge(full_at, 100.0, 3, 1)
        assert result.allowed and result.remaining == left
    full_at, result = charge(full_at, 100.0, 3, 1)
    assert not result.allowed and result.retry_s == pytest.approx(20)
    _, result = charge(full_at, 120.0, 3, 1)
    assert result.allowed and result.reset_s == pytest.approx(60)


@pytest.mark.parametrize("stored", [float("nan"), float("inf"), 1e300, 100.0 + 3600])
def test_nonsense_in_a_bucket_ends_within_two_minutes(stored: float) -> None:
    full_at, _ = charge(stored, 100.0, 10, 1)
    _, result = charge(full_at, 100.0 + 2 * WINDOW_S, 10, 10)
    assert result.allowed


async def test_a_full_table_forgets_the_emptiest_bucket_of_a_set() -> None:
    table = LimitTable(clock=lambda: 100.0)
    keys = [bytes(2) + bytes([number]) * 14 for number in range(1, 10)]  # nine in a set of eight
    for number, key in enumerate(keys):
        await table.charge(key, 60, 10 + number)
    assert (await table.charge(keys[8], 60, 0)).remaining == 60 - 18
    assert (await table.charge(keys[1], 60, 0)).remaining == 60 - 11
    assert (await table.charge(keys[0], 60, 0)).remaining == 60
    table.close()


def _take(path: str, count: int, out: multiprocessing.Queue[int]) -> None:
    table = LimitTable(Path(path))

    async def run() -> int:
        return sum([(await table.charge(KEY, 1000, 1)).allowed for _ in range(count)])

    out.put(asyncio.run(run()))
    table.close()


def test_processes_share_one_limit_to_the_last_unit(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    out = spawn.Queue()
    path = tmp_path / "limits"
    workers = [spawn.Process(target=_take, args=(str(path), 700, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    taken = sum(out.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    # What comes back while they run is allowed too: 1000 a minute, for the seconds that this takes.
    assert 1000 <= taken <= 1200
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_table_of_another_boot_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = LimitTable(tmp_path / "limits", clock=lambda: 100.0)
    await first.charge(KEY, 10, 10)
    again = LimitTable(tmp_path / "limits", clock=lambda: 100.0)
    assert (await again.charge(KEY, 10, 0)).remaining == 0
    monkeypatch.setattr("deepwell.server.access.limit_table._boot", lambda: b"another")
    new = LimitTable(tmp_path / "limits", clock=lambda: 100.0)
    assert (await new.charge(KEY, 10, 0)).remaining == 10


async def test_a_table_that_cannot_be_made_counts_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = LimitTable(tmp_path / "missing" / "limits")
    assert (await table.charge(KEY, 10, 10)).allowed
    assert not (await table.charge(KEY, 10, 10)).allowed
    assert "cannot be used" in caplog.text


async def test_keys_of_a_tenant_share_its_bucket_and_a_limit_of_its_own_is_the_keys() -> None:
    table = LimitTable(clock=lambda: 100.0)
    rates = RateLimits(2, 0)
    for id, allowed in (("1", True), ("2", True), ("3", False)):
        quota = Quota(table, rates, Principal(Tenant("a"), id))
        if allowed:
            await quota.take_request()
        else:
            with pytest.raises(RateLimited) as refused:
                await quota.take_request()
            assert refused.value.retry_after == 30
    await Quota(table, rates, Principal(Tenant("b"), "4")).take_request()
    await Quota(table, rates, Principal(Tenant("a"), "5", requests_per_minute=1)).take_request()
    unlimited = Quota(table, rates, Principal(Tenant("a"), "6", requests_per_minute=0))
    assert not unlimited.limited
    await unlimited.take_request()


async def test_headers_are_openais() -> None:
    table = LimitTable(clock=lambda: 100.0)
    quota = Quota(table, RateLimits(60, 6000), Principal(Tenant("a"), "k"))
    await quota.take_request()
    charged = await quota.reserve(3000)
    assert dict(quota.headers()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"3000",
        b"x-ratelimit-reset-tokens": b"30s",
    }
    await quota.settle(charged, 1000)
    with pytest.raises(RateLimited, match=r"6000 tokens a minute.*5001 asked for, 5000 left: wait 1 s"):
        await quota.reserve(5001)
