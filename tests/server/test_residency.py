"""Which models are in memory: nothing in use is unloaded, memory is never promised twice, and everybody gets an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deepwell.errors import DeepwellError, InsufficientMemory, UnsupportedModel
from deepwell.server.residency.policy import (
    Grant,
    Load,
    ModelBusy,
    NotLoadedInTime,
    Order,
    Refuse,
    Residency,
    TooManyLoads,
    Unload,
    Waiter,
)

SIZES = {"a": 40, "b": 50, "c": 30, "d": 60, "e": 20}
ROOM = 100
PATIENCE = 2.0


def waiter(
    name: str, number: int = 1, *, holder: str = "h", tenant: str = "t", deadline: float = math.inf
) -> Waiter:
    return Waiter(holder, number, name, tenant, deadline)


def kinds(orders: Sequence[Order]) -> list[str]:
    return [
        f"{type(one).__name__} {one.name if isinstance(one, Load | Unload) else one.waiter.name}"
        for one in orders
    ]


class Machine(RuleBasedStateMachine):
    """Holders ask, leave and disappear at random, while loads and unloads take a while and sometimes fail."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Residency(ROOM, keep_alive_s=20, patience_s=PATIENCE)
        self.now = 0.0
        self.numbers = 0
        self.waiting: dict[int, Waiter] = {}
        self.held: set[tuple[str, str]] = set()  # (holder, model)
        self.loading: set[str] = set()
        self.ready: set[str] = set()
        self.unloading: set[str] = set()

    def obey(self, orders: Sequence[Order]) -> None:
        for order in orders:
            if isinstance(order, Load):
                assert order.name not in self.loading | self.ready | self.unloading
                self.loading.add(order.name)
            elif isinstance(order, Unload):
                assert order.name in self.ready
                assert not any(name == order.name for _, name in self.held), "a model in use is unloaded"
                self.ready.remove(order.name)
                self.unloading.add(order.name)
            elif isinstance(order, Grant):
                assert order.waiter.name in self.ready
                del self.waiting[order.waiter.number]
                self.held.add((str(order.waiter.holder), order.waiter.name))
            else:
                del self.waiting[order.waiter.number]

    @rule(holder=st.sampled_from("xyz"), name=st.sampled_from(sorted(SIZES)), patience=st.integers(1, 60))
    def acquire(self, holder: str, name: str, patience: int) -> None:
        self.numbers += 1
        one = Waiter(holder, self.numbers, name, "t", self.now + patience)
        self.waiting[one.number] = one
        self.obey(self.policy.acquire(one, SIZES[name], self.now))

    @rule(holder=st.sampled_from("xyz"), name=st.sampled_from(sorted(SIZES)))
    def release(self, holder: str, name: str) -> None:
        self.held.discard((holder, name))
        self.forget(holder, name)
        self.obey(self.policy.release(holder, name, self.now))

    @rule(holder=st.sampled_from("xyz"))
    def drop(self, holder: str) -> None:
        self.held = {one for one in self.held if one[0] != holder}
        for name in SIZES:
            self.forget(holder, name)
        self.obey(self.policy.drop(holder, self.now))

    def forget(self, holder: str, name: str) -> None:
        self.waiting = {
            number: one for number, one in self.waiting.items() if (one.holder, one.name) != (holder, name)
        }

    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def load_ends(self, data: st.DataObject, fails: bool) -> None:
        if not self.loading:
            return
        name = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(name)
        if fails:
            self.obey(self.policy.failed(name, UnsupportedModel("no"), self.now))
        else:
            self.ready.add(name)
            self.obey(self.policy.loaded(name, self.now))

    @rule(data=st.data())
    def unload_ends(self, data: st.DataObject) -> None:
        if self.unloading:
            name = data.draw(st.sampled_from(sorted(self.unloading)))
            self.unloading.remove(name)
            self.obey(self.policy.unloaded(name, self.now))

    @rule(seconds=st.floats(0.1, 10))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.policy.tick(self.now))
        assert all(one.deadline > self.now for one in self.waiting.values())
        assert self.policy.next_tick(self.now) >= self.now

    @rule(name=st.sampled_from(sorted(SIZES)))
    def unload(self, name: str) -> None:
        try:
            self.obey(self.policy.unload(name, self.now))
        except ModelBusy:
            assert name in self.loading or any(held == name for _, held in self.held) or self.waiting

    @invariant()
    def memory_is_promised_once(self) -> None:
        present = self.loading | self.ready | self.unloading
        assert sum(SIZES[name] for name in present) == self.policy.used_bytes <= ROOM

    def teardown(self) -> None:
        """Nothing hangs: once all leases end, everybody who waits gets a lease or a refusal."""
        for _ in range(200):
            if not self.waiting:
                break
            for holder, name in sorted(self.held):
                self.release(holder, name)
            for name in sorted(self.loading):
                self.loading.remove(name)
                self.ready.add(name)
                self.obey(self.policy.loaded(name, self.now))
            for name in sorted(self.unloading):
                self.unloading.remove(name)
                self.obey(self.policy.unloaded(name, self.now))
            moment = self.policy.next_tick(self.now)
            assert self.loading or self.unloading or self.held or not self.waiting or moment < math.inf
            if math.isfinite(moment) and not (self.loading or self.unloading or self.held):
                self.now = moment
                self.obey(self.policy.tick(self.now))
        assert not self.waiting


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@given(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=500))
@settings(max_examples=25, deadline=None)
def test_requests_for_five_models_in_room_for_two_are_all_served_in_order(names: list[str]) -> None:
    policy = Residency(ROOM, patience_s=PATIENCE)
    granted: list[str] = []
    for number, name in enumerate(names):
        orders = list(policy.acquire(waiter(name, number), SIZES[name], float(number)))
        while orders:
            order = orders.pop(0)
            if isinstance(order, Load):
                orders += policy.loaded(order.name, float(number))
            elif isinstance(order, Unload):
                orders += policy.unloaded(order.name, float(number))
            elif isinstance(order, Grant):
                granted.append(order.waiter.name)
                orders += policy.release("h", order.waiter.name, float(number))
            assert not isinstance(order, Refuse)
    assert granted == names


def test_concurrent_requests_share_one_load() -> None:
    policy = Residency(ROOM)
    assert kinds(policy.acquire(waiter("a", 1, holder="x"), 40, 0.0)) == ["Load a"]
    assert policy.acquire(waiter("a", 2, holder="y"), 40, 0.1) == []
    assert kinds(policy.loaded("a", 1.0)) == ["Grant a", "Grant a"]


def test_the_least_recently_used_idle_model_makes_room() -> None:
    policy = Residency(ROOM)
    for moment, name in enumerate("ab"):
        policy.acquire(waiter(name), SIZES[name], moment)
        policy.loaded(name, moment)
        policy.release("h", name, moment)
    policy.acquire(waiter("a"), 40, 5.0)
    policy.release("h", "a", 6.0)
    assert kinds(policy.acquire(waiter("c"), 30, 7.0)) == ["Unload b"]
    assert kinds(policy.unloaded("b", 7.5)) == ["Load c"]


def test_a_busy_model_gives_way_after_a_while_and_only_when_its_streams_have_ended() -> None:
    policy = Residency(ROOM, patience_s=PATIENCE)
    policy.acquire(waiter("d", holder="x"), 60, 0.0)
    policy.loaded("d", 0.0)
    assert policy.acquire(waiter("b", holder="y"), 50, 1.0) == []
    assert policy.next_tick(1.0) == 1.0 + PATIENCE
    assert kinds(policy.acquire(waiter("d", 2, holder="z"), 60, 2.0)) == ["Grant d"]  # not yet
    assert policy.tick(3.0) == []
    assert policy.acquire(waiter("d", 3, holder="w"), 60, 3.5) == []  # from here on it gives way
    assert policy.release("z", "d", 4.0) == []
    assert kinds(policy.release("x", "d", 5.0)) == ["Unload d"]
    assert kinds(policy.unloaded("d", 5.5)) == ["Load b"]
    assert kinds(policy.loaded("b", 6.0)) == ["Grant b"]
    assert kinds(policy.release("y", "b", 7.0)) == ["Unload b"]  # for who waits for the other one
    assert kinds(policy.unloaded("b", 7.5)) == ["Load d"]


def test_who_waits_in_vain_is_told_what_holds_the_memory() -> None:
    policy = Residency(ROOM)
    policy.acquire(waiter("d", holder="x"), 60, 0.0)
    policy.loaded("d", 0.0)
    policy.acquire(waiter("b", holder="y", deadline=9.0), 50, 1.0)
    (refused,) = policy.tick(9.0)
    assert isinstance(refused, Refuse) and isinstance(refused.error, NotLoadedInTime)
    assert "'d' 60" in str(refused.error) or "'d' 0 MB, in use" in str(refused.error)
    assert refused.error.retry_after
    assert refused.error.status == 503


def test_a_model_larger_than_the_room_is_refused_at_once() -> None:
    (refused,) = Residency(ROOM).acquire(waiter("huge"), 101, 0.0)
    assert isinstance(refused, Refuse) and isinstance(refused.error, InsufficientMemory)


def test_a_tenant_causes_a_limited_number_of_loads() -> None:
    policy = Residency(ROOM, loads_per_minute=2)
    errors: list[DeepwellError] = []
    for moment, name in enumerate("abc"):
        for order in policy.acquire(waiter(name, moment, tenant="noisy"), 20, moment):
            if isinstance(order, Load):
                policy.loaded(order.name, moment)
                policy.release("h", order.name, moment)
            elif isinstance(order, Refuse):
                errors.append(order.error)
    (error,) = errors
    assert isinstance(error, TooManyLoads) and error.retry_after == 58
    assert kinds(policy.acquire(waiter("a", 9, tenant="noisy"), 20, 3.0)) == ["Grant a"]  # it is there
    assert kinds(policy.acquire(waiter("c", 9, tenant="quiet"), 20, 3.0)) == ["Load c"]
    assert kinds(policy.acquire(waiter("d", 10, tenant="noisy"), 20, 60.5)) == ["Load d"]


def test_an_idle_model_goes_after_its_keep_alive_and_one_in_use_stays() -> None:
    policy = Residency(ROOM, keep_alive_s=10)
    for name in "ab":
        policy.acquire(waiter(name), SIZES[name], 0.0)
        policy.loaded(name, 0.0)
    policy.release("h", "a", 1.0)
    assert policy.next_tick(1.0) == 11.0
    assert kinds(policy.tick(11.0)) == ["Unload a"]
    assert [one.name for one in policy.residents(11.0) if one.state == "ready"] == ["b"]


def test_only_idle_models_are_unloaded_on_demand() -> None:
    policy = Residency(ROOM)
    policy.acquire(waiter("a"), 40, 0.0)
    with pytest.raises(ModelBusy, match="loaded"):
        policy.unload("a", 0.0)
    policy.loaded("a", 0.0)
    with pytest.raises(ModelBusy, match="used"):
        policy.unload("a", 0.0)
    policy.release("h", "a", 1.0)
    assert kinds(policy.unload("a", 1.0)) == ["Unload a"]
    assert policy.unload("a", 1.0) == [] == policy.unload("unknown", 1.0)
