"""Which connections there may be, which give way, and when a wait ends."""

from __future__ import annotations

import logging
import resource

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deepwell.server.http.connection_table import ConnectionTable, Wait
from deepwell.server.observe.logs import SparseLog
from deepwell.server.options import ConnectionOptions
from deepwell.settings import InvalidSettings

LOCAL = (None, "", "127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3")
CLIENTS = ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "fe80::1%eth0")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A connection."""

    def __init__(self) -> None:
        self.waits: Wait | None = None
        self.flushed = True
        self.ended = ""

    def expire(self, wait: Wait) -> None:
        self.ended = "expired"

    def evict(self) -> None:
        self.ended = "evicted"

    def is_flushed(self) -> bool:
        return self.flushed


def table_of(most: int, clock: Clock, **more: int) -> ConnectionTable:
    options = ConnectionOptions(max_connections=most, trusted_proxies=("10.0.0.0/8",), **more)
    return ConnectionTable(options, clock=clock)


class Machine(RuleBasedStateMachine):
    """Connections come, wait, are answered and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = table_of(6, self.clock)
        self.open: list[Peer] = []

    @rule(address=st.sampled_from(LOCAL + CLIENTS))
    def connect(self, address: str | None) -> None:
        before = [(peer, self.may_go(peer)) for peer in self.open]
        if self.table.is_full():
            made = self.table.make_room()
            assert made == any(may for _, may in before)
            if not made:
                return
        peer = Peer()
        if self.table.add(peer, address):
            self.open.append(peer)
        else:
            assert address in CLIENTS
        assert all(may for peer, may in before if peer.ended)
        self.open = [peer for peer in self.open if not peer.ended]

    def may_go(self, peer: Peer) -> bool:
        wait = peer.waits
        return wait is not None and peer.flushed and self.clock.now - wait.since[peer] >= wait.grace_s

    @precondition(lambda self: self.open)
    @rule(data=st.data(), wait=st.sampled_from(("idle", "heads", "draining", "bodies", "lingering", "")))
    def move(self, data: st.DataObject, wait: str) -> None:
        peer = data.draw(st.sampled_from(self.open))
        peer.flushed = data.draw(st.booleans())
        if wait:
            data.draw(st.sampled_from((self.table.begin, self.table.renew)))(peer, getattr(self.table, wait))
        else:
            self.table.end(peer)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(self.open))
        self.open.remove(peer)
        self.table.discard(peer)
        self.table.discard(peer)

    @rule(seconds=st.sampled_from((0.0, 0.01, 0.06, 1.0, 6.0, 31.0)))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        waiting = {peer: (peer.waits, peer.waits.since[peer]) for peer in self.open if peer.waits is not None}
        self.table.sweep()
        for peer, (wait, since) in waiting.items():
            assert (peer.ended == "expired") == (self.clock.now - since >= wait.limit_s)
            if peer.ended:
                self.table.discard(peer)
        self.open = [peer for peer in self.open if not peer.ended]

    @invariant()
    def agrees(self) -> None:
        self.table.check_integrity()
        assert len(self.table) == len(self.open) <= 6


TestMachine = Machine.TestCase


def test_the_longest_silence_gives_way_and_what_is_being_answered_never_does() -> None:
    clock = Clock()
    table = table_of(4, clock)
    body, used, silent, answered = peers = [Peer() for _ in range(4)]
    for peer in peers:
        assert table.add(peer, None)
    table.begin(body, table.bodies)
    table.begin(used, table.idle)
    table.end(answered)
    assert table.is_full() and not table.make_room()  # nobody has had time to say anything
    clock.now = 1.0
    late = Peer()
    assert table.make_room() and silent.ended
    assert table.add(late, None)
    table.begin(late, table.heads)
    clock.now = 2.0
    assert table.make_room() and late.ended
    assert table.make_room() and used.ended
    assert not table.make_room()  # a body may come slowly
    clock.now = 10.0
    assert table.make_room() and body.ended
    assert not table.make_room() and not answered.ended


def test_one_address_has_half_of_the_connections_and_proxies_have_all() -> None:
    clock = Clock()
    table = table_of(8, clock)
    first = [Peer() for _ in range(4)]
    for peer in first:
        assert table.add(peer, "2001:db8::1")
        table.end(peer)
    assert not table.add(Peer(), "2001:db8::ffff")  # of the same network
    table.begin(first[2], table.idle)
    clock.now = 1.0
    assert table.add(Peer(), "2001:db8::ffff") and first[2].ended
    for peer in [Peer() for _ in range(4)]:
        assert table.add(peer, "10.1.2.3")
    assert not table_of(8, clock, max_connections_per_address=1).is_full()
    single = table_of(8, clock, max_connections_per_address=1)
    assert single.add(Peer(), "192.0.2.1") and not single.add(Peer(), "::ffff:192.0.2.1")


def test_open_files_bound_the_connections() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < ConnectionOptions().most() < soft
    with pytest.raises(InvalidSettings) as error:
        ConnectionOptions(max_connections=soft).most()
    assert "ulimit -n" in error.value.fix


def test_a_log_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = SparseLog(logging.getLogger("sparse"), clock)
    for _ in range(1000):
        log.warning("full: %d", 7)
        clock.now += 0.1
    assert caplog.messages == ["full: 7", "full: 7 (and 599 times since the last such line)"]
